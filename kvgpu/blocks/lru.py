"""Compiled operations on the queue of free blocks; its first member is evicted first.

`free` is a `FreeQueue`. Python passes its arrays one by one, since that is faster.
"""

from typing import Any

import numpy as np

from kvgpu.blocks.eviction_calls import FREED, TAKEN, TOUCHED, tell_policy
from kvgpu.blocks.free_order import (
    GAP,
    HEAD,
    NUM_FREE,
    OUTSIDE,
    SWEEPING,
    TAIL,
    FreeQueue,
    make_slots,
    next_member,
    put,
    slot_of,
    unlink,
)
from kvgpu.compiled.jit import AHEAD, jit, leaf, prefetch

FAR = 4 * AHEAD
"""Members between loading what is known of a block and taking the block: a step of the walk takes a few cycles."""


@jit
def link_all(uses: Any, order: Any, words: Any, ids: Any) -> None:
    """Make the queue hold `ids`, int32 [n], in this order, and nothing else."""
    free = FreeQueue(uses, order, words)
    for block_id in range(len(uses) - 1):
        uses[block_id].place = OUTSIDE
    words[HEAD] = words[SWEEPING] = 0
    words[TAIL] = words[NUM_FREE] = len(ids)
    for i in range(len(ids)):
        put(free, ids[i], i)


@leaf
def load_later(free: Any, array: Any, number: int) -> None:
    """Start loading what an array has of the block that will be taken `FAR` members after the one with a number."""
    later = free.order[slot_of(free.order, number + FAR)]
    if later != GAP:
        prefetch(array, later)


@leaf
def leave(free: Any, number: int, ref_cnt: int) -> int:
    """Return the member with a number, the first of the queue, and set its reference count; the caller calls `cut`."""
    block_id = free.order[slot_of(free.order, number)]
    load_later(free, free.uses, number)
    use = free.uses[np.uint64(block_id)]
    use.place = OUTSIDE
    use.ref_cnt = ref_cnt
    return int(block_id)


@leaf
def cut(words: Any, number: int, count: int) -> None:
    """Make the queue begin with a number, after `count` members have left it."""
    words[HEAD] = number
    words[NUM_FREE] -= count


@jit
def pop_free(uses: Any, order: Any, words: Any, count: int, ref_cnt: int) -> Any:
    """Take the first `count` blocks and return their ids, int32. The queue must have at least `count` members."""
    free = FreeQueue(uses, order, words)
    tell_policy(words, TAKEN, count, 0)
    number, taken = words[HEAD], 0
    ids = np.empty(count, np.int32)
    while taken < count:
        number = next_member(order, number, words[TAIL])
        if number == words[TAIL]:
            break
        ids[taken] = leave(free, number, ref_cnt)
        number += 1
        taken += 1
    cut(words, number, taken)
    return ids[:taken]


@leaf
def touch_all(free: Any, ids: Any, null_id: int) -> None:
    """Add one user to each block; blocks that were free leave the queue (fact 15).

    What is known of them is loaded `FAR` rounds before it is needed, and then their slots.
    """
    uses, count = free.uses, len(ids)
    for i in range(-min(FAR, count), count):
        if i + FAR < count:
            prefetch(uses, ids[i + FAR])
        soon = i + FAR // 2
        if 0 <= soon < count:
            place = uses[ids[soon]].place
            if place != OUTSIDE:
                prefetch(free.order, place)
        if i < 0:
            continue
        block_id = ids[i]
        if uses[block_id].ref_cnt == 0 and block_id != null_id:
            unlink(free, block_id)
        uses[block_id].ref_cnt += 1
    tell_policy(free.queue_words, TOUCHED, ids.ctypes.data, count)


@jit
def touch(uses: Any, order: Any, words: Any, ids: Any, null_id: int) -> None:
    """Do what `touch_all` does, for callers in Python."""
    touch_all(FreeQueue(uses, order, words), ids, null_id)


@leaf
def link_last(free: Any, block_id: int) -> None:
    """Put a block after the last member."""
    make_slots(free, 1)
    put(free, block_id, free.queue_words[TAIL])
    free.queue_words[TAIL] += 1
    free.queue_words[NUM_FREE] += 1


@jit
def recount(uses: Any, order: Any, words: Any, users: Any, null_id: int) -> None:
    """Give every block the number of users in `users`, and make the queue hold exactly the blocks without users."""
    free = FreeQueue(uses, order, words)
    first = words[TAIL]
    for block_id in range(len(uses) - 1):
        if block_id == null_id:
            continue
        uses[block_id].ref_cnt = users[block_id]
        if users[block_id] > 0:
            unlink(free, block_id)
        elif uses[block_id].place == OUTSIDE:
            link_last(free, block_id)
    tell_policy(words, FREED, first, words[TAIL])


@leaf
def count_free(uses: Any, ids: Any, null_id: int) -> int:
    """Count the blocks that are free and would leave the queue if they were touched."""
    count = 0
    for i in range(len(ids)):
        if uses[ids[i]].ref_cnt == 0 and ids[i] != null_id:
            count += 1
    return count


@jit
def count_unused(uses: Any, ids: Any, null_id: int) -> int:
    """Do what `count_free` does, for callers in Python."""
    return count_free(uses, ids, null_id)


@jit
def free_ids(order: Any, words: Any, most: int) -> Any:
    """Return the ids in the queue, first member first: at most so many."""
    ids = np.empty(max(0, min(most, words[TAIL] - words[HEAD], len(order))), np.int32)
    number = words[HEAD]
    for i in range(len(ids)):
        number = next_member(order, number, words[TAIL])
        if number == words[TAIL]:
            return ids[:i]
        ids[i] = order[slot_of(order, number)]
        number += 1
    return ids


@jit
def neighbour(uses: Any, order: Any, words: Any, block_id: int, step: int) -> int:
    """Return the member after a block (step 1) or before it (step -1): the number of blocks at an end, -1 outside.

    The number of blocks also stands for what precedes the first member and follows the last. O(gaps in between).
    """
    if block_id == len(uses) - 1:
        number = words[HEAD] if step > 0 else words[TAIL] - 1
    elif uses[block_id].place == OUTSIDE:
        return -1
    else:
        number = words[HEAD] + ((uses[block_id].place - words[HEAD]) & (len(order) - 1)) + step
    while words[HEAD] <= number < words[TAIL]:
        member = order[slot_of(order, number)]
        if member != GAP:
            return int(member)
        number += step
    return len(uses) - 1


@jit
def unlink_one(uses: Any, order: Any, words: Any, block_id: int) -> None:
    """Do what `unlink` does, for callers in Python."""
    unlink(FreeQueue(uses, order, words), block_id)
