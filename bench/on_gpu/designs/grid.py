"""How designs are launched: a grid of so many programs, or of as many as the GPU runs at once."""

from typing import Any

import torch

from kvgpu.kernels.view import TableView

REHEARSED = 2
"""Processors of the GPU that a rehearsal does not have."""


def processors() -> int:
    """Streaming multiprocessors of the current GPU."""
    if not torch.cuda.is_available():
        return REHEARSED
    return int(torch.cuda.get_device_properties(0).multi_processor_count)


def launch(kernel: Any, programs: int, block: int, table: TableView, keys: Any, groups: Any, ids: Any) -> None:
    """Start a kernel that takes what `kvgpu.kernels.find.find_kernel` takes; each program is one warp.

    Args:
        kernel: The kernel.
        programs: Of the grid; without any nothing is launched.
        block: Keys of a program.
        table, keys, groups, ids: As `kvgpu.kernels.find.launch_find` takes them.
    """
    if programs:
        kernel[(programs,)](
            table.words,
            table.records,
            keys,
            groups,
            ids,
            len(keys),
            int(len(groups) == 1),
            table.num_buckets,
            table.seed,
            KEY_WORDS=table.key_words,
            BLOCK=block,
            num_warps=1,
        )
