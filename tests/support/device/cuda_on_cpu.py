"""The CUDA twins without a GPU: their sources compiled as C++, launched by a stand-in for CuPy.

A launch runs one thread after the other, so this proves logic and the packing of arguments, never the
absence of races (tests/ptx does that where there is nvcc, tests/kernels/test_races.py for the device functions).
"""

import ctypes
import hashlib
import shutil
import subprocess
import tempfile
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
from support.device import launches

STAND_IN = "cupy on the CPU"
"""Name of the module that is found as `cupy`."""

SHIM = """
struct Place { unsigned x, y, z; };
static Place blockIdx, threadIdx, blockDim;
extern "C" void set_place(unsigned bx, unsigned by, unsigned bz, unsigned tx, unsigned threads) {
    blockIdx = {bx, by, bz};
    threadIdx = {tx, 0, 0};
    blockDim = {threads, 1, 1};
}
#define __global__
#define __device__
#define __shared__ static
#define __forceinline__ inline
"""


class ViewStruct(ctypes.Structure):
    """`kvgpu::TableView`, by value."""

    _fields_ = [
        ("words", ctypes.c_void_p),
        ("records", ctypes.c_void_p),
        ("meta", ctypes.c_void_p),
        ("num_buckets", ctypes.c_longlong),
        ("num_blocks", ctypes.c_longlong),
        ("seed", ctypes.c_longlong),
    ]


def _as_c(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        assert value.size == 1
        return ViewStruct.from_buffer_copy(value.tobytes())
    kinds: dict[type, Any] = {np.uint64: ctypes.c_void_p, np.int64: ctypes.c_longlong, np.int32: ctypes.c_int}
    return kinds[type(value)](int(value))


class RawModule:
    """`cupy.RawModule` for the twins."""

    def __init__(self, code: str, options: tuple[str, ...]) -> None:
        flags = [option for option in options if not option.startswith("-std")]
        name = hashlib.sha256((SHIM + code + str(flags)).encode()).hexdigest()[:16]
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, f"{name}.cpp")
            source.write_text(SHIM + code)
            library = source.with_suffix(".so")
            subprocess.run(
                ["g++", "-std=c++20", "-O1", "-shared", "-fPIC", *flags, str(source), "-o", str(library)], check=True
            )
            self._library = ctypes.CDLL(str(library))

    def get_function(self, name: str) -> Any:
        """A launcher: called with grid, block and arguments."""
        kernel, set_place = self._library[name], self._library["set_place"]

        def launch(grid: tuple[int, ...], block: tuple[int, ...], arguments: tuple[Any, ...]) -> None:
            values = [_as_c(value) for value in arguments]

            def run() -> None:
                for z, y, x in np.ndindex(tuple(reversed((*grid, 1, 1)[:3]))):
                    for thread in range(block[0]):
                        set_place(x, y, z, thread, block[0])
                        kernel(*values)

            launches.start(run, name)

        return launch


def cupy_with(raw_module: type) -> ModuleType:
    """A module to be found as `cupy`, whose kernels are compiled by a stand-in for `RawModule`."""
    cupy = ModuleType(STAND_IN)
    runtime = SimpleNamespace(getDeviceCount=lambda: 1, CUDARuntimeError=RuntimeError)
    cupy.RawModule = raw_module  # type: ignore[attr-defined]
    cupy.cuda = SimpleNamespace(  # type: ignore[attr-defined]
        runtime=runtime, Stream=SimpleNamespace(from_external=lambda stream: nullcontext())
    )
    return cupy


def stand_in() -> ModuleType | None:
    """A module to be found as `cupy`, or None where there is no compiler."""
    return None if shutil.which("g++") is None else cupy_with(RawModule)
