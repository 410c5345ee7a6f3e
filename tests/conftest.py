"""Triton kernels run on a GPU where PyTorch finds one, else in Triton's interpreter on the CPU."""

import os


def _has_gpu() -> bool:
    try:
        import torch
    except ImportError:
        return False
    return bool(torch.cuda.is_available())


if not _has_gpu():
    # Triton looks when a kernel is defined, so before the first import.
    os.environ.setdefault("TRITON_INTERPRET", "1")
