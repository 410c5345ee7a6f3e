"""How large a persistent grid is: so many blocks of threads as the GPU runs at once."""

import torch

REHEARSED = 2
"""Processors of the GPU that a rehearsal does not have."""


def processors() -> int:
    """Streaming multiprocessors of the current GPU."""
    if not torch.cuda.is_available():
        return REHEARSED
    return int(torch.cuda.get_device_properties(0).multi_processor_count)
