"""`Installation`: the packages, GPUs and directories that are found, even if some are missing or broken."""

import ctypes
import os
import platform
import sys
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from kvgpu import __version__
from kvgpu.environment import cache_dir

PACKAGES = ("numpy", "numba", "torch", "triton", "cupy")


def one_line(error: BaseException) -> str:
    """Format an error as one line, with its type unless it is one of kvgpu's."""
    text = " ".join(str(error).split())
    if type(error).__module__ == "kvgpu.errors":
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


@dataclass(frozen=True)
class Gpu:
    """A GPU as PyTorch sees it."""

    name: str
    memory_bytes: int
    compute_capability: str


@dataclass(frozen=True)
class CacheDirectory:
    """Where compiled code is stored. problem: why it is not the configured directory, or not writable."""

    path: str
    writable: bool
    problem: str | None = None


@dataclass(frozen=True)
class Installation:
    """What a self-test runs on.

    packages: version of each package, or None if it is missing or broken. broken: why an installed package cannot be
    imported. gpu_problem: why PyTorch sees no GPU. interpreter: whether Triton's interpreter is on.
    """

    kvgpu: str
    python: str
    platform: str
    packages: dict[str, str | None]
    broken: dict[str, str]
    driver: str | None
    driver_cuda: str | None
    gpus: list[Gpu]
    gpu_problem: str | None
    interpreter: bool
    compiled_code: CacheDirectory
    triton_code: CacheDirectory | None

    @classmethod
    def found(cls) -> "Installation":
        """Look up what is installed now. Imports every package; does not wait for a device."""
        packages, broken = _packages()
        gpus, gpu_problem = _gpus(packages, broken)
        # Triton before 3.4 has no `knobs`.
        knobs = getattr(import_module("triton"), "knobs", None) if packages["triton"] else None
        return cls(
            kvgpu=__version__,
            python=f"{platform.python_version()} ({sys.executable})",
            platform=platform.platform(),
            packages=packages,
            broken=broken,
            driver=_driver(),
            driver_cuda=_driver_cuda(),
            gpus=gpus,
            gpu_problem=gpu_problem,
            interpreter=knobs is not None and bool(knobs.runtime.interpret),
            compiled_code=_compiled_code(),
            triton_code=None if knobs is None else _directory(Path(knobs.cache.dir)),
        )


def _packages() -> tuple[dict[str, str | None], dict[str, str]]:
    versions: dict[str, str | None] = {}
    broken = {}
    for name in PACKAGES:
        versions[name] = None
        try:
            versions[name] = str(getattr(import_module(name), "__version__", "unknown"))
        except ModuleNotFoundError as error:
            if error.name != name:
                broken[name] = one_line(error)
        except Exception as error:  # for example a library that cannot be loaded, or the wrong version of numpy
            broken[name] = one_line(error)
    return versions, broken


def _gpus(packages: dict[str, str | None], broken: dict[str, str]) -> tuple[list[Gpu], str | None]:
    if packages["torch"] is None:
        return [], f"PyTorch is {'broken' if 'torch' in broken else 'not installed'}"
    torch = import_module("torch")
    if torch.version.cuda is None:
        return [], "this PyTorch is built without CUDA"
    try:
        if not torch.cuda.is_available():
            return [], "PyTorch finds none"
        every = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
        gpus = [Gpu(gpu.name, int(gpu.total_memory), f"{gpu.major}.{gpu.minor}") for gpu in every]
    except Exception as error:
        return [], one_line(error)
    return gpus, None


def _driver() -> str | None:
    """Return the version of the kernel module, or None if there is none."""
    try:
        return Path("/sys/module/nvidia/version").read_text().strip()
    except OSError:
        return None


def _driver_cuda() -> str | None:
    """Return the newest CUDA version that the driver supports, from the driver itself: PyTorch is not needed."""
    version = ctypes.c_int()
    try:
        failed: Any = ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version))
    except (OSError, AttributeError):
        return None
    return None if failed else f"{version.value // 1000}.{version.value % 1000 // 10}"


def _directory(path: Path) -> CacheDirectory:
    """Check the nearest existing directory above a path: the rest is made when something is compiled."""
    there = path
    while not os.path.exists(there) and there != there.parent:
        there = there.parent
    writable = os.path.isdir(there) and os.access(there, os.W_OK)
    return CacheDirectory(str(path), writable, None if writable else f"{there} cannot be written")


def _compiled_code() -> CacheDirectory:
    try:
        from kvgpu.compiled.cache import code_folder
    except Exception as error:
        place = str(cache_dir() or "nowhere")
        return CacheDirectory(place, False, f"nothing can be compiled: {one_line(error)}")
    folder = code_folder()
    if folder.path is None:
        problem = f"{folder.problem}; every process compiles anew"
        return CacheDirectory(str(cache_dir() or "nowhere"), False, problem)
    return _directory(folder.path)
