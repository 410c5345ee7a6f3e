"""Compiled operations on the list of free blocks, which lies inside the records in eviction order.

The list is circular and doubly linked. Its first member is evicted first. The extra record at the end of the records
is the sentinel, whose `ref_cnt` counts the members.
"""

from typing import Any

import numpy as np

from kvgpu.blocks.record import IN_TABLE
from kvgpu.compiled.jit import AHEAD, jit, leaf, prefetch

GUESSED = 2 * AHEAD
"""Number of steps by which a walk loads records ahead: each step takes a few cycles."""

SHORT_STRIDE = 8
"""A step of at most this length begins a run as soon as it occurs. A longer one, which may lead from one run to
another, begins a run only if it occurs twice in a row."""


@leaf
def unlink(records: Any, block_id: int) -> None:
    """Remove a member from the queue."""
    prev = records[block_id].prev
    next = records[block_id].next
    records[prev].next = next
    records[next].prev = prev
    records[block_id].prev = -1
    records[block_id].next = -1
    records[len(records) - 1].ref_cnt -= 1


@leaf
def link_after(records: Any, block_id: int, prev: int) -> None:
    """Put a block after `prev`, which is a member or the sentinel."""
    next = records[prev].next
    records[block_id].prev = prev
    records[block_id].next = next
    records[prev].next = block_id
    records[next].prev = block_id
    records[len(records) - 1].ref_cnt += 1


@jit
def link_all(records: Any, start: int) -> None:
    """Make the queue hold the blocks from `start` on, in id order."""
    sentinel = len(records) - 1
    for block_id in range(start):
        records[block_id].prev = -1
        records[block_id].next = -1
    for block_id in range(start, sentinel):
        records[block_id].prev = block_id - 1
        records[block_id].next = block_id + 1
    if start < sentinel:
        records[start].prev = sentinel
        records[sentinel].next = start
        records[sentinel].prev = sentinel - 1
    else:
        records[sentinel].next = sentinel
        records[sentinel].prev = sentinel
    records[sentinel].ref_cnt = sentinel - start


@leaf
def load_guess(records: Any, guess: int) -> None:
    """Start loading the record of a guessed block, if there is such a block."""
    if 0 <= guess < len(records) - 1:
        prefetch(records, guess)


@leaf
def load_ahead(records: Any, block_id: int, after: int, stride: int, before: int, left: int) -> tuple[int, int]:
    """Start loading the records that a walk of the list will probably reach after `after`, which follows `block_id`.

    A linked list can only be walked one member at a time. But blocks that were freed together often lie side by side,
    or at a constant distance: the number of requests that grew in step. So the record some strides further on is
    guessed. If such a run begins or ends, much of the next run, which is assumed to have the same stride, is loaded at
    once: otherwise the walk would wait for its records one after the other.

    Args:
        stride: Distance from one record of the run to the next, 0 if unknown.
        before: The step that led to `block_id`, 0 if unknown.
        left: Number of records that the walk takes from `block_id` on.

    Returns:
        The stride, and the step that led to `after`.
    """
    step = after - block_id
    ahead, at_once = stride, 0
    if step != stride:
        if step == before or abs(step) <= SHORT_STRIDE:
            ahead = stride = step
            at_once = min(left, GUESSED - 1)
        elif before == stride != 0:
            at_once = min(left, GUESSED - 1)
        else:
            ahead = step
    for steps in range(1, at_once + 1):
        load_guess(records, after + steps * ahead)
    load_guess(records, after + GUESSED * ahead)
    return stride, step


@leaf
def leave(records: Any, block_id: int, ref_cnt: int) -> int:
    """Set the reference count of the queue's first block and return the block after it. The caller must call `cut`."""
    # Unsigned, here and in the callers: compiled code then does not test whether an index counts from the end.
    record = records[np.uint64(block_id)]
    after = record.next
    record.prev = -1
    record.next = -1
    record.ref_cnt = ref_cnt
    return int(after)


@leaf
def cut(records: Any, head: int, count: int) -> None:
    """Make the queue begin with `head`, after `count` members have left it."""
    sentinel = len(records) - 1
    records[sentinel].next = head
    records[head].prev = sentinel
    records[sentinel].ref_cnt -= count


@jit
def pop_free(records: Any, count: int, ref_cnt: int) -> Any:
    """Take the first `count` blocks; return their ids, and how many of them the index still holds.

    The queue must have at least `count` members.
    """
    ids = np.empty(count, np.int32)
    cached = 0
    block_id, stride, step = records[len(records) - 1].next, 0, 0
    for i in range(count):
        ids[i] = block_id
        if records[block_id].flags & IN_TABLE:
            cached += 1
        after = leave(records, block_id, ref_cnt)
        stride, step = load_ahead(records, block_id, after, stride, step, count - i)
        block_id = after
    cut(records, block_id, count)
    return ids, cached


@leaf
def touch_all(records: Any, ids: Any, null_id: int) -> None:
    """Add one user to each block; blocks that were free leave the queue (fact 15).

    The neighbours of a block are loaded `AHEAD` rounds before they are needed.
    """
    for i in range(-AHEAD, len(ids)):
        if i + AHEAD < len(ids):
            neighbours = records[ids[i + AHEAD]]
            if neighbours.next >= 0:
                prefetch(records, neighbours.prev)
                prefetch(records, neighbours.next)
        if i < 0:
            continue
        block_id = ids[i]
        if records[block_id].ref_cnt == 0 and block_id != null_id:
            unlink(records, block_id)
        records[block_id].ref_cnt += 1


@jit
def touch(records: Any, ids: Any, null_id: int) -> None:
    """Do what `touch_all` does, for callers in Python."""
    touch_all(records, ids, null_id)


@jit
def recount(records: Any, users: Any, null_id: int) -> None:
    """Give every block the number of users in `users`, and make the queue hold exactly the blocks without users."""
    sentinel = len(records) - 1
    for block_id in range(sentinel):
        if block_id == null_id:
            continue
        records[block_id].ref_cnt = users[block_id]
        is_free = records[block_id].next >= 0
        if users[block_id] > 0 and is_free:
            unlink(records, block_id)
        elif users[block_id] == 0 and not is_free:
            link_after(records, block_id, records[sentinel].prev)


@leaf
def count_free(records: Any, ids: Any, null_id: int) -> int:
    """Count the blocks that are free and would leave the queue if they were touched."""
    count = 0
    for i in range(len(ids)):
        if records[ids[i]].ref_cnt == 0 and ids[i] != null_id:
            count += 1
    return count


@jit
def count_unused(records: Any, ids: Any, null_id: int) -> int:
    """Do what `count_free` does, for callers in Python."""
    return count_free(records, ids, null_id)


@jit
def free_ids(records: Any) -> Any:
    """Return the ids in the queue, first member first."""
    sentinel = len(records) - 1
    ids = np.empty(records[sentinel].ref_cnt, np.int32)
    block_id = records[sentinel].next
    for i in range(len(ids)):
        ids[i] = block_id
        block_id = records[block_id].next
    return ids


@jit
def unlink_one(records: Any, block_id: int) -> None:
    """Do what `unlink` does, for callers in Python."""
    unlink(records, block_id)


@jit
def link_many(records: Any, ids: Any, prepend: bool) -> None:
    """Put blocks after the last member, or with `prepend` before the first, in order."""
    sentinel = len(records) - 1
    old_head = records[sentinel].next
    for i in range(len(ids)):
        link_after(records, ids[i], records[old_head if prepend else sentinel].prev)
