"""`HashArena`: block hashes of many requests in one array, and a record of the changes that a copy has not received."""

from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt

from kvgpu.compiled.jit import carray, inline, pointer
from kvgpu.layout import KEY_WORDS


@inline
def hashes_at(words: Any, borrowed: int, begin: int, end: int) -> Any:
    """View hashes [begin, end) of an arena, or as many at address `borrowed` if that is not 0; nobody owns the view."""
    here: Any = np.int64(words.ctypes.data) + np.int64(begin) * (8 * KEY_WORDS)
    address: Any = here if borrowed == 0 else np.int64(borrowed)
    return carray(pointer(address, words), (np.int64(end - begin), np.int64(words.shape[1])))


MAX_PIECES = 256
"""Changed pieces that are recorded one by one; if there are more, everything from the first to the last counts as
changed."""
MIN_PIECE = 8
"""Hashes of the smallest piece."""


class HashArena:
    """An array of hashes that is handed out in pieces, and of which a device may keep a copy.

    The size of a piece is rounded up to a power of two while there is room, so that its owner can grow. The piece
    that was returned last is handed out first, because it is still in the processor's cache.

    Args:
        capacity: Number of hashes.

    Attributes:
        words: int64 [capacity, KEY_WORDS], on the CPU. Report every change with `wrote`.
        copy: A tensor that somebody keeps as a copy, or None; changes are recorded while there is one.
    """

    def __init__(self, capacity: int) -> None:
        # Filled now, because the first use of a page is slow.
        self.words: npt.NDArray[np.int64] = np.full((capacity, KEY_WORDS), 0, np.int64)
        self.copy: Any = None
        self._written: list[tuple[int, int]] = []
        self._top = 0
        self._free: dict[int, list[int]] = {}

    def __len__(self) -> int:
        return len(self.words)

    def take(self, count: int) -> tuple[int, int] | None:
        """Hand out a piece for at least `count` hashes, as (begin, limit); None if there is no room. O(1)."""
        size = max(MIN_PIECE, 1 << (count - 1).bit_length())
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
        """Take a piece back. If its size is not a power of two, it is reused only after `pack`. O(1)."""
        size = limit - begin
        if size and limit == self._top:
            self._top = begin
        elif size >= MIN_PIECE and size & (size - 1) == 0:
            self._free.setdefault(size, []).append(begin)

    def pack(self, pieces: list[tuple[int, int]], gaps: list[int]) -> list[int]:
        """Move pieces to the front.

        Args:
            pieces: Begin and end of each piece, in order.
            gaps: Room for growth after each piece, in hashes.

        Returns:
            The new begin of each piece.

        O(hashes of the pieces).
        """
        # First move the pieces together, from the first on, then apart, from the last on: neither overwrites another.
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
        """Make a larger arena with the same pieces. O(capacity)."""
        larger = HashArena(capacity)
        larger.words[: len(self.words)] = self.words
        larger._top, larger._free = self._top, self._free
        larger._written = [(0, self._top)]
        return larger

    def wrote(self, begin: int, end: int) -> None:
        """Record that hashes [begin, end) have changed. Amortised O(1)."""
        if self.copy is None:
            return
        written = self._written
        if written and begin <= written[-1][1] and end >= written[-1][0]:
            last = written.pop()
            begin, end = min(begin, last[0]), max(end, last[1])
        written.append((begin, end))
        if len(written) > MAX_PIECES:
            self._written = [(min(p[0] for p in written), max(p[1] for p in written))]

    def wrote_all(self, pieces: npt.NDArray[np.int64]) -> None:
        """Record that several pieces have changed.

        Args:
            pieces: int64 [2, n], their begins and ends; n is at least 1.

        O(n).
        """
        if self.copy is None:
            return
        begins, ends = pieces
        if len(self._written) + len(begins) <= MAX_PIECES:
            self._written += zip(begins.tolist(), ends.tolist(), strict=True)
        else:
            self.wrote(int(begins.min()), int(ends.max()))

    @property
    def is_copied(self) -> bool:
        """Whether there is a copy and it has received all changes. O(1)."""
        return self.copy is not None and not self._written

    def take_written(self) -> list[tuple[int, int]]:
        """Return the pieces that the copy has not received, and forget them."""
        pieces, self._written = self._written, []
        return pieces


def rows_of(pieces: list[tuple[int, int]]) -> npt.NDArray[np.int64]:
    """Return the rows of pieces, one after the other. O(rows)."""
    begins, ends = np.array(pieces, np.int64).T
    lengths = ends - begins
    before = np.cumsum(lengths) - lengths
    rows: npt.NDArray[np.int64] = np.repeat(begins - before, lengths) + np.arange(lengths.sum())
    return rows
