"""What must hold of the records at any time; each function lists what does not, in words."""

from collections.abc import Sequence

import numpy as np

from kvgpu.blocks import NO_IDS, BlockState, Ids
from kvgpu.free_list import free_ids


def queue_violations(state: BlockState) -> list[str]:
    """A block is in the free queue, once, exactly if nobody uses it. O(num_blocks)."""
    records = state.records[:-1]
    queued = free_ids(state.records)
    in_queue = np.zeros(state.num_blocks, np.bool_)
    in_queue[queued[queued < state.num_blocks]] = True
    unused = records["ref_cnt"] == 0
    unused[state.null_id] = False
    found = []
    ring = np.concatenate([[state.num_blocks], queued, [state.num_blocks]])
    if (state.records["prev"][ring[1:]] != ring[:-1]).any():
        found.append("the free queue reads differently from its two ends, or its count is wrong")
    if len(np.unique(queued)) != len(queued):
        found.append("the free queue holds a block twice")
    found += [
        f"block {bad} is free with {records['ref_cnt'][bad]} users"
        for bad in np.flatnonzero(in_queue & ~unused)
    ]
    found += [
        f"block {bad} has no users and is not free" for bad in np.flatnonzero(unused & ~in_queue)
    ]
    return found


def table_violations(state: BlockState, tables: Sequence[Ids]) -> list[str]:
    """A block counts as many users as there are places in block tables that hold it.

    Args:
        state: Records of the pool.
        tables: int32 ids of each block table; negative ones, of other pools, are passed over.
    """
    held = np.concatenate([NO_IDS, *tables])
    users = np.bincount(held[held >= 0], minlength=state.num_blocks)
    users[state.null_id] = 0
    count = state.records["ref_cnt"][:-1]
    # Blocks handed out directly by the pool are in no table.
    return [
        f"block {bad} is in {users[bad]} block tables, but counts {count[bad]} users"
        for bad in np.flatnonzero((users > 0) & (users != count))
    ]
