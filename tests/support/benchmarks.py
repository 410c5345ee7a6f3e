"""The benchmarks, by their place in bench/, and options with which each runs small."""

import importlib
import sys
from pathlib import Path

BENCH = Path(__file__).resolve().parents[2] / "bench"

SMALL = {
    "calls": ["--requests", "6", "--rounds", "1"],
    "collisions": ["--blocks", "5000"],
    "hashing": ["--requests", "6", "--rounds", "1"],
    "limits": ["--most", "262144", "--rounds", "1"],
    "old_pool": ["--requests", "1000", "--rounds", "1"],
    "pool": ["--blocks", "2000", "--rounds", "1"],
    "policies": ["--requests", "6"],
    "publisher": ["--batches", "300", "--wait", "0.1", "--rounds", "1"],
    "queues": ["--requests", "6", "--rounds", "1", "--most", "1"],
    "replay": ["--requests", "6", "--rounds", "1"],
    "served/evictions": ["--blocks", "90000", "--requests", "160", "--steps", "1", "--rounds", "1"],
    "steps": ["--requests", "6", "--rounds", "1", "--most", "1", "--age", "64"],
    "table": ["--most", "2000", "--rounds", "1"],
}

SMALL_IN_VLLM = {"vllm_calls": ["--most", "32", "--rounds", "1"], "vllm_steps": ["--most", "32", "--rounds", "1"]}
"""Those that need vLLM."""


def bench_module(name):
    """A module of bench/, whose others it imports."""
    sys.path.insert(0, str(BENCH))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(BENCH))
