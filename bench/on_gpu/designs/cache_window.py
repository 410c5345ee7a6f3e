"""A window of memory that the second-level cache keeps: the access policy of a stream, set for a while.

By ctypes on CUDA's driver, because neither torch nor CuPy offers it.
"""

import ctypes
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any

import torch

from kvgpu.kernels.view import TableView

MOST_BYTES = 30 * 2**20
"""Of a table that is worth a window: an H100 can set 37 MiB of its cache aside."""

LIMIT_PERSISTING = 6
"""CU_LIMIT_PERSISTING_L2_CACHE_SIZE"""
MOST_PERSISTING, LONGEST_WINDOW = 108, 109
"""CU_DEVICE_ATTRIBUTE_MAX_PERSISTING_L2_CACHE_SIZE, CU_DEVICE_ATTRIBUTE_MAX_ACCESS_POLICY_WINDOW_SIZE"""
ACCESS_POLICY_WINDOW = 1
"""CU_STREAM_ATTRIBUTE_ACCESS_POLICY_WINDOW"""
NORMAL, STREAMING, PERSISTING = range(3)
"""CU_ACCESS_PROPERTY_*"""


class Window(ctypes.Structure):
    """CUaccessPolicyWindow."""

    _fields_ = (
        ("base_ptr", ctypes.c_void_p),
        ("num_bytes", ctypes.c_size_t),
        ("hitRatio", ctypes.c_float),
        ("hitProp", ctypes.c_int),
        ("missProp", ctypes.c_int),
    )


class StreamAttribute(ctypes.Union):
    """CUstreamAttrValue."""

    _fields_ = (("accessPolicyWindow", Window), ("pad", ctypes.c_char * 64))


@cache
def driver() -> Any:
    """CUDA's driver."""
    return ctypes.CDLL("libcuda.so.1")


def _call(name: str, *arguments: Any) -> None:
    """Call a function of the driver.

    Raises:
        RuntimeError: It fails.
    """
    status = getattr(driver(), name)(*arguments)
    if status:
        raise RuntimeError(f"{name} fails with CUDA error {status}")


def _attribute(number: int) -> int:
    """An attribute of the current device."""
    device, value = ctypes.c_int(), ctypes.c_int()
    _call("cuCtxGetDevice", ctypes.byref(device))
    _call("cuDeviceGetAttribute", ctypes.byref(value), number, device)
    return value.value


def _set_window(stream: int, window: Window) -> None:
    value = StreamAttribute(accessPolicyWindow=window)
    _call("cuStreamSetAttribute", ctypes.c_void_p(stream), ACCESS_POLICY_WINDOW, ctypes.byref(value))


@contextmanager
def persisting(tensor: Any) -> Iterator[None]:
    """Make a stream current whose accesses keep a tensor in the second-level cache; without a GPU, do nothing.

    Behind it the cache treats all memory alike again, and as much of it is set aside as before.

    Raises:
        RuntimeError: The device offers no such window, or none so long.
    """
    if not torch.cuda.is_available():
        yield
        return
    room = _attribute(MOST_PERSISTING)
    if tensor.nbytes > _attribute(LONGEST_WINDOW) or not room:
        raise RuntimeError(f"the device has no window of {tensor.nbytes:,} bytes in its cache")
    before = ctypes.c_size_t()
    _call("cuCtxGetLimit", ctypes.byref(before), LIMIT_PERSISTING)
    outer, stream = torch.cuda.current_stream(), torch.cuda.Stream()
    kept = min(room, tensor.nbytes)
    window = Window(tensor.data_ptr(), tensor.nbytes, kept / tensor.nbytes, PERSISTING, STREAMING)
    stream.wait_stream(outer)
    with ExitStack() as restored:
        restored.callback(_call, "cuCtxSetLimit", LIMIT_PERSISTING, before)
        _call("cuCtxSetLimit", LIMIT_PERSISTING, ctypes.c_size_t(kept))
        restored.callback(_call, "cuCtxResetPersistingL2Cache")
        restored.callback(_set_window, stream.cuda_stream, Window())
        restored.callback(torch.cuda.synchronize)
        _set_window(stream.cuda_stream, window)
        with torch.cuda.stream(stream):
            yield


def in_one_piece(table: TableView) -> tuple[TableView, Any]:
    """Copy words and records of a table into one tensor, so that one window holds both; return the copy and it."""
    piece = torch.cat((table.words.flatten(), table.records.flatten()))
    split = table.words.numel()
    words, records = piece[:split].view(table.words.shape), piece[split:].view(table.records.shape)
    return table._replace(words=words, records=records), piece
