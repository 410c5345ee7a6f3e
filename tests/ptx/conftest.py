"""Tests of compiled kernels are collected where kernels are compiled: `pytest --kernels compiled`."""

COMPILED_ONLY = ("test_contended.py", "test_planted_faults.py", "test_graphs.py", "test_compilations.py")


def pytest_ignore_collect(collection_path, config):
    return True if collection_path.name in COMPILED_ONLY and config.getoption("--kernels") != "compiled" else None
