"""What this GPU's memory can do at random addresses, and what a launch costs."""

import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import Row
from on_gpu.sizes import Sizes
from on_gpu.timing import captured, seconds, seconds_alone

from kvgpu.device.tensors import resolve_device

LINE = 64
THREADS = 256
BLOCKS_PER_PROCESSOR = 8
KERNELS = {"read": ("read_1_4", "read_1_8", "read_4_4", "read_4_8"), "swap": ("swap_lines",)}
"""Of ceilings.cu; of several the fastest counts. read: lanes of a line, lines in flight."""
ROUNDS = 3


@cache
def _module() -> Any:
    import cupy

    code = Path(__file__).with_name("ceilings.cu").read_text()
    return cupy.RawModule(code=code, options=("-std=c++17",))


def _launch(kernel: str, blocks: int, arguments: tuple[Any, ...]) -> None:
    from kvgpu.kernels.cuda_engine import TorchStream

    with TorchStream().in_cupy():
        _module().get_function(kernel)((blocks,), (THREADS,), arguments)


@cache
def seconds_of_kernels(kind: str, nbytes: int, accesses: int) -> dict[str, float]:
    """Seconds per random line of so many bytes, by kernel. kind: of `KERNELS`."""
    lines = max(1, nbytes // LINE)
    device = resolve_device()
    table = torch.zeros(lines * 8, dtype=torch.int64, device=device)
    sink = torch.zeros(1, dtype=torch.int64, device=device)
    blocks = BLOCKS_PER_PROCESSOR * torch.cuda.get_device_properties(0).multi_processor_count
    arguments = (np.uint64(table.data_ptr()), np.uint64(lines), np.uint64(accesses), np.uint64(sink.data_ptr()))
    return {
        kernel: seconds(lambda kernel=kernel: _launch(kernel, blocks, arguments), ROUNDS)[1] / accesses
        for kernel in KERNELS[kind]
    }


def ceiling(kind: str, nbytes: int, sizes: Sizes) -> float | None:
    """Seconds per random line of a table of so many bytes, by the fastest kernel; None where CuPy does not work."""
    try:
        return min(seconds_of_kernels(kind, nbytes, sizes.accesses).values())
    except Exception as error:  # a figure without its ceiling is better than none
        print(f"no ceiling is known: {type(error).__name__}: {error}", file=sys.stderr)
        return None


def ceilings(sizes: Sizes) -> Iterator[Row]:
    """Random lines by kernel, and the launch of an empty kernel, eager and as a graph."""
    _module()

    def nothing() -> None:
        _launch("nothing", 1, ())

    nothing()
    for way, run in {"eager": nothing, "as a graph": captured(nothing)}.items():
        for how, measured in (("in a row", seconds), ("from idle", seconds_alone)):
            low, middle, high = measured(run, sizes.rounds) * 1e6
            yield Row("launch of an empty kernel", f"{way}, {how}", "us", middle, low=low, high=high)
    for nbytes in sizes.working_sets:
        for kind in KERNELS:
            for kernel, value in seconds_of_kernels(kind, nbytes, sizes.accesses).items():
                yield Row("random lines", f"{kernel}, {nbytes >> 20:,} MiB", "ns/line", value * 1e9)
