"""What must hold for the records at any time; each function describes the violations, one sentence each."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from kvgpu.blocks.free_order import GAP, HEAD, NUM_FREE, OUTSIDE, TAIL
from kvgpu.blocks.index_meta import CELL_MASK, CELLS, FULL_CELL, NUM_LED, cell_of
from kvgpu.blocks.record import COUNTED, FIRST, HAS_HASH, IN_TABLE, LEADS, LED, NO_IDS, Ids
from kvgpu.blocks.state import BlockState
from kvgpu.compiled.jit import jit


@jit
def _cell_of(meta: Any, k0: int, group: int) -> int:
    """Do what `cell_of` does, for callers in Python."""
    return cell_of(meta, k0, group)


def queue_violations(state: BlockState) -> list[str]:
    """Check that a block is in the free queue, once, exactly if it has no users. O(num_blocks)."""
    uses, order, words = state.free
    first, end, slots = int(words[HEAD]), int(words[TAIL]), len(order)
    if not 0 <= end - first <= slots:
        return [f"the free queue uses {end - first} of {slots} slots"]
    used = np.arange(first, end) % slots
    used = used[order[used] != GAP]
    queued, users, places = order[used], uses["ref_cnt"][:-1], uses["place"][:-1]
    if ((queued < 0) | (queued >= state.num_blocks)).any():
        return ["the free queue leads out of the pool"]
    in_queue = np.zeros(state.num_blocks, np.bool_)
    in_queue[queued] = True
    unused = users == 0
    unused[state.null_id] = False
    found = []
    if len(queued) != words[NUM_FREE]:
        found.append(f"the free queue holds {len(queued)} blocks, and counts {words[NUM_FREE]}")
    if (places[queued] != used).any() or (places[~in_queue] != OUTSIDE).any():
        found.append("blocks do not know their places in the free queue")
    if len(np.unique(queued)) != len(queued):
        found.append("the free queue holds a block twice")
    found += [f"block {bad} is free with {users[bad]} users" for bad in np.flatnonzero(in_queue & ~unused)]
    found += [f"block {bad} has no users and is not free" for bad in np.flatnonzero(unused & ~in_queue)]
    return found


def led_violations(state: BlockState) -> list[str]:
    """Check the led blocks and the filter. O(num_blocks).

    A led block is the only one with its key, and the successor of one first block, which is flagged LEADS. The filter
    counts exactly the keys whose first blocks are flagged COUNTED.
    """
    records = state.records[:-1]
    flags, same_prev, successor = (records[n] for n in ("flags", "same_prev", "successor"))
    led, leading = np.flatnonzero(flags & LED), np.flatnonzero(flags & LEADS)
    needed = FIRST | IN_TABLE | HAS_HASH
    found = []
    for block_id in led.tolist():
        head = int(same_prev[block_id])
        if flags[block_id] & needed != needed or records["same_next"][block_id] != block_id:
            found.append(f"led block {block_id} is not the only one in the index with its key")
        if not (0 <= head < state.num_rows and flags[head] & LEADS and successor[head] == block_id):
            found.append(f"led block {block_id} is not the successor of any block")
    for block_id in leading.tolist():
        child = int(successor[block_id])
        if not flags[block_id] & FIRST:
            found.append(f"block {block_id} leads, but is not the first with its key")
        if not (0 <= child < state.num_rows and flags[child] & LED and same_prev[child] == block_id):
            found.append(f"block {block_id} leads to no led block")
    if state.meta[NUM_LED] != len(led):
        found.append(f"{len(led)} blocks are led, {state.meta[NUM_LED]} are counted")
    counted = np.flatnonzero(flags & COUNTED)
    if (flags[counted] & (FIRST | LED) != FIRST).any():
        found.append("the filter counts a block that has no word in the table")
    cells = [
        _cell_of(state.meta, int(records["k0"][block_id]), int(records["group"][block_id]))
        for block_id in counted.tolist()
    ]
    expected = np.bincount(np.array(cells, np.int64), minlength=int(state.meta[CELL_MASK]) + 1)
    held = state.meta[CELLS:].view(np.uint8)
    if ((held != expected) & (held != FULL_CELL)).any():
        found.append("the filter counts other keys than its blocks have")
    heads = records[flags & FIRST != 0]
    keys = np.unique(heads[["k0", "k1", "k2", "k3", "group"]])
    if len(keys) != len(heads):
        found.append("two blocks are the first with one key")
    return found


def use_violations(state: BlockState, tables: Sequence[Ids], handed_out: npt.NDArray[np.int32]) -> list[str]:
    """Check that a block's count of users is the number of its places in block tables plus its other uses.

    Args:
        state: Records of the pool.
        tables: int32 ids of each block table; negative ids, which belong to other pools, are skipped.
        handed_out: int32 [num_blocks], uses outside block tables.

    O(num_blocks + ids).
    """
    held = np.concatenate([NO_IDS, *tables])
    users = np.bincount(held[held >= 0], minlength=state.num_blocks)
    users[state.null_id] = 0
    count = state.free.uses["ref_cnt"][:-1].copy()
    count[state.null_id] = 0
    return [
        f"block {bad} is in {users[bad]} block tables, but counts {count[bad]} users"
        + (f"; it was handed out {handed_out[bad]} times" if handed_out[bad] else "")
        for bad in np.flatnonzero(users + handed_out != count)
    ]
