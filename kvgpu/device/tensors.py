"""Arguments of device calls, checked: torch tensors, CuPy arrays and anything else with DLPack; devices and streams."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from kvgpu.errors import ArgumentError, ArgumentTypeError, DeviceError, MissingPackageError
from kvgpu.integers import as_integer

if TYPE_CHECKING:
    import torch


def import_torch() -> Any:
    """Import torch.

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
        device: A torch device or its name; None for the one that there is.

    Raises:
        DeviceError: There is no GPU and the interpreter is off, or the device is of another kind.
        MissingPackageError: Triton is not installed.
    """
    torch = import_torch()
    try:
        import triton
    except ImportError:
        raise MissingPackageError("Triton is not installed: pip install 'kvgpu[gpu]'") from None
    interpreted = bool(triton.knobs.runtime.interpret)
    if device is None:
        device = "cpu" if interpreted else "cuda"
    try:
        device = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise DeviceError(f"{device!r} is no device: {error}") from None
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise DeviceError(
                "no GPU is available to PyTorch: choose the backend 'host', or set "
                "TRITON_INTERPRET=1 before the first import to run the kernels on the CPU"
            )
        index = torch.cuda.current_device() if device.index is None else device.index
        if index >= torch.cuda.device_count():
            raise DeviceError(f"there are {torch.cuda.device_count()} GPUs, but no {device}")
        return torch.device("cuda", index)
    if device.type != "cpu" or not interpreted:
        raise DeviceError(f"kernels run on a GPU, or on the CPU with TRITON_INTERPRET=1, not on {device}")
    return device


def is_capturing(device: "torch.device") -> bool:
    """Whether work on the current stream of a device is recorded in a CUDA graph in place of being run."""
    if device.type != "cuda":
        return False
    torch = import_torch()
    if torch.cuda.current_device() == device.index:  # usually: to switch takes microseconds
        return bool(torch.cuda.is_current_stream_capturing())
    with torch.cuda.device(device):
        return bool(torch.cuda.is_current_stream_capturing())


def stream_of(device: "torch.device") -> Callable[[], int]:
    """What returns the address of a device's current stream at the time; 0 for the default one, and on the CPU."""
    if device.type != "cuda":
        return int
    # What Triton calls before each launch: making a torch.cuda.Stream takes over a microsecond.
    return partial(import_torch()._C._cuda_getCurrentRawStream, device.index)


def _stream_at(address: int, device: "torch.device") -> Any:
    """The stream of a device at an address."""
    cuda = import_torch().cuda
    # An ExternalStream at 0 would be one of torch's own, any of them.
    return cuda.ExternalStream(address, device=device) if address else cuda.default_stream(device)


def wait_for_stream(address: int, device: "torch.device") -> None:
    """Make the current stream of a device wait for what the one at an address was given; does not wait itself."""
    import_torch().cuda.current_stream(device).wait_stream(_stream_at(address, device))


@contextmanager
def allocating(what: str) -> Iterator[None]:
    """Run code that allocates device memory for `what`.

    Raises:
        DeviceError: There is not so much memory.
    """
    try:
        yield
    except RuntimeError as error:
        # torch has no out-of-memory error that all devices share.
        raise DeviceError(f"no memory for {what}: {error}") from error


def _from_numpy(name: str, array: "np.ndarray[Any, Any]", device: "torch.device") -> Any:
    """Copy a numpy array to a device; on the CPU use the array itself, if it is writeable."""
    torch = import_torch()
    if is_capturing(device):
        raise ArgumentError(f"{name}: a numpy array cannot be copied in a capture; give a tensor")
    if not array.flags.c_contiguous:
        raise ArgumentError(f"{name}: not contiguous; call numpy.ascontiguousarray() first")
    try:
        return torch.from_numpy(array if array.flags.writeable else array.copy()).to(device)
    except (TypeError, ValueError) as error:
        raise ArgumentTypeError(f"{name}: {error}") from None


def as_tensor(name: str, value: Any, dtype: "torch.dtype", device: "torch.device", written: bool = False) -> Any:
    """`value` as a contiguous tensor of this dtype on this device, without a copy.

    numpy arrays are copied to the device, and are therefore refused if they are to be `written`. Arrays on another
    device are refused.

    Raises:
        ArgumentTypeError: Another dtype, or no array.
        ArgumentError: Another device, or not contiguous.
    """
    torch = import_torch()
    if isinstance(value, np.ndarray) and written:
        raise ArgumentTypeError(f"{name}: a tensor on {device} is expected, got a numpy array")
    if isinstance(value, np.ndarray):
        value = _from_numpy(name, value, device)
    elif not isinstance(value, torch.Tensor):
        if not hasattr(value, "__dlpack__"):
            raise ArgumentTypeError(
                f"{name}: a torch tensor, a CuPy or numpy array or anything with DLPack is "
                f"expected, got {type(value).__name__}"
            )
        try:
            value = torch.from_dlpack(value)
        except Exception as error:
            # Exporters raise what they like, for read-only memory for example.
            raise ArgumentTypeError(f"{name}: not exported by DLPack: {error}") from error
    if value.dtype != dtype:
        raise ArgumentTypeError(f"{name}: dtype {dtype} is expected, got {value.dtype}")
    if value.device != device:
        raise ArgumentError(f"{name}: lies on {value.device}, the table on {device}: move it there")
    if value.layout != torch.strided or not value.is_contiguous():
        raise ArgumentError(f"{name}: not contiguous; call .contiguous() first")
    return value


def as_vector(
    name: str, value: Any, length: int | None, dtype: "torch.dtype", device: "torch.device", written: bool = False
) -> Any:
    """`as_tensor` for one dimension, of a given length unless that is None.

    Raises:
        ArgumentTypeError, ArgumentError: As `as_tensor`, or another shape.
    """
    value = as_tensor(name, value, dtype, device, written)
    if value.dim() != 1 or (length is not None and len(value) != length):
        raise ArgumentError(f"{name}: shape [{length}] is expected, got {list(value.shape)}")
    return value


def refuse_overlap(name: str, written: Any, others: dict[str, Any]) -> None:
    """Check that a contiguous tensor that is to be written shares no memory with others. O(others).

    Raises:
        ArgumentError: It does.
    """
    begin = written.data_ptr()
    end = begin + written.nbytes
    for other, tensor in others.items():
        if begin < tensor.data_ptr() + tensor.nbytes and tensor.data_ptr() < end:
            raise ArgumentError(f"{name}: shares memory with {other}, which it would overwrite")


def on_stream(stream: Any, device: "torch.device") -> Any:
    """Make a stream current for a while: a torch stream, a CuPy stream, an address, or None for no change.

    Raises:
        ArgumentTypeError: Something else than a stream.
        ArgumentError: The stream belongs to another device, or the address is out of range.
    """
    torch = import_torch()
    address = None
    if stream is not None and not isinstance(stream, torch.cuda.Stream):
        address = as_integer("stream", getattr(stream, "ptr", stream), 0, 2**64 - 1)
    if device.type != "cuda":
        return nullcontext()
    if stream is None:
        stream = torch.cuda.current_stream(device)
    elif address is not None:
        stream = _stream_at(address, device)
    if stream.device != device:
        raise ArgumentError(f"the stream belongs to {stream.device}, the table to {device}")
    return torch.cuda.stream(stream)
