"""A Triton driver whose GPU is the CPU: kernels are compiled for sm_90, and their PTX runs on tensors in memory.

`install()` before a kernel is launched, and without TRITON_INTERPRET. `launches.capture()` stands for the capture of a
CUDA graph: what is launched inside is noted, and runs when the graph is replayed.
"""

from types import SimpleNamespace
from typing import Any

import torch
import triton
from support.device import launches
from support.ptx.kernel import Kernel
from triton.backends.compiler import GPUTarget
from triton.compiler.compiler import CompiledKernel
from triton.runtime.driver import driver

from kvgpu.device import tensors
from kvgpu.errors import DeviceError

WARP = 32
PROPERTIES = {"max_shared_mem": 232448, "multiprocessor_count": 2, "max_num_regs": 65536, "warpSize": WARP}


_compiled: dict[int, Any] = {}
"""Sources -> what Triton has compiled of them."""


def compilations() -> int:
    """How many kernels Triton has compiled, or loaded from where it keeps them, since `install`."""
    return len(_compiled)


class Launcher:
    """Calls one compiled kernel."""

    def __init__(self, source: Any, metadata: Any) -> None:
        self._source, self._metadata = source, metadata
        self._is_passed = [kind != "constexpr" for kind in source.signature.values()]
        self._kernel: Kernel | None = None

    def __call__(self, x: int, y: int, z: int, *rest: Any) -> None:
        # stream, function, packed metadata, launch metadata, two hooks, and all arguments of the kernel
        arguments = rest[-len(self._is_passed) :]
        if self._kernel is None:
            self._kernel = Kernel(_compiled[id(self._source)].asm["ptx"])
        kernel = self._kernel
        passed = [value for value, is_passed in zip(arguments, self._is_passed, strict=True) if is_passed]
        values = [value.data_ptr() if isinstance(value, torch.Tensor) else int(value) for value in passed]
        threads, shared = WARP * self._metadata.num_warps, self._metadata.shared
        parameters = kernel.packed(values)

        def launch(owned: Any = passed) -> None:  # a graph keeps its tensors
            kernel.launch(parameters, (x, y, z), (threads,), shared)

        launches.start(launch, self._source.fn.__name__)


class CpuDriver:
    """What Triton asks of a driver."""

    def __init__(self) -> None:
        self.utils = SimpleNamespace(
            load_binary=lambda name, binary, shared, device: (1, 1, 32, 0, 1024),
            get_device_properties=lambda device: dict(PROPERTIES),
        )
        self.launcher_cls = Launcher

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, WARP)

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")


def _resolve_device(device: Any = None) -> torch.device:
    """`tensors.resolve_device`, where kernels run on tensors in memory."""
    try:
        kind = "cpu" if device is None else torch.device(device).type
    except (RuntimeError, TypeError) as error:
        raise DeviceError(f"{device!r} is no device: {error}") from None
    if kind != "cpu":
        raise DeviceError(f"compiled kernels run on the CPU here, not on {device}")
    return torch.device("cpu")


def install() -> None:
    """Let Triton use this driver, and kvgpu the CPU."""
    assert not triton.knobs.runtime.interpret, "the interpreter runs no compiled kernels"
    driver.set_active(CpuDriver())
    made = CompiledKernel.__init__

    def noted(self: Any, source: Any, *arguments: Any, **options: Any) -> None:
        made(self, source, *arguments, **options)
        _compiled[id(source)] = self

    CompiledKernel.__init__ = noted
    tensors.resolve_device = _resolve_device
    tensors.is_capturing = lambda device: launches.is_capturing()
