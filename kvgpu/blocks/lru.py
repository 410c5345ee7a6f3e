"""Compiled operations on the list of free blocks, which lies inside the records in eviction order.

The list is circular and doubly linked. Its first member is evicted first. The extra record at the end of the records
is the sentinel, whose `ref_cnt` counts the members.
"""

from typing import Any

import numpy as np

from kvgpu.blocks.record import HAS_HASH, IN_TABLE
from kvgpu.compiled.jit import AHEAD, jit, leaf, prefetch

GUESSED = 2 * AHEAD
"""Number of steps by which a walk loads records ahead: each step takes a few cycles."""

SHORT_STRIDE = 8
"""A step of at most this length begins a run as soon as it occurs. A longer one, which may lead from one run to
another, begins a run only if it occurs twice in a row."""


@leaf
def unlink(records: Any, row: int) -> None:
    """Remove a member from the queue."""
    prev = records[row].prev
    next = records[row].next
    records[prev].next = next
    records[next].prev = prev
    records[row].prev = -1
    records[row].next = -1
    records[len(records) - 1].ref_cnt -= 1


@leaf
def link_after(records: Any, row: int, prev: int) -> None:
    """Put block `row` after `prev`, which is a member or the sentinel."""
    next = records[prev].next
    records[row].prev = prev
    records[row].next = next
    records[prev].next = row
    records[next].prev = row
    records[len(records) - 1].ref_cnt += 1


@jit
def link_all(records: Any, start: int) -> None:
    """Make the queue hold the blocks from `start` on, in id order."""
    sentinel = len(records) - 1
    for row in range(start):
        records[row].prev = -1
        records[row].next = -1
    for row in range(start, sentinel):
        records[row].prev = row - 1
        records[row].next = row + 1
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
def load_ahead(records: Any, row: int, after: int, stride: int, before: int, left: int) -> tuple[int, int]:
    """Start loading the records that a walk of the list will probably reach after `after`, which follows `row`.

    A linked list can only be walked one member at a time. But blocks that were freed together often lie side by side,
    or at a constant distance: the number of requests that grew in step. So the record some strides further on is
    guessed. If such a run begins or ends, much of the next run, which is assumed to have the same stride, is loaded at
    once: otherwise the walk would wait for its records one after the other.

    Args:
        stride: Distance from one record of the run to the next, 0 if unknown.
        before: The step that led to `row`, 0 if unknown.
        left: Number of records that the walk takes from `row` on.

    Returns:
        The stride, and the step that led to `after`.
    """
    step = after - row
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
def leave(records: Any, row: int, ref_cnt: int) -> int:
    """Set the reference count of the queue's first block and return the block after it. The caller must call `cut`."""
    # Unsigned, here and in the callers: compiled code then does not test whether an index counts from the end.
    record = records[np.uint64(row)]
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
    row, stride, step = records[len(records) - 1].next, 0, 0
    for i in range(count):
        ids[i] = row
        if records[row].flags & IN_TABLE:
            cached += 1
        after = leave(records, row, ref_cnt)
        stride, step = load_ahead(records, row, after, stride, step, count - i)
        row = after
    cut(records, row, count)
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
        row = ids[i]
        if records[row].ref_cnt == 0 and row != null_id:
            unlink(records, row)
        records[row].ref_cnt += 1


@jit
def touch(records: Any, ids: Any, null_id: int) -> None:
    """`touch_all` for Python."""
    touch_all(records, ids, null_id)


@leaf
def drop_user(records: Any, row: int, tail: int, null_id: int) -> int:
    """Remove one user from a block; return the new tail.

    If the block has no users after that, it is linked after `tail` and becomes the new tail.
    """
    users = records[row].ref_cnt - 1
    records[row].ref_cnt = users
    if users != 0 or row == null_id:
        return tail
    records[row].prev = tail
    records[tail].next = row
    return row


@leaf
def close_run(records: Any, tail: int, end: int, num_freed: int) -> None:
    """Link `end` after `tail`, the last of a run of `num_freed` new members."""
    records[tail].next = end
    records[end].prev = tail
    records[len(records) - 1].ref_cnt += num_freed


@leaf
def release_all(records: Any, ids: Any, null_id: int, backwards: bool, prepend: bool) -> None:
    """Remove one user from each block; blocks without users enter the queue in the given order.

    With `prepend` the whole run precedes the present first member (fact 16). Records are loaded `AHEAD` rounds
    before they are needed; the end of the queue is written once.
    """
    sentinel = len(records) - 1
    end = records[sentinel].next if prepend else sentinel
    tail = records[end].prev
    count = len(ids)
    num_freed = 0
    for i in range(-AHEAD, count):
        far = i + AHEAD
        if far < count:
            prefetch(records, ids[count - 1 - far] if backwards else ids[far])
        if i < 0:
            continue
        before = tail
        tail = drop_user(records, ids[count - 1 - i] if backwards else ids[i], tail, null_id)
        num_freed += tail != before
    close_run(records, tail, end, num_freed)


@jit
def release(records: Any, ids: Any, null_id: int, backwards: bool, prepend: bool) -> None:
    """`release_all` for Python."""
    release_all(records, ids, null_id, backwards, prepend)


@leaf
def release_kind(records: Any, ids: Any, null_id: int, with_hash: bool, prepend: bool) -> None:
    """Do what `release_all` does, last block first, for the blocks that have a hash or for those that have none.

    Two passes take the place of two lists, because giving blocks back must not need memory.
    """
    sentinel = len(records) - 1
    end = records[sentinel].next if prepend else sentinel
    tail = records[end].prev
    num_freed = 0
    for i in range(len(ids) + AHEAD - 1, -1, -1):
        if i >= AHEAD:
            prefetch(records, ids[i - AHEAD])
        if i >= len(ids):
            continue
        row = ids[i]
        if row == null_id or (records[row].flags & HAS_HASH != 0) != with_hash:
            continue
        before = tail
        tail = drop_user(records, row, tail, null_id)
        num_freed += tail != before
    close_run(records, tail, end, num_freed)


@leaf
def release_split(records: Any, ids: Any, null_id: int) -> None:
    """Remove one user from each block; blocks that were never cached are reused first, cached ones last."""
    release_kind(records, ids, null_id, True, False)
    release_kind(records, ids, null_id, False, True)


@jit
def release_by_hash(records: Any, ids: Any, null_id: int) -> None:
    """`release_split` for Python."""
    release_split(records, ids, null_id)


@jit
def recount(records: Any, users: Any, null_id: int) -> None:
    """Give every block the number of users in `users`, and make the queue hold exactly the blocks without users."""
    sentinel = len(records) - 1
    for row in range(sentinel):
        if row == null_id:
            continue
        records[row].ref_cnt = users[row]
        is_free = records[row].next >= 0
        if users[row] > 0 and is_free:
            unlink(records, row)
        elif users[row] == 0 and not is_free:
            link_after(records, row, records[sentinel].prev)


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
    """`count_free` for Python."""
    return count_free(records, ids, null_id)


@jit
def free_ids(records: Any) -> Any:
    """Return the ids in the queue, first member first."""
    sentinel = len(records) - 1
    ids = np.empty(records[sentinel].ref_cnt, np.int32)
    row = records[sentinel].next
    for i in range(len(ids)):
        ids[i] = row
        row = records[row].next
    return ids


@jit
def unlink_one(records: Any, row: int) -> None:
    """`unlink` for Python."""
    unlink(records, row)


@jit
def link_many(records: Any, ids: Any, prepend: bool) -> None:
    """Put blocks after the last member, or with `prepend` before the first, in order."""
    sentinel = len(records) - 1
    old_head = records[sentinel].next
    for i in range(len(ids)):
        link_after(records, ids[i], records[old_head if prepend else sentinel].prev)
