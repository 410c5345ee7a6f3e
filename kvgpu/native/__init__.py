"""The extension in C, for single calls.

What surrounds the compiled code of a call (reading the request, finding its block tables, making the blocks that are
returned) takes several times as long in Python as that code itself. The extension states no rule: it runs the same
compiled code. What is odd about a call it leaves to Python.

`Calls` and `block_ids` are None where there was no compiler, and with `KVGPU_NATIVE=0`.
"""

from contextlib import suppress
from typing import TYPE_CHECKING

from kvgpu.environment import uses_native_calls

if TYPE_CHECKING:
    from kvgpu.native._calls import Calls, block_ids
else:
    Calls = block_ids = None
    if uses_native_calls():
        with suppress(ImportError):
            from kvgpu.native._calls import Calls, block_ids

__all__ = ["Calls", "block_ids"]
