"""Compiled release of blocks: one user less for each, and those without users enter the queue of free blocks.

`free` is a `FreeQueue`. Python passes its arrays one by one, since that is faster.
"""

from typing import Any

import numpy as np

from kvgpu.blocks.eviction_calls import FREED, tell_policy
from kvgpu.blocks.free_order import GAP, HEAD, NUM_FREE, TAIL, FreeQueue, make_slots, put, slot_of
from kvgpu.blocks.record import HAS_HASH
from kvgpu.compiled.jit import AHEAD, jit, leaf, prefetch

EARLY = 6 * AHEAD
"""Blocks between loading what is known of a block and releasing the block, which takes a few cycles."""


@leaf
def begin_run(free: Any, count: int, prepend: bool) -> int:
    """Return the number of the slot that the first of at most `count` new members gets."""
    # Null blocks and blocks that others use may be many more than the pool has.
    count = min(count, len(free.uses) - 1 - free.queue_words[NUM_FREE])
    make_slots(free, count)
    return int(free.queue_words[HEAD] - count if prepend else free.queue_words[TAIL])


@leaf
def drop_user(free: Any, block_id: int, number: int, null_id: int) -> int:
    """Remove one user from a block; return the number of the slot that the next new member gets.

    If the block has no users after that, it enters the queue at `number`.
    """
    use = free.uses[np.uint64(block_id)]
    users = use.ref_cnt - 1
    use.ref_cnt = users
    if users != 0 or block_id == null_id:
        return number
    put(free, block_id, number)
    return number + 1


@leaf
def end_run(free: Any, first: int, number: int, prepend: bool) -> None:
    """Count the new members, whose numbers are [first, number)."""
    order, words = free.order, free.queue_words
    words[NUM_FREE] += number - first
    if prepend:
        for rest in range(number, words[HEAD]):
            order[slot_of(order, rest)] = GAP
        words[HEAD] = first
    else:
        words[TAIL] = number
    tell_policy(words, FREED, first, number)


@leaf
def release_all(free: Any, ids: Any, null_id: int, backwards: bool, prepend: bool) -> None:
    """Remove one user from each block; blocks without users enter the queue in the given order.

    With `prepend` the whole run precedes the present first member (fact 16).
    """
    count = len(ids)
    first = number = begin_run(free, count, prepend)
    for i in range(-min(EARLY, count), count):
        far = i + EARLY
        if far < count:
            prefetch(free.uses, ids[count - 1 - far] if backwards else ids[far])
        if i < 0:
            continue
        number = drop_user(free, ids[count - 1 - i] if backwards else ids[i], number, null_id)
    end_run(free, first, number, prepend)


@jit
def release(uses: Any, order: Any, words: Any, ids: Any, null_id: int, backwards: bool, prepend: bool) -> None:
    """Do what `release_all` does, for callers in Python."""
    release_all(FreeQueue(uses, order, words), ids, null_id, backwards, prepend)


@leaf
def release_kind(free: Any, records: Any, ids: Any, null_id: int, with_hash: bool, prepend: bool) -> None:
    """Do what `release_all` does, last block first, for the blocks that have a hash or for those that have none.

    Two passes take the place of two lists, because giving blocks back must not need memory.
    """
    count = len(ids)
    first = number = begin_run(free, count, prepend)
    for i in range(count + min(AHEAD, count) - 1, -1, -1):
        if i >= AHEAD:
            prefetch(records, ids[i - AHEAD])
        if i >= count:
            continue
        block_id = ids[i]
        if block_id == null_id or (records[block_id].flags & HAS_HASH != 0) != with_hash:
            continue
        number = drop_user(free, block_id, number, null_id)
    end_run(free, first, number, prepend)


@leaf
def release_split(free: Any, records: Any, ids: Any, null_id: int) -> None:
    """Remove one user from each block; blocks that were never cached are reused first, cached ones last.

    Args:
        records: BLOCK_RECORD [blocks + 1].
    """
    release_kind(free, records, ids, null_id, True, False)
    release_kind(free, records, ids, null_id, False, True)


@jit
def release_by_hash(uses: Any, order: Any, words: Any, records: Any, ids: Any, null_id: int) -> None:
    """Do what `release_split` does, for callers in Python."""
    release_split(FreeQueue(uses, order, words), records, ids, null_id)


@jit
def link_many(uses: Any, order: Any, words: Any, ids: Any, prepend: bool) -> None:
    """Put blocks after the last member, or with `prepend` before the first, in order."""
    free = FreeQueue(uses, order, words)
    first = number = begin_run(free, len(ids), prepend)
    for i in range(len(ids)):
        put(free, ids[i], number)
        number += 1
    end_run(free, first, number, prepend)
