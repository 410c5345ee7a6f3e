"""Memory for hashes that is used again when nobody has them any longer."""

import sys
import sysconfig
from threading import Lock

import numpy as np

from kvgpu.block_hashing.blocks import Rows
from kvgpu.kernels.layout import KEY_WORDS

SLAB_ROWS = 1 << 17
"""4 MB: from there on NumPy asks for huge pages."""

FEW_ROWS = 16
"""Fewer are left to NumPy: most of them are copied behind the hashes of a request at once."""

MOST_FREE = 8
"""Slabs that are kept beside the last though nobody has a hash in them, when the last one is full."""

COUNTS_REFERENCES = sys.implementation.name == "cpython" and not sysconfig.get_config_var(
    "Py_GIL_DISABLED"
)
"""Whether `sys.getrefcount` tells of all that know an object."""


def _references(slabs: list[Rows]) -> list[int]:
    """How many references there are to each."""
    return [sys.getrefcount(slab) for slab in slabs]


_OWN = min(_references([np.empty((0, KEY_WORDS), np.int64) for _ in range(3)]))
"""Those of a slab that nobody has a view of, or a view of a view; debuggers may make it look like more."""


class RowMemory:
    """Hands out key words for hashes, from slabs of many; a slab of which nobody has any is used again.

    Fresh memory is slow: to use a page for the first time takes longer than to hash what it holds by kvgpu128. And what a
    call takes is so much that it is given back to the system when it is freed. One hash that somebody keeps keeps its
    slab. Threads may share it: who finds another one inside, as a child may that was forked meanwhile, or code that a
    signal calls, is given memory of its own.
    """

    def __init__(self) -> None:
        self._slabs: list[Rows] = []
        self._used = 0
        self._lock = Lock()

    def take(self, count: int) -> Rows:
        """Rows for so many hashes, int64 [count, KEY_WORDS], of any contents: the caller's while it has the array, or
        a view of it.

        O(1); O(slabs) where the last one is full, and O(count) for more than half a slab.
        """
        if not FEW_ROWS <= count <= SLAB_ROWS // 2:
            return np.empty((count, KEY_WORDS), np.int64)
        if not self._lock.acquire(blocking=False):
            return np.empty((count, KEY_WORDS), np.int64)
        try:
            if not self._slabs or self._used + count > SLAB_ROWS:
                self._turn()
            begin = self._used
            self._used += count
            return self._slabs[-1][begin : self._used]
        finally:
            self._lock.release()

    def _turn(self) -> None:
        """Let the last slab be one that nobody uses."""
        held: list[Rows] = []
        free: list[Rows] = []
        if COUNTS_REFERENCES:
            own = min(_OWN, *_references([np.empty((0, KEY_WORDS), np.int64)]))
            for slab, count in zip(self._slabs, _references(self._slabs), strict=True):
                (free if count == own else held).append(slab)
        last = free.pop() if free else np.empty((SLAB_ROWS, KEY_WORDS), np.int64)
        self._slabs = [*held, *free[:MOST_FREE], last]
        self._used = 0


hash_memory = RowMemory()
"""That of all hash functions of this process."""
