"""`BatchAllocation`: what a batch of requests got."""

from typing import Any

import numpy as np
import numpy.typing as npt

from kvgpu.batch.row_blocks import RowBlocks
from kvgpu.batch.rows.record import RowIds
from kvgpu.block_tables.store import BEGIN, LENGTH
from kvgpu.blocks.record import Ids
from kvgpu.compiled.jit import jit
from kvgpu.errors import ArgumentError, ArgumentTypeError
from kvgpu.integers import as_integer

NO_SLOT = -1
"""What a slot mapping holds for tokens without a block, which cannot be written."""


@jit
def _slots(
    block_tables: Any, store_ids: Any, table_ids: Any, firsts: Any, counts: Any, block_size: int, out: Any
) -> None:
    """Write the slots of tokens firsts[i] to firsts[i] + counts[i] of block table table_ids[i] of the store."""
    place = 0
    for i in range(len(table_ids)):
        begin = block_tables[table_ids[i], BEGIN]
        length = block_tables[table_ids[i], LENGTH]
        for position in range(firsts[i], firsts[i] + counts[i]):
            place_of_block = position // block_size
            out[place] = NO_SLOT
            if place_of_block < length:
                out[place] = store_ids[begin + place_of_block] * block_size + position % block_size
            place += 1


NewBlocks = tuple[npt.NDArray[np.int64], Ids, npt.NDArray[np.int64]]
"""New blocks of the rows of a batch that got slots and needed something.

Places of these rows in the batch, int64 [m]; ids, int32, group by group and then row by row; and offsets, int64
[groups, m + 1]: ids offsets[g, i] to offsets[g, i + 1] belong to row places[i] in group g. A plain tuple: a named one
takes 0.3 us to make, and a whole batch some 10.
"""


class BatchAllocation:
    """Slots that `BatchManager.allocate_batch` gave.

    Attributes:
        rows: int64 [n], as they were given.
        fits: bool [n], which got their slots.
        num_hit_tokens: int64 [n], tokens found in the cache, for rows that were looked up.
        num_new_tokens: int64 [n], tokens to compute; 0 for those that did not fit.
        num_tried: Rows that were tried; fewer than n only with `stop_when_full`.
        block_ids: int32, all new blocks, group by group and then row by row.
    """

    def __init__(
        self,
        blocks: RowBlocks,
        rows: RowIds,
        fits: npt.NDArray[np.bool_],
        num_hit_tokens: npt.NDArray[np.int64],
        num_new_tokens: npt.NDArray[np.int64],
        num_tried: int,
        new_blocks: NewBlocks,
    ) -> None:
        self.rows = rows
        self.fits = fits
        self.num_hit_tokens = num_hit_tokens
        self.num_new_tokens = num_new_tokens
        self.num_tried = num_tried
        self.block_ids = new_blocks[1]
        self._new_blocks = new_blocks
        self._blocks = blocks
        self._made = blocks.moment()

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.rows)

    def get_block_ids(self, place: int) -> tuple[list[int], ...]:
        """Return the new blocks of the row at `place`, per group. O(log n + blocks).

        Raises:
            ArgumentError, ArgumentTypeError: There is no such place.
        """
        place = as_integer("place", place, 0, len(self.rows) - 1)
        places, ids, offsets = self._new_blocks
        at = int(np.searchsorted(places, place))
        if at == len(places) or places[at] != place:
            return tuple([] for _ in offsets)
        return tuple(ids[part[at] : part[at + 1]].tolist() for part in offsets)

    def slot_mapping(self, group: int = 0, *, out: npt.NDArray[np.int64] | None = None) -> npt.NDArray[np.int64]:
        """Return where the keys and values of the new tokens go: block id * block size + place in the block.

        Ask before anything else is allocated, freed or taken back.

        Args:
            group: Cache group.
            out: int64 [total new tokens] to write to; a new array if None.

        Returns:
            int64 [total new tokens], row by row; NO_SLOT for tokens without a block.

        Raises:
            ArgumentError: No such group, `out` of another shape or dtype, blocks that are shared by
                ranks of context parallelism, or slots may have changed since.
            ArgumentTypeError: `out` is no array.

        O(new tokens).
        """
        blocks = self._blocks
        group = as_integer("group", group, 0, len(blocks.single_managers) - 1)
        single = blocks.single_managers[group]
        if blocks.moment() != self._made:
            raise ArgumentError(
                "requests were allocated, freed or taken back since: ask for the slot mapping before the next call"
            )
        if single.block_size != single.kv_cache_spec.block_size:
            raise ArgumentError("blocks of several ranks: each rank has slots of its own")
        total = int(self.num_new_tokens.sum())
        if out is None:
            out = np.empty(total, np.int64)
        elif not isinstance(out, np.ndarray):
            raise ArgumentTypeError(f"out: an array is expected, got {type(out).__name__}")
        elif out.shape != (total,) or out.dtype != np.int64 or not out.flags.carray:
            raise ArgumentError(
                f"out: int64 [{total}] that is contiguous and writeable is expected, got {out.dtype} {out.shape}"
            )
        served = self.num_new_tokens > 0
        rows, counts = self.rows[served], self.num_new_tokens[served]
        firsts = blocks.rows.records["num_computed"][rows] - counts
        tables = blocks.table_ids[rows, group].copy()
        _slots(blocks.store.tables, blocks.store.ids, tables, firsts, counts, single.block_size, out)
        return out
