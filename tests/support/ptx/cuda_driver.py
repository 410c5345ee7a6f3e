"""CuPy for kernels that nvcc compiles to PTX and the CPU runs; threads of a warp go their own ways."""

import hashlib
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from support.device import launches
from support.device.cuda_on_cpu import cupy_with
from support.ptx.kernel import BUILT, Kernel

NVCC = shutil.which("nvcc")


def ptx_of(code: str, options: tuple[str, ...]) -> str:
    """What nvcc makes of CUDA C++; the same code is compiled once."""
    assert NVCC is not None
    folders = [Path(option.removeprefix("-I")) for option in options if option.startswith("-I")]
    headers = [path.read_text() for folder in folders for path in sorted(folder.glob("*.cuh"))]
    name = hashlib.sha256("\0".join([NVCC, code, *options, *headers]).encode()).hexdigest()[:24]
    kept = BUILT / f"{name}.ptx"
    if not kept.exists():
        BUILT.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=BUILT) as folder:
            source = Path(folder, "source.cu")
            source.write_text(code)
            made = source.with_suffix(".ptx")
            subprocess.run(
                [NVCC, *options, "-arch=sm_90", "-lineinfo", "-ptx", str(source), "-o", str(made)], check=True
            )
            made.replace(kept)
    return kept.read_text()


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
            launches.start(lambda: kernel.launch(parameters, grid, block), name)

        return launch


def stand_in() -> ModuleType | None:
    """A module to be found as `cupy`, or None where there is no nvcc."""
    return None if NVCC is None else cupy_with(RawModule)
