"""Index backends by name. Each is imported on demand, so listing the names needs no package."""

from importlib import import_module
from typing import TYPE_CHECKING

from kvgpu.errors import UnknownNameError

if TYPE_CHECKING:
    from kvgpu.index.base import BlockIndex

BACKENDS = {
    "reference": ("kvgpu.index.reference", "ReferenceIndex"),
    "host": ("kvgpu.index.host.index", "HostIndex"),
    "triton": ("kvgpu.index.device.engines", "TritonIndex"),
    "cuda": ("kvgpu.index.device.engines", "CudaIndex"),
    "auto": ("kvgpu.index.device.auto", "AutoIndex"),
}
"""Name -> module and class."""


def backend_by_name(name: str) -> "type[BlockIndex]":
    """Return the index class of the backend called `name`.

    Raises:
        UnknownNameError: No backend has this name; the message lists the names.
    """
    if not isinstance(name, str) or name not in BACKENDS:
        raise UnknownNameError("index backend", name, list(BACKENDS))
    module, class_name = BACKENDS[name]
    found: type[BlockIndex] = getattr(import_module(module), class_name)
    return found
