"""Index backends by name."""

from kvgpu.errors import UnknownNameError
from kvgpu.index.base import BlockIndex
from kvgpu.index.host import HostIndex
from kvgpu.index.reference import ReferenceIndex

BACKENDS: dict[str, type[BlockIndex]] = {index.name: index for index in (ReferenceIndex, HostIndex)}


def backend_by_name(name: str) -> type[BlockIndex]:
    """The index class called `name`.

    Raises:
        UnknownNameError: There is none of that name; the message lists those there are.
    """
    try:
        return BACKENDS[name]
    except KeyError:
        raise UnknownNameError("index backend", name, list(BACKENDS)) from None
