"""Memory for hashes that is used again when nobody has them any longer."""

import sys
import sysconfig
from threading import Lock

import numpy as np

from kvgpu.hashing.bulk.chains import Rows
from kvgpu.layout import KEY_WORDS

FEW_ROWS = 16
"""Fewer are left to NumPy: most of them are copied behind the hashes of a request at once."""

MANY_ROWS = 1 << 16
"""More are left to NumPy, too: 2 MB."""

CHUNK_ROWS = 1 << 10
"""Small pieces lie side by side in chunks of so many rows, 32 KB: one by one they would lie between the objects of
their requests, each on a page of its own, and a lookup of a long queue would miss the table of pages, too."""

MOST_ROWS = 1 << 21
"""Rows of all pieces that are known, 64 MB: so much may be kept though nobody has a hash in it."""

PROBES = 4
"""Pieces that are looked at before a new one is made."""

_ROW = np.dtype((np.int64, (KEY_WORDS,)))

COUNTS_REFERENCES = sys.implementation.name == "cpython" and not sysconfig.get_config_var("Py_GIL_DISABLED")
"""Whether `sys.getrefcount` tells of all that know an object."""


def _references(pieces: list[Rows], place: int) -> int:
    """How many references there are to a piece."""
    return sys.getrefcount(pieces[place])


_UNUSED = [np.empty((0, KEY_WORDS), np.int64)]
_OWN = min(_references(_UNUSED, 0) for _ in range(3))
"""Those to a piece that nobody has a view of, or a view of a view; debuggers may make it look like more."""


class RowMemory:
    """Hands out key words for hashes, in pieces that are used again when nobody has them any longer.

    Fresh memory is slow: to use a page for the first time takes longer than to hash what it holds by kvgpu128. And
    what a call takes is so much that it is given back to the system when it is freed. So pieces of about one size are
    kept in a ring. One hash that somebody keeps keeps its piece, which has at most a quarter more rows than were
    asked for, and of small ones the chunk, whose other pieces go on being used. Threads may share it: who finds
    another one inside, as a child may that was forked meanwhile, or code that a signal calls, is given memory of its
    own.

    Attributes:
        num_rows: Of all pieces that are known, in use or not, at most `MOST_ROWS`. Those that are not known any
            longer are freed when nobody has them.
    """

    def __init__(self) -> None:
        self._rings: dict[int, list[Rows]] = {}
        self._places: dict[int, int] = {}
        self._chunk = memoryview(b"")
        self._used = 0
        self.num_rows = 0
        self._lock = Lock()

    def take(self, count: int) -> Rows:
        """Rows for so many hashes, int64 [count, KEY_WORDS], of any contents: the caller's while it has the array, or
        a view of it.

        O(1); O(count) for a new piece, or for more than `MANY_ROWS`.
        """
        if not COUNTS_REFERENCES or not FEW_ROWS <= count <= MANY_ROWS:
            return np.empty((count, KEY_WORDS), np.int64)
        if not self._lock.acquire(blocking=False):
            return np.empty((count, KEY_WORDS), np.int64)
        try:
            shift = count.bit_length() - 3
            size = -(-count >> shift) << shift
            ring = self._rings.get(size)
            if ring is None:
                return self._new(size)[:count]
            own, place = min(_OWN, _references(_UNUSED, 0)), self._places[size]
            for _ in range(PROBES):
                place += 1
                if place >= len(ring):
                    place = 0
                if _references(ring, place) == own:
                    self._places[size] = place
                    return ring[place][:count]
            self._places[size] = place
            return self._new(size)[:count]
        finally:
            self._lock.release()

    def _new(self, size: int) -> Rows:
        """A new piece of so many rows, the last of its ring."""
        piece = self._carved(size) if size <= CHUNK_ROWS // 4 else np.empty((size, KEY_WORDS), np.int64)
        if self.num_rows + size > MOST_ROWS:
            # What somebody has stays theirs.
            self._rings.clear()
            self.num_rows = 0
        self._rings.setdefault(size, []).append(piece)
        self._places[size] = len(self._rings[size]) - 1
        self.num_rows += size
        return piece

    def _carved(self, size: int) -> Rows:
        """A new piece, the next of a chunk."""
        num_bytes = size * KEY_WORDS * 8
        if self._used + num_bytes > self._chunk.nbytes:
            self._chunk = np.empty(CHUNK_ROWS * KEY_WORDS, np.int64).data.cast("B")
            self._used = 0
        begin, self._used = self._used, self._used + num_bytes
        # No view of the chunk's array: views of views know only that one, and its references are not those of a piece.
        return np.frombuffer(self._chunk[begin : self._used], _ROW)


hash_memory = RowMemory()
"""That of all hash functions of this process."""
