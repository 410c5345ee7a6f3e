"""`HashArena`: block hashes of many requests in one array, and what a copy of it elsewhere has missed."""

from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt

from kvgpu.compiled.jit import carray, inline, pointer
from kvgpu.layout import KEY_WORDS


@inline
def hashes_at(words: Any, lent: int, begin: int, end: int) -> Any:
    """Hashes [begin, end) of an arena, or so many from an address where they are lent (not 0); nobody owns the view."""
    here: Any = np.int64(words.ctypes.data) + np.int64(begin) * (8 * KEY_WORDS)
    address: Any = here if lent == 0 else np.int64(lent)
    return carray(pointer(address, words), (np.int64(end - begin), np.int64(words.shape[1])))


MOST_PIECES = 256
"""Pieces that are kept apart; beyond, everything between the first and the last counts as changed."""
SMALLEST_PIECE = 8


class HashArena:
    """A flat array of hashes that a device may keep a copy of, handed out in pieces.

    A piece is rounded up to a power of two while there is room, so that its owner can grow; the piece that
    was given back last is handed out first, because it is still in the processor's cache.

    Args:
        capacity: Hashes.

    Attributes:
        words: int64 [capacity, KEY_WORDS], on the CPU; `wrote` must be told of changes.
        copy: The copy of whoever keeps one (a tensor), or None; changes are noted while there is one.
    """

    def __init__(self, capacity: int) -> None:
        # Written to, so that the first use of a page does not fall to whoever needs it.
        self.words: npt.NDArray[np.int64] = np.full((capacity, KEY_WORDS), 0, np.int64)
        self.copy: Any = None
        self._written: list[tuple[int, int]] = []
        self._top = 0
        self._free: dict[int, list[int]] = {}

    def __len__(self) -> int:
        return len(self.words)

    def take(self, count: int) -> tuple[int, int] | None:
        """A piece for at least `count` hashes, as (begin, limit); None if there is none. O(1)."""
        size = max(SMALLEST_PIECE, 1 << (count - 1).bit_length())
        free = self._free.get(size)
        if free:
            begin = free.pop()
            return begin, begin + size
        if self._top + size > len(self.words):
            size = count
        begin = self._top
        if begin + size > len(self.words):
            return None
        self._top += size
        return begin, begin + size

    def give(self, begin: int, limit: int) -> None:
        """Take a piece back. One of an odd size is used again after `pack` only. O(1)."""
        size = limit - begin
        if size and limit == self._top:
            self._top = begin
        elif size >= SMALLEST_PIECE and size & (size - 1) == 0:
            self._free.setdefault(size, []).append(begin)

    def pack(self, pieces: list[tuple[int, int]], gaps: list[int]) -> list[int]:
        """Move pieces (begin, end), in the order of their place, to the front; their new begins.

        So many hashes are left behind each, for it to grow.
        """
        words, tops, top = self.words, [], 0
        for begin, end in pieces:
            words[top : top + end - begin] = words[begin:end]
            tops.append(top)
            top += end - begin
        shifts = [0, *accumulate(gaps)]
        begins = [packed + shift for packed, shift in zip(tops, shifts, strict=False)]
        for packed, moved, (begin, end) in zip(reversed(tops), reversed(begins), reversed(pieces), strict=True):
            words[moved : moved + end - begin] = words[packed : packed + end - begin]
        self._top = top + shifts[-1]
        self._free.clear()
        self._written = [(0, self._top)]
        return begins

    def grown(self, capacity: int) -> "HashArena":
        """A larger arena with the same pieces."""
        larger = HashArena(capacity)
        larger.words[: len(self.words)] = self.words
        larger._top, larger._free = self._top, self._free
        larger._written = [(0, self._top)]
        return larger

    def wrote(self, begin: int, end: int) -> None:
        """Hashes [begin, end) have changed. Amortised O(1)."""
        if self.copy is None:
            return
        written = self._written
        if written and begin <= written[-1][1] and end >= written[-1][0]:
            last = written.pop()
            begin, end = min(begin, last[0]), max(end, last[1])
        written.append((begin, end))
        if len(written) > MOST_PIECES:
            self._written = [(min(p[0] for p in written), max(p[1] for p in written))]

    def wrote_all(self, pieces: npt.NDArray[np.int64]) -> None:
        """Hashes of pieces have changed; their begins and ends, int64 [2, n], n at least 1. O(n)."""
        if self.copy is None:
            return
        begins, ends = pieces
        if len(self._written) + len(begins) <= MOST_PIECES:
            self._written += zip(begins.tolist(), ends.tolist(), strict=True)
        else:
            self.wrote(int(begins.min()), int(ends.max()))

    @property
    def is_copied(self) -> bool:
        """Whether there is a copy that has everything. O(1)."""
        return self.copy is not None and not self._written

    def take_written(self) -> list[tuple[int, int]]:
        """Pieces that the copy has not got yet."""
        pieces, self._written = self._written, []
        return pieces
