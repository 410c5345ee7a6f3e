"""Triton kernels run on a GPU where PyTorch finds one, else on the CPU: interpreted, or as compiled for a GPU."""

import os
from shutil import which

import pytest
from support.device import packages


def _has_gpu() -> bool:
    try:
        import torch
    except ImportError:
        return False
    return bool(torch.cuda.is_available())


def pytest_addoption(parser):
    parser.addoption(
        "--kernels",
        choices=("interpreted", "compiled"),
        default="interpreted",
        help="without a GPU: run kernels in Triton's interpreter, or what is compiled for sm_90 (tests/support/ptx)",
    )


def pytest_configure(config):
    config.pluginmanager.register(packages.Skips())
    if _has_gpu():
        return
    if config.getoption("--kernels") == "compiled":
        if which("g++") is None:
            raise pytest.UsageError("--kernels compiled needs g++")
        os.environ.pop("TRITON_INTERPRET", None)
        from support.ptx import triton_driver

        triton_driver.install()
    else:
        # Triton looks when a kernel is defined, so before the first import.
        os.environ.setdefault("TRITON_INTERPRET", "1")
