"""Lanes that read together, in CUDA: four a bucket, two or four a record (cooperative.cu)."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from on_gpu.designs.grid import processors

from kvgpu.kernels.cuda_engine import SOURCES, TorchStream, defines, pointer
from kvgpu.kernels.view import TableView

SOURCE = Path(__file__).with_name("cooperative.cu")
THREADS, BLOCKS = 128, 8
"""Of a block, and on a processor: the launch bounds of the kernels."""


def options() -> tuple[str, ...]:
    """What the compiler is told."""
    return "-std=c++17", f"-I{SOURCES}", *defines()


@cache
def _module() -> Any:
    import cupy

    return cupy.RawModule(code=SOURCE.read_text(), options=options())


def launch_find_together(table: TableView, keys: Any, groups: Any, ids: Any) -> None:
    """Do what `kvgpu.kernels.find.launch_find` does."""
    count = len(keys)
    if not count:
        return
    grid = (min(BLOCKS * processors(), -(-count // THREADS)),)
    arguments = (
        table.as_struct(),
        pointer(keys),
        pointer(groups),
        np.int32(len(groups) == 1),
        pointer(ids),
        np.int64(count),
    )
    with TorchStream().in_cupy():
        _module().get_function(f"find_together_{table.key_words}")(grid, (THREADS,), arguments)
