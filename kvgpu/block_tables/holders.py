"""`BlockHolders`: who holds the blocks of a pool."""

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from kvgpu.block_tables.store import BlockTableStore
from kvgpu.blocks.invariants import use_violations
from kvgpu.blocks.lru import recount
from kvgpu.blocks.record import NO_IDS, Ids
from kvgpu.blocks.state import BlockState
from kvgpu.compiled.jit import jit
from kvgpu.errors import BlockStateError
from kvgpu.exclusive import Turn

if TYPE_CHECKING:
    from kvgpu.block_tables.by_request import BlockTables


@jit
def hand_out(uses: Any, ids: Any, null_id: int, last: Any, call: int) -> None:
    """Count one use more of each block; `last`, int64 [1], receives the number of the call."""
    for i in range(len(ids)):
        if ids[i] != null_id:
            uses[ids[i]] += 1
    last[0] = call


@jit
def hand_back(uses: Any, ids: Any, null_id: int) -> int:
    """Count one use less of each block and return -1; or change nothing and return the place of one without uses."""
    for i in range(len(ids)):
        if ids[i] == null_id:
            continue
        if uses[ids[i]] == 0:
            for j in range(i):
                if ids[j] != null_id:
                    uses[ids[j]] += 1
            return i
        uses[ids[i]] -= 1
    return -1


class BlockHolders:
    """Who holds which blocks: block tables of requests, pins, and callers to whom blocks were handed out.

    A block is in use as often as these say; its reference count in the records follows from them.

    Args:
        state: Records of the pool.
        turn: Of the pool: its number says in which call blocks were handed out.

    Attributes:
        store: Memory of the block tables.
        of_groups: Block tables of each group.
        pins: Blocks that stay in use until a name is unpinned, int32 [n], each once; by name.
        handed_out: int32 [num_blocks]: uses that callers have to give back.
        last_hand_out: int64 [1], number of the call that last handed out blocks; 0 once they stay with their caller.
    """

    def __init__(self, state: BlockState, turn: Turn) -> None:
        self.store = BlockTableStore()
        self.of_groups: list[BlockTables] = []
        self.pins: dict[str, Ids] = {}
        self.handed_out: npt.NDArray[np.int32] = np.zeros(state.num_blocks, np.int32)
        self._state = state
        self._turn = turn
        self._in_transit = NO_IDS
        self.last_hand_out: npt.NDArray[np.int64] = np.zeros(1, np.int64)

    def hand_out(self, ids: Ids) -> None:
        """Count one use by the caller for each id; an interrupt of the call takes it back. O(ids)."""
        self._in_transit = ids
        hand_out(self.handed_out, ids, self._state.null_id, self.last_hand_out, self._turn.number)

    def hand_back(self, ids: Ids) -> None:
        """Take back one use by the caller for each id. O(ids).

        Raises:
            BlockStateError: A block was not handed out so often. Nothing is changed.
        """
        place = hand_back(self.handed_out, ids, self._state.null_id)
        if place >= 0:
            raise BlockStateError(
                f"block {ids[place]} was not handed out by get_new_blocks() or touch(), or is given back already; "
                "blocks of a request are freed by KVCacheManager.free()"
            )

    def violations(self) -> list[str]:
        """Describe what does not agree with the reference counts. O(num_blocks + ids)."""
        return use_violations(self._state, self._held(), self.handed_out)

    def restore(self) -> None:
        """Count all anew, after an exception from outside has cut a call short. O(num_blocks + ids).

        Memory of tables that belong to no request is given back, and so are blocks that were on their way to the
        caller. A block that nobody holds is free.
        """
        if self.last_hand_out[0] == self._turn.number:
            hand_back(self.handed_out, self._in_transit, self._state.null_id)
            self.last_hand_out[0] = 0
        self.store.close_all_but({table_id for tables in self.of_groups for table_id in tables.table_ids()})
        held = np.concatenate([NO_IDS, *self._held()])
        users = np.bincount(held[held >= 0], minlength=self._state.num_blocks) + self.handed_out
        recount(*self._state.free, users, self._state.null_id)

    def forget_covered(self) -> None:
        """Have the next call for each request look whether it needs anything. O(requests)."""
        for tables in self.of_groups:
            for blocks in tables.values():
                blocks.covered_until = 0

    def _held(self) -> list[Ids]:
        """Ids of all block tables and pins."""
        return [*(blocks.ids for tables in self.of_groups for blocks in tables.values()), *self.pins.values()]
