"""Ahead-of-time compilation: the list of kernels is complete, and one of each kind compiles."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import support.device.tables  # noqa: F401 - skips where Triton is missing

from kvgpu.kernels import aot

KERNELS = Path(aot.__file__).parent


def test_every_kernel_is_compiled():
    defined = set()
    for path in KERNELS.glob("*.py"):
        if "_kernel(" in path.read_text():
            module = importlib.import_module(f"kvgpu.kernels.{path.stem}")
            defined |= {name for name in vars(module) if name.endswith("_kernel")}
    compiled = {kernel.fn.__name__ for _, kernel, _, _ in aot.variants()}
    assert defined == compiled


def test_kernels_compile_without_a_gpu_and_spill_nothing():
    """In a process of its own, because the interpreter is chosen when kernels are defined."""
    import os

    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-m", "kvgpu.kernels.aot", "--targets", "90", "--json", "-"],
        capture_output=True,
        text=True,
        env=environment,
        cwd=KERNELS.parent.parent,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads(done.stdout)
    assert {row["kernel"] for row in rows} == {name for name, _, _, _ in aot.variants()}
    assert all(row["spill_bytes"] == 0 and row["registers"] > 0 for row in rows)
