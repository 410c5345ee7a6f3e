"""`HashMemory`: memory for hashes that is reused as soon as nobody refers to it."""

import sys
import sysconfig
from threading import Lock

import numpy as np

from kvgpu.hashing.bulk.chains import Keys
from kvgpu.layout import KEY_WORDS

MIN_REUSED = 16
"""Hashes of the smallest piece that is reused. NumPy allocates smaller arrays, most of which are appended to the hashes
of a request, and so copied, at once."""

MAX_REUSED = 1 << 16
"""Hashes of the largest piece that is reused, 2 MB; NumPy allocates larger arrays."""

CHUNK_HASHES = 1 << 10
"""Hashes of a chunk, 32 KB. Small pieces are carved from chunks; allocated one by one they would lie between the
objects of their requests, each on a page of its own, and a lookup for a long queue would also miss the TLB."""

MAX_KNOWN = 1 << 21
"""Hashes of all pieces that a memory knows, 64 MB: an upper bound for what it holds without any user."""

PROBES = 4
"""Pieces that are examined before a new one is made."""

_KEY = np.dtype((np.int64, (KEY_WORDS,)))

COUNTS_REFERENCES = sys.implementation.name == "cpython" and not sysconfig.get_config_var("Py_GIL_DISABLED")
"""Whether `sys.getrefcount` counts all references to an object."""


def _references(pieces: list[Keys], place: int) -> int:
    """Number of references to a piece."""
    return sys.getrefcount(pieces[place])


_UNUSED = [np.empty((0, KEY_WORDS), np.int64)]
_UNUSED_REFERENCES = min(_references(_UNUSED, 0) for _ in range(3))
"""References to a piece of which no view exists. The minimum, as a debugger may add references."""


class HashMemory:
    """Hands out arrays for hashes, and reuses the memory of those that nobody refers to.

    Fresh memory is slow: the first use of a page takes longer than hashing the blocks whose hashes it holds with
    kvgpu128, and the hashes of one call are so large that freeing them returns the pages to the system. Therefore
    pieces of similar size are kept in a ring.

    A single hash in use keeps its whole piece, which is at most a quarter larger than requested; a hash in a small
    piece also keeps the chunk, whose other pieces are still reused.

    Threads may share a memory. A caller that finds it locked, such as a signal handler or a child that was forked
    meanwhile, gets a fresh array.

    Attributes:
        num_hashes: Size of all known pieces, in use or not, at most `MAX_KNOWN`. A piece that is no longer known is
            freed when nobody refers to it.
    """

    def __init__(self) -> None:
        self._rings: dict[int, list[Keys]] = {}
        self._places: dict[int, int] = {}
        self._chunk = memoryview(b"")
        self._used = 0
        self.num_hashes = 0
        self._lock = Lock()

    def take(self, count: int) -> Keys:
        """Return an array for hashes, int64 [count, KEY_WORDS], with arbitrary contents.

        It belongs to the caller for as long as the array or a view of it exists.

        O(1); O(count) for a new piece, or for more than `MAX_REUSED`.
        """
        if not COUNTS_REFERENCES or not MIN_REUSED <= count <= MAX_REUSED:
            return np.empty((count, KEY_WORDS), np.int64)
        if not self._lock.acquire(blocking=False):
            return np.empty((count, KEY_WORDS), np.int64)
        try:
            # Round up to three significant bits.
            shift = count.bit_length() - 3
            size = -(-count >> shift) << shift
            ring = self._rings.get(size)
            if ring is None:
                return self._new(size)[:count]
            unused, place = min(_UNUSED_REFERENCES, _references(_UNUSED, 0)), self._places[size]
            for _ in range(PROBES):
                place += 1
                if place >= len(ring):
                    place = 0
                if _references(ring, place) == unused:
                    self._places[size] = place
                    return ring[place][:count]
            self._places[size] = place
            return self._new(size)[:count]
        finally:
            self._lock.release()

    def _new(self, size: int) -> Keys:
        """Append a new piece to the ring of its size."""
        piece = self._carved(size) if size <= CHUNK_HASHES // 4 else np.empty((size, KEY_WORDS), np.int64)
        if self.num_hashes + size > MAX_KNOWN:
            # Forget all pieces; those in use stay valid.
            self._rings.clear()
            self.num_hashes = 0
        self._rings.setdefault(size, []).append(piece)
        self._places[size] = len(self._rings[size]) - 1
        self.num_hashes += size
        return piece

    def _carved(self, size: int) -> Keys:
        """Carve the next piece from the current chunk, or from a new one if it is used up."""
        num_bytes = size * KEY_WORDS * 8
        if self._used + num_bytes > self._chunk.nbytes:
            self._chunk = np.empty(CHUNK_HASHES * KEY_WORDS, np.int64).data.cast("B")
            self._used = 0
        begin, self._used = self._used, self._used + num_bytes
        # Not a view of the chunk's array: views of it would refer to the chunk, and the references to the piece would
        # not tell whether it is in use.
        return np.frombuffer(self._chunk[begin : self._used], _KEY)


hash_memory = HashMemory()
"""The memory that all hash functions of this process share."""
