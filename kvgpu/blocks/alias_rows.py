"""`AliasRows`: rows of the records, after those of the blocks, for further keys of blocks."""

import numpy as np
import numpy.typing as npt

from kvgpu.blocks.record import Ids


class AliasRows:
    """Which block each row of the records is about: a block has one row of its own, and others for its aliases.

    An index holds rows, and does not know whose they are.

    Args:
        num_blocks: Blocks, whose rows come first; the row after them is that of the placeholders in the free queue.
        count: Rows for aliases.

    Attributes:
        owners: int32 [rows], the block of each row; empty without rows for aliases.
        counts: int32 [num_blocks], rows that each block has besides its own; empty without rows for aliases.
    """

    def __init__(self, num_blocks: int, count: int) -> None:
        self._first, self._count = num_blocks + 1, count
        self.owners: Ids = np.arange(num_blocks + 1 + count if count else 0, dtype=np.int32)
        self.counts: npt.NDArray[np.int32] = np.zeros(num_blocks if count else 0, np.int32)
        self._spare: list[int] = []
        self._rows: dict[int, list[int]] = {}
        self.clear()

    def of(self, block_id: int) -> list[int]:
        """Return the rows of a block besides its own, in the order in which it got them. O(rows of the block)."""
        return list(self._rows.get(block_id, ()))

    def owner(self, row: int) -> int:
        """Return the block of a row. O(1)."""
        return row if row < self._first else int(self.owners[row])

    def take(self, block_id: int) -> int:
        """Give a block another row and return it, or -1 if there is none. O(1)."""
        if not self._spare:
            return -1
        row = self._spare.pop()
        self.owners[row] = block_id
        self.counts[block_id] += 1
        self._rows.setdefault(block_id, []).append(row)
        return row

    def give(self, row: int) -> None:
        """Take back a row, which the index does not hold any more. O(rows of its block)."""
        block_id = int(self.owners[row])
        self._rows[block_id].remove(row)
        if not self._rows[block_id]:
            del self._rows[block_id]
        self.counts[block_id] -= 1
        self._spare.append(row)

    def clear(self) -> None:
        """Take back all rows. O(rows)."""
        self._rows.clear()
        self.counts[:] = 0
        self._spare = list(range(self._first + self._count - 1, self._first - 1, -1))
