"""Compiled entering of runs: blocks of a request one after the other, most of which need no word in the table.

A block that is the only one with its key can be *led*: the block before it, the first under its own key, names it as
its successor (LEADS), and no word of the table does. Every lookup of a prefix passes the block before, so it finds a
led block as soon as one in the table, and neither entering nor erasing it touches a line of the table. That is
correct only for hashes that determine all that came before, so that a key never follows two others, and for lookups
from the first block on. For everything else the blocks are *settled* first: they get their words. After that EAGER
further entries go to the table at once, twice as many each time, so that settling stays cheap however often it is
needed.

Whether a key may be in the table already is asked of the filter in `kvgpu.blocks.index_meta`: a run of new blocks
reads a few bytes of it instead of buckets. If the filter cannot rule a key out, the table is searched before the
block is given a word: otherwise each cell in use would draw every new block that falls into it to the table.
"""

from typing import Any

from kvgpu.blocks.index_meta import BROKEN, EAGER, NEXT_EAGER, NUM_LED, RING_MASK, may_hold, refuse_broken
from kvgpu.blocks.record import FIRST, HAS_HASH, IN_TABLE, LEADS, LED
from kvgpu.compiled.jit import AHEAD, jit, leaf, prefetch
from kvgpu.index.host.insert_erase import enter_block, insert_all, name_further, settle_block
from kvgpu.index.host.pool_arrays import PoolArrays
from kvgpu.index.host.table import bucket_of, find_first, hash_of_record
from kvgpu.index.journal import note
from kvgpu.index.key import has_key, key_at, key_of, write_key
from kvgpu.index.slot_hash import slot_hash

ROOT, UNKNOWN = -1, -2
"""What precedes a run if no known block does: nothing, since it begins the request, or an unknown block."""


@leaf
def settle_all(pool: Any) -> None:
    """Settle all led blocks: the table then knows every key, and will know the next ones."""
    records, meta = pool.records, pool.meta
    if meta[NUM_LED] > 0:
        for block_id in range(len(records) - 1):
            if records[block_id].flags & LED:
                settle_block(pool, block_id)
        meta[EAGER] = max(meta[EAGER], meta[NEXT_EAGER])
        meta[NEXT_EAGER] *= 2


@jit
def settle(pool: Any) -> None:
    """`settle_all` for Python."""
    pool = PoolArrays(*pool)
    settle_all(pool)
    refuse_broken(pool.meta)


@leaf
def first_of_ring(pool: Any, block_id: int) -> int:
    """Return the first block with the key of `block_id`; UNKNOWN if that block is not in the index.

    The ring is not followed, which may be as long as the pool: of several blocks with one key the first has a word.
    """
    record = pool.records[block_id]
    if not record.flags & IN_TABLE:
        return UNKNOWN
    if record.flags & FIRST:
        return block_id
    first = find_first(pool.records, pool.table, key_of(record), hash_of_record(pool.records, block_id, pool.seed))
    return first if first >= 0 else UNKNOWN


@leaf
def lead(pool: Any, leader: int, block_id: int) -> None:
    """Let `leader` lead to `block_id`, which alone has its key."""
    records = pool.records
    records[block_id].flags = HAS_HASH | IN_TABLE | FIRST | LED
    records[block_id].same_prev = leader
    records[block_id].same_next = block_id
    records[leader].successor = block_id
    records[leader].flags |= LEADS
    pool.meta[NUM_LED] += 1


@leaf
def insert_run(pool: Any, ids: Any, hashes: Any, before: int, group: int) -> int:
    """`insert_all` for successive blocks of a request; `before` precedes the first, or is ROOT or UNKNOWN."""
    records, table, meta = pool.records, pool.table, pool.meta
    count = len(ids)
    leader = first_of_ring(pool, before) if before >= 0 else before
    if leader == UNKNOWN:
        settle_all(pool)
    if meta[EAGER] > 0:
        meta[EAGER] -= min(meta[EAGER], count)
        return insert_all(pool, ids, hashes, 1, group, 0, True)
    new_keys = 0
    # Round i enters block i and loads the record of block i + AHEAD. If the filter cannot rule its key out, its
    # bucket is loaded too, and its slot hash waits in the ring; else 0 does. `before` is the block entered last,
    # `leader` the first block under the same key: the one that may lead to block i.
    for i in range(-AHEAD, count):
        far = i + AHEAD
        if far < count:
            prefetch(records, ids[far])
            h = 0
            if may_hold(meta, hashes[far, 0], group):
                h = slot_hash(key_at(hashes, far, group), pool.seed)
                prefetch(table, bucket_of(h, len(table)))
            meta[far & RING_MASK] = h
        if i < 0:
            continue
        block_id = ids[i]
        if records[block_id].flags & IN_TABLE:
            meta[BROKEN] = 1
            leader = before = UNKNOWN
            continue
        key = key_at(hashes, i, group)
        write_key(records[block_id], key)
        h = meta[i & RING_MASK]
        leads = leader >= 0 and records[leader].flags & LEADS != 0
        if leader >= 0 and not leads and (h == 0 or find_first(records, table, key, h) < 0):
            lead(pool, leader, block_id)
            note(pool.log, key, -1, block_id)
            new_keys += 1
            leader = block_id
        else:
            if leads and has_key(records[records[leader].successor], key):
                settle_block(pool, records[leader].successor)
            if h == 0:
                h = slot_hash(key, pool.seed)
            records[block_id].flags = HAS_HASH
            is_new = enter_block(pool, block_id, key, h, True)
            leader = block_id if is_new else records[block_id].same_next
            new_keys += is_new
            if before >= 0 and not records[before].flags & LEADS:
                records[before].successor = leader
        name_further(records, ids, i)
        before = block_id
    return new_keys
