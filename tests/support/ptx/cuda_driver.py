"""CuPy for kernels that nvcc compiles to PTX and the CPU runs; threads of a warp go their own ways."""

import shutil
import subprocess
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from support.device.cuda_on_cpu import cupy_with
from support.ptx.kernel import Kernel
from support.ptx.triton_driver import start

NVCC = shutil.which("nvcc")


def ptx_of(code: str, options: tuple[str, ...]) -> str:
    """What nvcc makes of CUDA C++."""
    assert NVCC is not None
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "source.cu")
        source.write_text(code)
        result = source.with_suffix(".ptx")
        subprocess.run([NVCC, *options, "-arch=sm_90", "-lineinfo", "-ptx", str(source), "-o", str(result)], check=True)
        return result.read_text()


def _as_parameter(value: Any) -> int | bytes:
    return value.tobytes() if isinstance(value, np.ndarray) else int(value)


class RawModule:
    """`cupy.RawModule`."""

    def __init__(self, code: str, options: tuple[str, ...]) -> None:
        self._ptx = ptx_of(code, options)
        self._kernels: dict[str, Kernel] = {}

    def get_function(self, name: str) -> Any:
        """A launcher: called with grid, block and arguments."""
        kernel = self._kernels.get(name)
        if kernel is None:
            kernel = self._kernels[name] = Kernel(self._ptx, name)

        def launch(grid: tuple[int, ...], block: tuple[int, ...], arguments: tuple[Any, ...]) -> None:
            parameters = kernel.packed([_as_parameter(value) for value in arguments])
            start(lambda: kernel.launch(parameters, grid, block))

        return launch


def stand_in() -> ModuleType | None:
    """A module to be found as `cupy`, or None where there is no nvcc."""
    return None if NVCC is None else cupy_with(RawModule)
