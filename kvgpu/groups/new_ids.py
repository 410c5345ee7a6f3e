"""`NewBlockIds`: blocks that were handed out, for an engine that zeroes new ones."""

import numpy as np

from kvgpu.blocks.record import Ids

UNASKED = 4
"""Times as many ids as the pool has blocks are kept for those who ask."""

PARTS = 256
"""Calls whose ids are put together: an array for each would take more memory than the ids."""


class NewBlockIds:
    """Ids in the order in which they were handed out.

    Whoever has not asked for several times as many as the pool has blocks zeroes none: they are forgotten then, and
    nothing is kept until somebody asks.

    Args:
        num_blocks: Blocks of the pool.
    """

    def __init__(self, num_blocks: int) -> None:
        self._most = UNASKED * num_blocks
        self._whole: list[Ids] = []
        self._parts: list[Ids] = []
        self._count = 0

    def __len__(self) -> int:
        """Ids that are kept."""
        return sum(map(len, self._whole)) + sum(map(len, self._parts))

    def note(self, ids: Ids) -> None:
        """Add ids, int32 [n]; the array is kept. Amortised O(n)."""
        if self._count > self._most:
            self._whole.clear()
            self._parts.clear()
            return
        self._parts.append(ids)
        self._count += len(ids)
        if len(self._parts) == PARTS:
            self._whole.append(np.concatenate(self._parts))
            self._parts.clear()

    def take(self) -> list[int]:
        """Ids since the last call. O(ids)."""
        parts = [*self._whole, *self._parts]
        self._whole, self._parts, self._count = [], [], 0
        return [block_id for ids in parts for block_id in ids.tolist()]
