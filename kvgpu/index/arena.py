"""`HashArena`: block hashes of many requests in one array, and what a copy of it elsewhere has missed."""

from typing import Any

import numpy as np
import numpy.typing as npt

from kvgpu.kernels.layout import KEY_WORDS


class HashArena:
    """A flat array of hashes that a device may keep a copy of.

    Args:
        capacity: Hashes.

    Attributes:
        words: int64 [capacity, KEY_WORDS], on the CPU; `wrote` must be told of changes.
        copy: The copy of whoever keeps one (a tensor), or None.
    """

    def __init__(self, capacity: int) -> None:
        self.words: npt.NDArray[np.int64] = np.zeros((capacity, KEY_WORDS), np.int64)
        self.copy: Any = None
        self._written: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return len(self.words)

    def wrote(self, begin: int, end: int) -> None:
        """Hashes [begin, end) have changed. Amortised O(1)."""
        if self._written and self._written[-1][1] == begin:
            begin = self._written.pop()[0]
        self._written.append((begin, end))

    def wrote_all(self, end: int) -> None:
        """Everything up to `end` has changed."""
        self._written = [(0, end)]

    def take_written(self) -> list[tuple[int, int]]:
        """Pieces that have changed since the last call."""
        pieces, self._written = self._written, []
        return pieces
