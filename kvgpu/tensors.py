"""Arguments of device calls: torch tensors, CuPy arrays and all else with DLPack, checked."""

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np

from kvgpu.errors import ArgumentError, ArgumentTypeError, DeviceError, MissingPackageError

if TYPE_CHECKING:
    import torch


def import_torch() -> Any:
    """The module.

    Raises:
        MissingPackageError: It is not installed.
    """
    try:
        import torch
    except ImportError:
        raise MissingPackageError("PyTorch is not installed: pip install 'kvgpu[gpu]'") from None
    return torch


def resolve_device(device: Any = None) -> "torch.device":
    """The device that Triton kernels run on: a GPU, or the CPU under Triton's interpreter.

    Args:
        device: A torch device or its name; None for the one there is.

    Raises:
        DeviceError: There is no GPU and the interpreter is off, or the device is of another kind.
    """
    torch = import_torch()
    try:
        import triton
    except ImportError:
        raise MissingPackageError("Triton is not installed: pip install 'kvgpu[gpu]'") from None
    interpreted = bool(triton.knobs.runtime.interpret)
    if device is None:
        device = "cpu" if interpreted else "cuda"
    device = torch.device(device)
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise DeviceError(
                "no GPU is available to PyTorch: choose the backend 'host', or set "
                "TRITON_INTERPRET=1 before the first import to run the kernels on the CPU"
            )
        index = torch.cuda.current_device() if device.index is None else device.index
        return torch.device("cuda", index)
    if device.type != "cpu" or not interpreted:
        raise DeviceError(
            f"kernels run on a GPU, or on the CPU with TRITON_INTERPRET=1, not on {device}"
        )
    return device


def is_capturing(device: "torch.device") -> bool:
    """Whether what is started on the current stream of a device is noted for a CUDA graph, not run."""
    if device.type != "cuda":
        return False
    torch = import_torch()
    with torch.cuda.device(device):
        return bool(torch.cuda.is_current_stream_capturing())


def as_tensor(
    name: str, value: Any, dtype: "torch.dtype", device: "torch.device", written: bool = False
) -> Any:
    """`value` as a contiguous tensor of this dtype on this device, without a copy.

    numpy arrays are copied to the device, and so refused where they would be `written`; whatever lies
    on another device is refused.

    Raises:
        ArgumentTypeError: Another dtype, or no array.
        ArgumentError: Another device, or not contiguous.
    """
    torch = import_torch()
    if isinstance(value, np.ndarray) and written:
        raise ArgumentTypeError(f"{name}: a tensor on {device} is expected, got a numpy array")
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(value).to(device)
    elif not isinstance(value, torch.Tensor):
        if not hasattr(value, "__dlpack__"):
            raise ArgumentTypeError(
                f"{name}: a torch tensor, a CuPy or numpy array or anything with DLPack is "
                f"expected, got {type(value).__name__}"
            )
        value = torch.from_dlpack(value)
    if value.dtype != dtype:
        raise ArgumentTypeError(f"{name}: dtype {dtype} is expected, got {value.dtype}")
    if value.device != device:
        raise ArgumentError(f"{name}: lies on {value.device}, the table on {device}: move it there")
    if not value.is_contiguous():
        raise ArgumentError(f"{name}: not contiguous; call .contiguous() first")
    return value


def as_vector(
    name: str,
    value: Any,
    length: int | None,
    dtype: "torch.dtype",
    device: "torch.device",
    written: bool = False,
) -> Any:
    """`as_tensor` for one dimension, of a given length unless that is None."""
    value = as_tensor(name, value, dtype, device, written)
    if value.dim() != 1 or (length is not None and len(value) != length):
        raise ArgumentError(f"{name}: shape [{length}] is expected, got {list(value.shape)}")
    return value


def on_stream(stream: Any, device: "torch.device") -> Any:
    """Context in which a stream is current: a torch stream, a CuPy stream, an address, or None for no change.

    Raises:
        ArgumentError: The stream belongs to another device.
    """
    torch = import_torch()
    if device.type != "cuda":
        return nullcontext()
    if stream is None:
        stream = torch.cuda.current_stream(device)
    elif not isinstance(stream, torch.cuda.Stream):
        stream = torch.cuda.ExternalStream(int(getattr(stream, "ptr", stream)), device=device)
    if stream.device != device:
        raise ArgumentError(f"the stream belongs to {stream.device}, the table to {device}")
    return torch.cuda.stream(stream)
