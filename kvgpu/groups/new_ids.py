"""`NewBlockIds`: ids of newly allocated blocks, for an engine that zeroes them."""

import numpy as np

from kvgpu.blocks.record import Ids

UNASKED = 4
"""At most this many times as many ids as the pool has blocks are recorded between two calls of `take`."""

PARTS = 256
"""Number of calls whose ids are concatenated: one array for each call would take more memory than the ids."""


class NewBlockIds:
    """Records ids in the order in which the blocks were allocated.

    An engine that has let several times as many ids accumulate as the pool has blocks does not zero any: the ids are
    then forgotten, and no more are recorded until the next call of `take`.

    Args:
        num_blocks: Number of blocks in the pool.
    """

    def __init__(self, num_blocks: int) -> None:
        self._most = UNASKED * num_blocks
        self._whole: list[Ids] = []
        self._parts: list[Ids] = []
        self._count = 0

    def __len__(self) -> int:
        """Return the number of recorded ids."""
        return sum(map(len, self._whole)) + sum(map(len, self._parts))

    def note(self, ids: Ids) -> None:
        """Add ids, int32 [n]; the array is stored, not copied. Amortised O(n)."""
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
        """Return the ids since the last call. O(ids)."""
        parts = [*self._whole, *self._parts]
        self._whole, self._parts, self._count = [], [], 0
        return [block_id for ids in parts for block_id in ids.tolist()]
