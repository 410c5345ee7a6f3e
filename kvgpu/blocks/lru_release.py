"""Compiled release of blocks: one user less for each, and those without users enter the list of free blocks.

The list is that of `kvgpu.blocks.lru`.
"""

from typing import Any

from kvgpu.blocks.record import HAS_HASH
from kvgpu.compiled.jit import AHEAD, jit, leaf, prefetch


@leaf
def drop_user(records: Any, block_id: int, tail: int, null_id: int) -> int:
    """Remove one user from a block; return the new tail.

    If the block has no users after that, it is linked after `tail` and becomes the new tail.
    """
    users = records[block_id].ref_cnt - 1
    records[block_id].ref_cnt = users
    if users != 0 or block_id == null_id:
        return tail
    records[block_id].prev = tail
    records[tail].next = block_id
    return block_id


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
    """Do what `release_all` does, for callers in Python."""
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
        block_id = ids[i]
        if block_id == null_id or (records[block_id].flags & HAS_HASH != 0) != with_hash:
            continue
        before = tail
        tail = drop_user(records, block_id, tail, null_id)
        num_freed += tail != before
    close_run(records, tail, end, num_freed)


@leaf
def release_split(records: Any, ids: Any, null_id: int) -> None:
    """Remove one user from each block; blocks that were never cached are reused first, cached ones last."""
    release_kind(records, ids, null_id, True, False)
    release_kind(records, ids, null_id, False, True)


@jit
def release_by_hash(records: Any, ids: Any, null_id: int) -> None:
    """Do what `release_split` does, for callers in Python."""
    release_split(records, ids, null_id)
