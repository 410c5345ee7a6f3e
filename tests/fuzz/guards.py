"""Guards of kvgpu that can be taken out one by one, to see that the fuzzer notices."""

import importlib.util
import sys
from importlib.abc import MetaPathFinder, SourceLoader
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parent.parent.parent / "kvgpu"

GUARDS = {
    "sign of a number": ("kvgpu.integers", "if not low <= value <= high:", "if value > high:"),
    "sign of numbers": ("kvgpu.integers", "and 0 <= bits <= high:", "and bits <= high:"),
    "size of a number": ("kvgpu.integers", "if not low <= value <= high:", "if value < low:"),
    "kind of a number": (
        "kvgpu.integers",
        "not isinstance(value, (int, np.integer)) or isinstance(value, bool):\n",
        "not isinstance(value, (int, float, np.integer)):\n",
    ),
    "dtype of an array": ("kvgpu.arguments", 'if given.dtype.kind not in "iu" or not fits:', "if not fits:"),
    "length of an array": (
        "kvgpu.arguments",
        "count in (None, len(given))\n    if one_for_all",
        "True\n    if one_for_all",
    ),
    "id outside the pool": ("kvgpu.arguments", "        if outside.any():\n", "        if False:\n"),
    "block of another pool": ("kvgpu.arguments", "        if block._state is not state:\n", "        if False:\n"),
    "block that was not handed out": ("kvgpu.block_tables.holders", "        if place >= 0:\n", "        if False:\n"),
    "hits that are none": (
        "kvgpu.allocation.slots",
        "            checks.refuse_bad_hits(request_id, computed, are_distinct(hashes))\n        if caches",
        "            pass\n        if caches",
    ),
    "hits of fewer tokens": (
        "kvgpu.allocation.call_checks",
        "        if num_tokens > longest:\n",
        "        if False:\n",
    ),
    "length of the model": ("kvgpu.allocation.slots", "    if num_main > longest:\n", "    if False:\n"),
    "read-only table": (
        "kvgpu.batch.attention_tables",
        "        if is_array and not table.flags.writeable:\n",
        "        if False:\n",
    ),
}
"""Name -> module, a piece of its source, and what takes its place."""


class SourceWithout(MetaPathFinder, SourceLoader):
    """Imports one module with a piece of its source replaced.

    Args:
        name: The module.
        piece: What is replaced, which must be there once.
        replacement: By what.
    """

    def __init__(self, name: str, piece: str, replacement: str) -> None:
        self._name, self._piece, self._replacement = name, piece, replacement
        self._path = PACKAGE.parent.joinpath(*name.split(".")).with_suffix(".py")

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if fullname != self._name:
            return None
        return importlib.util.spec_from_file_location(fullname, self._path, loader=self)

    def get_filename(self, fullname: str) -> str:
        return str(self._path)

    def get_data(self, path: str | bytes) -> bytes:
        text = Path(str(path)).read_text()
        if text.count(self._piece) != 1:
            sys.exit(f"the guard is not there once in {path}: {self._piece!r}")
        return text.replace(self._piece, self._replacement).encode()

    def path_stats(self, path: str) -> Any:
        raise OSError("never from a file of byte code")
