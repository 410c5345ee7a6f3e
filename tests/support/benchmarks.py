"""The benchmarks, and options with which each runs small."""

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
    "steps": ["--requests", "6", "--rounds", "1", "--most", "1", "--age", "64"],
    "table": ["--most", "2000", "--rounds", "1"],
}

SMALL_IN_VLLM = {"vllm_calls": ["--most", "32", "--rounds", "1"], "vllm_steps": ["--most", "32", "--rounds", "1"]}
"""Those that need vLLM."""
