"""The CUDA counterparts of the Triton kernels, compiled and launched through CuPy on torch's memory and stream."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from kvgpu import layout
from kvgpu.errors import DeviceError, MissingPackageError
from kvgpu.kernels.view import TableView
from kvgpu.rules import plan_words

SOURCES = Path(__file__).resolve().parent / "cuda"
THREADS = 128

DEFINED = {
    layout: (
        "BUCKET_WORDS",
        "SLOTS_PER_BUCKET",
        "OVERFLOW_WORD",
        "OVERFLOW_COUNTERS",
        "OVERFLOW_BITS",
        "OVERFLOW_FULL",
        "OVERFLOW_SHIFT",
        "EMPTY_WORD",
        "TAG_SHIFT",
        "SEED_STEP",
        "SEED_MIX_1",
        "SEED_MIX_2",
        "FACTOR_LOW",
        "FACTOR_HIGH",
        "META_SIZE",
        "META_STATUS",
        "META_GATE",
        "MAX_TOKENS",
        "STATUS_BAD_BLOCK_ID",
        "STATUS_BAD_GROUP",
        "STATUS_BAD_OFFSETS",
        "STATUS_TABLE_FULL",
        "STATUS_WORD_NOT_FOUND",
    ),
    plan_words: (
        "PLAN_HEADER",
        "PLAN_NUM_QUERIES",
        "QUERY_WORDS",
        "QUERY_BLOCK_SIZE",
        "QUERY_DROP",
        "QUERY_STEP",
        "QUERY_STRIDE",
        "QUERY_FIRST_LINE",
        "QUERY_NUM_LINES",
    ),
}
"""Names of the constants that the CUDA sources use, by the module that defines them."""


def defines() -> list[str]:
    """Return the constants in `DEFINED` as options of a C++ compiler."""
    return [f"-DKVGPU_{name}={getattr(module, name)}LL" for module, names in DEFINED.items() for name in names]


@cache
def _module(name: str) -> Any:
    import cupy

    options = ("-std=c++17", f"-I{SOURCES}", *defines())
    return cupy.RawModule(code=(SOURCES / f"{name}.cu").read_text(), options=options)


def pointer(tensor: Any) -> np.uint64:
    """Return the address of a tensor as an argument of a kernel."""
    return np.uint64(tensor.data_ptr())


class TorchStream:
    """torch's current stream, in the form in which CuPy accepts streams of other libraries."""

    def __init__(self) -> None:
        import torch

        self.address: int = torch.cuda.current_stream().cuda_stream

    def __cuda_stream__(self) -> tuple[int, int]:
        """Return the version of the protocol, and the address of the stream."""
        return 0, self.address

    def in_cupy(self) -> Any:
        """Return the stream as a CuPy stream, which is a context manager that makes it current."""
        import cupy

        if hasattr(cupy.cuda.Stream, "from_external"):
            return cupy.cuda.Stream.from_external(self)
        return cupy.cuda.ExternalStream(self.address)  # before CuPy 14, which deprecates it


def launch(file: str, kernel: str, grid: tuple[int, ...], arguments: tuple[Any, ...], threads: int = THREADS) -> None:
    """Start a kernel from a file in `SOURCES` on torch's current stream; the first call compiles it."""
    with TorchStream().in_cupy():
        _module(file).get_function(kernel)(grid, (threads,), arguments)


class CudaEngine:
    """Launches the CUDA kernels: `launch_find`, `launch_update`, `launch_probe` and `launch_leading_run`.

    Raises:
        MissingPackageError: CuPy is not installed.
        DeviceError: CuPy finds no GPU.
    """

    def __init__(self) -> None:
        try:
            import cupy
        except ImportError:
            raise MissingPackageError("CuPy is not installed: pip install 'kvgpu[cuda12]' or 'kvgpu[cuda13]'") from None
        try:
            count = cupy.cuda.runtime.getDeviceCount()
        except cupy.cuda.runtime.CUDARuntimeError as error:
            raise DeviceError(f"CuPy finds no GPU: {error}; choose the backend 'host'") from None
        if count == 0:
            raise DeviceError("CuPy finds no GPU; choose the backend 'host'")

    def launch_find(self, table: TableView, keys: Any, groups: Any, ids: Any) -> None:
        """Do what `kvgpu.kernels.find.launch_find` does."""
        count = len(keys)
        if count:
            arguments = (
                table.as_struct(),
                pointer(keys),
                pointer(groups),
                np.int32(len(groups) == 1),
                pointer(ids),
                np.int64(count),
            )
            launch("lookup", f"find_{table.key_words}", (-(-count // THREADS),), arguments)

    def launch_update(self, table: TableView, keys: Any, groups: Any, old: Any, new: Any) -> None:
        """Do what `kvgpu.kernels.update.launch_update` does."""
        from kvgpu.kernels.update import phases_of

        count = len(keys)
        if not count:
            return
        grid = (-(-count // THREADS),)
        changes = (pointer(groups), pointer(old), pointer(new), np.int64(count))
        for phases in phases_of(table, count):
            arguments = (table.as_struct(), pointer(keys), *changes, np.int32(phases))
            launch("update", f"update_{table.key_words}", grid, arguments)

    def launch_probe(
        self, table: TableView, plan: Any, keys: Any, begins: Any, ends: Any, hits: Any, longest: int, num_queries: int
    ) -> None:
        """Do what `kvgpu.kernels.longest_prefix.launch_probe` does."""
        from kvgpu.kernels.longest_prefix import programs_of

        at_once = programs_of(len(begins), longest, num_queries, THREADS)
        if at_once and len(begins):
            arguments = (
                table.as_struct(),
                pointer(plan),
                pointer(keys),
                pointer(begins),
                pointer(ends),
                pointer(hits),
                np.int64(len(keys)),
                np.int64(longest),
                np.int32(at_once),
            )
            launch("lookup", f"probe_{table.key_words}", (len(begins) * num_queries * at_once,), arguments)

    def launch_leading_run(
        self, table: TableView, plan: Any, keys: Any, begins: Any, ends: Any, max_lengths: Any, out: Any, longest: int
    ) -> None:
        """Do what `kvgpu.kernels.leading_run.launch_leading_run` does."""
        from kvgpu.kernels.leading_run import TILE

        if len(begins):
            spans = (pointer(begins), pointer(ends), pointer(max_lengths))
            results = (pointer(out.num_tokens), pointer(out.firsts), pointer(out.lengths))
            arguments = (
                table.as_struct(),
                pointer(plan),
                pointer(keys),
                *spans,
                *results,
                np.uint64(0) if out.ids is None else pointer(out.ids),
                np.int64(len(keys)),
                np.int64(longest),
            )
            launch("lookup", f"leading_run_{table.key_words}", (len(begins),), arguments, TILE)
