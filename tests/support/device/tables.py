"""Tables on the device that tests have: a GPU, or the CPU under Triton's interpreter."""

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: no kernel can run")
triton = pytest.importorskip("triton", reason="Triton is not installed: no kernel can run")

from kvgpu.device.block_hash_table import BlockHashTable  # noqa: E402
from kvgpu.device.tensors import resolve_device  # noqa: E402
from kvgpu.errors import KVGPUError  # noqa: E402

try:
    import cbor2  # noqa: F401
except ImportError:
    NO_CBOR2 = True
else:
    NO_CBOR2 = False

needs_cbor2 = pytest.mark.skipif(NO_CBOR2, reason="cbor2 is not installed: CBOR was not hashed")

POISON = -77
"""What buffers hold before a kernel writes them."""

DEVICE = resolve_device()

COMPILED = DEVICE.type == "cpu" and not triton.knobs.runtime.interpret
"""Whether kernels are compiled for a GPU and run on the CPU: `pytest --kernels compiled`."""


def why_not_cuda() -> str | None:
    """Why the CUDA twins cannot run here, or None: on a GPU, else on the CPU, as C++ or as compiled for a GPU."""
    from support.device import cuda_on_cpu

    if DEVICE.type == "cpu" and getattr(sys.modules.get("cupy"), "__name__", "") != cuda_on_cpu.STAND_IN:
        from support.ptx import cuda_driver

        cupy = cuda_driver.stand_in() if COMPILED else cuda_on_cpu.stand_in()
        if cupy is None:
            return f"the CUDA twins were not run: there is neither a GPU nor {'nvcc' if COMPILED else 'g++'}"
        sys.modules["cupy"] = cupy
        torch.cuda.current_stream = lambda: SimpleNamespace(cuda_stream=0)
    try:
        from kvgpu.kernels.cuda_engine import CudaEngine

        CudaEngine()
    except KVGPUError as error:
        return f"the CUDA twins were not run: {error}"
    return None


def _engine(name: str) -> Any:
    reason = why_not_cuda() if name == "cuda" else None
    return pytest.param(name, marks=[pytest.mark.skip(reason=reason)] if reason else [])


every_engine = pytest.mark.parametrize("engine", [_engine("triton"), _engine("cuda")])


def make_table(num_blocks: int, key_bytes: int = 32, **options: Any) -> BlockHashTable:
    """A table whose uninitialised memory is poisoned."""
    table = BlockHashTable(num_blocks, key_bytes, **options)
    table.view.records.fill_(POISON)
    return table


def random_keys(count: int, key_bytes: int = 32, seed: int = 0) -> Any:
    """int64 [count, key_bytes / 8] on the device."""
    rng = np.random.default_rng(seed)
    return to_device(rng.integers(-(2**63), 2**63 - 1, (count, key_bytes // 8)))


def to_device(values: Any, dtype: Any = None) -> Any:
    return torch.as_tensor(np.asarray(values), dtype=dtype).to(DEVICE)


def ids(*values: int) -> Any:
    return to_device(values, torch.int32)


def poisoned(*shape: int, dtype: Any = torch.int32) -> Any:
    return torch.full(shape, POISON, dtype=dtype, device=DEVICE)
