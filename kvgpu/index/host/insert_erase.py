"""Compiled entering and erasing of blocks: records, table, filter and journal together.

Each batch is one call from Python. `pool` is `PoolArrays`.
"""

from typing import Any

import numpy as np

from kvgpu.blocks.index_meta import (
    BROKEN,
    DEPARTURES,
    EAGER,
    FOR_GOOD,
    NUM_LED,
    RING_MASK,
    count_key,
    refuse_broken,
    region_of,
)
from kvgpu.blocks.record import COUNTED, FIRST, FURTHER, HAS_HASH, IN_TABLE, LEADS, LED, SHARED
from kvgpu.compiled.jit import AHEAD, jit, leaf, prefetch
from kvgpu.index.host.pool_arrays import PoolArrays
from kvgpu.index.host.table import bucket_of, find_first, hash_of_record, put_word, swap_word, word_of
from kvgpu.index.journal import note
from kvgpu.index.key import Key, key_at, key_of, write_key
from kvgpu.index.slot_hash import slot_hash
from kvgpu.layout import EMPTY_WORD


@leaf
def is_linked(records: Any, block_id: int, after: int) -> bool:
    """Whether both are blocks, and `after` follows `block_id` in the ring of their key."""
    count = len(records) - 1
    return (
        0 <= block_id < count
        and 0 <= after < count
        and records[np.uint64(block_id)].same_next == after
        and records[np.uint64(after)].same_prev == block_id
    )


@leaf
def enter_block(pool: Any, block_id: int, key: Key, h: int, counted: bool) -> int:
    """Enter a block under the key of its record, of slot hash `h`; returns 1 if the key is new.

    A block that is led under this key must have been settled before. A key that is not `counted` must never be looked
    up in a run (see `kvgpu.index.host.insert_runs`).
    """
    records, meta = pool.records, pool.meta
    record = records[block_id]
    head = find_first(records, pool.table, key, h)
    if head < 0:
        record.flags |= IN_TABLE | FIRST
        if counted and meta[EAGER] < FOR_GOOD:
            record.flags |= COUNTED
            count_key(meta, key.k0, key.group, 1)
        record.same_prev = block_id
        record.same_next = block_id
        if not put_word(pool.table, h, word_of(h, block_id)):
            meta[BROKEN] = 1
        note(pool.log, key, -1, block_id)
        return 1
    tail = records[head].same_prev
    if not is_linked(records, tail, head):
        meta[BROKEN] = 1
        return 0
    record.flags |= IN_TABLE | SHARED
    record.same_prev = tail
    record.same_next = head
    records[tail].same_next = block_id
    records[head].same_prev = block_id
    records[head].flags |= SHARED
    return 0


@jit
def enter_one(pool: Any, block_id: int) -> int:
    """`enter_block` for Python."""
    pool = PoolArrays(*pool)
    key = key_of(pool.records[block_id])
    new_keys = enter_block(pool, block_id, key, slot_hash(key, pool.seed), True)
    refuse_broken(pool.meta)
    return new_keys


@leaf
def name_further(records: Any, ids: Any, place: int) -> None:
    """Have the block `FURTHER` before a place of a run name the one at the place: lookups load it ahead."""
    if place >= FURTHER and ids[place - FURTHER] >= 0:
        records[ids[place - FURTHER]].further = ids[place]


@leaf
def insert_all(pool: Any, ids: Any, hashes: Any, stride: int, group: int, flags: int, counted: bool) -> int:
    """Write the keys of blocks and enter them in order; returns the number of keys that are new to the index.

    Args:
        pool: `PoolArrays`.
        ids: int32 [n]; those below 0 are left out.
        hashes: int64 [n * stride, KEY_WORDS]; each block is entered under the last of its own.
        stride: Hashes of one block.
        group: Cache group.
        flags: Set in each record besides HAS_HASH.
        counted: Whether the filter counts the keys.
    """
    records, table, meta = pool.records, pool.table, pool.meta
    count = len(ids)
    new_keys = 0
    before = -1
    # Round i enters block i and loads the record and bucket of block i + AHEAD, whose slot hash waits in the ring.
    for i in range(-AHEAD, count):
        far = i + AHEAD
        if far < count and ids[far] >= 0:
            h = slot_hash(key_at(hashes, (far + 1) * stride - 1, group), pool.seed)
            meta[far & RING_MASK] = h
            prefetch(records, ids[far])
            prefetch(table, bucket_of(h, len(table)))
        if i < 0:
            continue
        block_id = ids[i]
        if block_id >= 0 and records[block_id].flags & IN_TABLE:
            meta[BROKEN] = 1
            block_id = -1
        if block_id >= 0:
            key = key_at(hashes, (i + 1) * stride - 1, group)
            write_key(records[block_id], key)
            records[block_id].flags = HAS_HASH | flags
            new_keys += enter_block(pool, block_id, key, meta[i & RING_MASK], counted)
            if before >= 0:
                records[before].successor = block_id
            name_further(records, ids, i)
        before = block_id
    return new_keys


@jit
def insert_blocks(pool: Any, ids: Any, hashes: Any, stride: int, group: int, flags: int) -> int:
    """`insert_all` for Python."""
    pool = PoolArrays(*pool)
    new_keys = insert_all(pool, ids, hashes, stride, group, flags, True)
    refuse_broken(pool.meta)
    return new_keys


@leaf
def settle_block(pool: Any, block_id: int) -> None:
    """Give a led block a word in the table."""
    records, meta = pool.records, pool.meta
    record = records[block_id]
    records[record.same_prev].flags &= ~LEADS
    record.same_prev = block_id
    record.flags = (record.flags & ~LED) | COUNTED
    meta[NUM_LED] -= 1
    count_key(meta, record.k0, record.group, 1)
    h = hash_of_record(records, block_id, pool.seed)
    if not put_word(pool.table, h, word_of(h, block_id)):
        meta[BROKEN] = 1


@leaf
def erase_led(pool: Any, block_id: int) -> None:
    """Take out a led block, and its key with it; the caller sets its flags."""
    records, meta = pool.records, pool.meta
    record = records[np.uint64(block_id)]
    records[np.uint64(record.same_prev)].flags &= ~LEADS
    meta[NUM_LED] -= 1
    meta[DEPARTURES + region_of(meta, block_id)] += 1
    note(pool.log, key_of(record), block_id, -1)


@leaf
def erase_block(pool: Any, block_id: int, h: int, forget: bool) -> int:
    """Take a block out of the index, if it is in; returns 1 if the index lost its key.

    `h` is the slot hash of its key, or 0 if not known. If the ring or the word of the block is not as its record
    says, the block stays, and the index is marked as broken. With `forget` the block loses its hash as well.
    """
    records, meta = pool.records, pool.meta
    record = records[np.uint64(block_id)]
    flags = record.flags
    if not flags & IN_TABLE:
        return 0
    if flags & LEADS:
        settle_block(pool, record.successor)
    lost_keys = 0
    if flags & LED:
        erase_led(pool, block_id)
        lost_keys = 1
    else:
        # The ring without this block: `before` leads to `after`, which is first if this block was.
        before, after = record.same_prev, record.same_next
        alone = before == block_id and after == block_id
        if not alone and not (is_linked(records, before, block_id) and is_linked(records, block_id, after)):
            meta[BROKEN] = 1
            return 0
        if flags & FIRST:
            if h == 0:
                h = hash_of_record(records, block_id, pool.seed)
            if not swap_word(pool.table, h, word_of(h, block_id), EMPTY_WORD if alone else word_of(h, after)):
                meta[BROKEN] = 1
                return 0
            meta[DEPARTURES + region_of(meta, block_id)] += 1
            key = key_of(record)
            if alone:
                if flags & COUNTED:
                    count_key(meta, key.k0, key.group, -1)
                note(pool.log, key, block_id, -1)
                lost_keys = 1
            else:
                records[np.uint64(after)].flags |= FIRST | (flags & COUNTED)
                note(pool.log, key, block_id, after)
        if not alone:
            records[np.uint64(before)].same_next = after
            records[np.uint64(after)].same_prev = before
    record.flags = 0 if forget else flags & ~(IN_TABLE | FIRST | SHARED | LED | LEADS | COUNTED)
    return lost_keys


@leaf
def erase_all(pool: Any, ids: Any, forget: bool) -> int:
    """Take blocks out; returns the number of keys that the index lost."""
    records, table, meta = pool.records, pool.table, pool.meta
    count = len(ids)
    lost_keys = 0
    # Round i erases block i, loads the bucket of block i + AHEAD, and the record of block i + 2 * AHEAD.
    for i in range(-2 * AHEAD, count):
        if i + 2 * AHEAD < count:
            prefetch(records, ids[i + 2 * AHEAD])
        if 0 <= i + AHEAD < count:
            h = 0
            if not records[np.uint64(ids[i + AHEAD])].flags & LED:
                h = hash_of_record(records, ids[i + AHEAD], pool.seed)
                prefetch(table, bucket_of(h, len(table)))
            meta[(i + AHEAD) & RING_MASK] = h
        if i >= 0:
            lost_keys += erase_block(pool, ids[i], meta[i & RING_MASK], forget)
    return lost_keys


@jit
def erase_blocks(pool: Any, ids: Any, forget: bool) -> int:
    """`erase_all` for Python."""
    pool = PoolArrays(*pool)
    lost_keys = erase_all(pool, ids, forget)
    refuse_broken(pool.meta)
    return lost_keys
