"""The extension in C, for single calls.

What surrounds the compiled code of a call (reading the request, finding its block tables, making the blocks that are
returned) takes several times as long in Python as that code itself. The extension states no rule: it runs the same
compiled code. What is odd about a call it leaves to Python.

Where there was no compiler, and with `KVGPU_NATIVE=0`, all names are None.
"""

from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING

from kvgpu.environment import uses_native_calls

__all__ = [
    "Calls",
    "add_to_ints",
    "append_tokens",
    "block_ids",
    "cover_rows",
    "hash_blocks",
    "read_ints",
    "read_lengths",
]

if TYPE_CHECKING:
    from kvgpu.native._calls import (
        Calls,
        add_to_ints,
        append_tokens,
        block_ids,
        cover_rows,
        hash_blocks,
        read_ints,
        read_lengths,
    )
else:
    extension = None
    if uses_native_calls():
        with suppress(ImportError):
            extension = import_module("kvgpu.native._calls")
    globals().update({name: getattr(extension, name, None) for name in __all__})
