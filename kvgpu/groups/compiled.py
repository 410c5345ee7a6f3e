"""Compiled steps of an allocation in one cache group.

`pool` is `PoolArrays`, `store` is `StoreArrays`, `group` a GROUP_RECORD, and `table_id` the block table of the
request in this group.
"""

from typing import Any

import numpy as np

from kvgpu.block_tables.store import BEGIN, LENGTH, NUM_CACHED, make_room
from kvgpu.blocks.eviction_calls import CACHED, FIRST_PLACE, TAKEN, tell_policy
from kvgpu.blocks.free_order import HEAD, NUM_FREE, TAIL, next_member
from kvgpu.blocks.index_meta import BROKEN, RING, RING_MASK
from kvgpu.blocks.lru import count_free, cut, leave, load_later, touch_all
from kvgpu.blocks.lru_release import release_split
from kvgpu.blocks.record import HAS_HASH, IN_TABLE, LEADS, LED, SEEN
from kvgpu.compiled.jit import inline, jit, leaf
from kvgpu.index.host.insert_erase import erase_all, erase_block, erase_led, insert_all
from kvgpu.index.host.insert_runs import ROOT, UNKNOWN, insert_run
from kvgpu.index.key import has_key, key_at
from kvgpu.rules.allocation import NO_CAP, blocks_beyond, blocks_missing, cacheable_tokens, skipped_tokens
from kvgpu.rules.plan_words import FULL
from kvgpu.rules.retention import boundaries, is_reachable, mask_of

KEYS, EVICTED, TALLY_WORDS = 0, 1, 2
"""Words of a tally: keys that the index gained, and cached blocks that were evicted."""


@inline
def ids_of_table(store: Any, table_id: int) -> Any:
    """Return the ids of a block table, int32 [length]."""
    table = store.tables[table_id]
    return store.ids[table[BEGIN] : table[BEGIN] + table[LENGTH]]


@leaf
def take_free(pool: Any, out: Any, tally: Any) -> None:
    """Fill `out` with blocks from the head of the free queue; cached ones among them are evicted.

    Led blocks are evicted at once; a few others one by one; many together, which loads their buckets ahead.
    """
    records, meta = pool.records, pool.meta
    if len(out) > pool.queue_words[NUM_FREE]:
        # The caller has counted the free blocks, and has miscounted.
        meta[BROKEN] = 1
        out[:] = pool.null_id
        return
    tell_policy(pool.queue_words, TAKEN, len(out), 0)
    number, end = pool.queue_words[HEAD], pool.queue_words[TAIL]
    num_led = num_others = taken = 0
    while taken < len(out):
        number = next_member(pool.order, number, end)
        if number == end:
            # The queue has miscounted itself.
            meta[BROKEN] = 1
            out[taken:] = pool.null_id
            break
        load_later(pool, records, number)
        block_id = leave(pool, number, 1)
        number += 1
        record = records[np.uint64(block_id)]
        flags = record.flags
        if flags & (LED | LEADS) == LED:
            erase_led(pool, block_id)
            record.flags = 0
            num_led += 1
        elif flags & IN_TABLE:
            meta[num_others & RING_MASK] = block_id
            num_others += 1
        out[np.uint64(taken)] = block_id
        taken += 1
    cut(pool.queue_words, number, taken)
    tally[EVICTED] += num_led + num_others
    tally[KEYS] -= num_led
    if num_others > RING:
        tally[KEYS] -= erase_all(pool, out, True)
    else:
        for i in range(num_others):
            tally[KEYS] -= erase_block(pool, meta[i], 0, True)


@leaf
def extend(pool: Any, store: Any, table_id: int, count: int, tally: Any) -> None:
    """Append `count` new blocks to a block table."""
    if count <= 0:
        return
    table = store.tables[table_id]
    length = table[LENGTH]
    make_room(store, table_id, length + count)
    begin = table[BEGIN] + length
    take_free(pool, store.ids[begin : begin + count], tally)
    table[LENGTH] = length + count


@leaf
def needed_in_group(
    pool: Any, table: Any, group: Any, hits: Any, num_tokens: int, num_elsewhere: int, capped: bool
) -> int:
    """Do what `SingleTypeKVCacheManager.get_num_blocks_to_allocate` does; `table` are the words of the block table."""
    size = group.block_size
    held = table[LENGTH]
    required = held + blocks_beyond(num_tokens, held, size)
    if capped and group.cap != NO_CAP:
        required = min(required, group.cap)
    running = table[NUM_CACHED] >= 0
    skipped = skipped_tokens(group.kind, group.extent, num_elsewhere)
    if skipped > 0:
        skipped //= size
    needed = blocks_missing(required, held, running, skipped, len(hits))
    if not running and len(hits) > 0:
        needed += count_free(pool.uses, hits[max(0, skipped - held) :], pool.null_id)
    return needed


@jit
def drop_skipped(pool: Any, store: Any, group: Any, table_id: int, total: int) -> int:
    """Do what `SingleTypeKVCacheManager.remove_skipped_blocks` does; return the first dropped place, or the length."""
    ids, null_id = store.ids, pool.null_id
    begin = store.tables[table_id, BEGIN]
    length = int(store.tables[table_id, LENGTH])
    skipped = max(skipped_tokens(group.kind, group.extent, total), 0)
    end = min(skipped // group.block_size, length)
    if end == 0 or ids[begin + end - 1] == null_id:
        return length
    first = end - 1
    while first > 0 and ids[begin + first - 1] != null_id:
        first -= 1
    release_split(pool, pool.records, ids[begin + first : begin + end], null_id)
    ids[begin + first : begin + end] = null_id
    return int(first)


@leaf
def hit_fault(records: Any, hits: Any, null_id: int, masked: bool, cached_only: bool, distinct: bool) -> int:
    """Return the place of the first of a request's hits that cannot be one, or -1.

    A hit is a block of the pool, has a hash (if `cached_only`), and comes once (if all hashes are `distinct`). Null
    blocks precede the others, in groups whose mask puts them there.
    """
    sentinel = len(records) - 1
    fault = -1
    seen = len(hits)
    for i in range(len(hits)):
        block_id = hits[i]
        if block_id < 0 or block_id >= sentinel:
            fault = i
        elif block_id == null_id:
            if not masked or (i > 0 and hits[i - 1] != null_id):
                fault = i
        elif (distinct and records[block_id].flags & SEEN) or (cached_only and not records[block_id].flags & HAS_HASH):
            fault = i
        else:
            records[block_id].flags |= SEEN
        if fault >= 0:
            seen = i
            break
    for i in range(seen):
        if hits[i] != null_id:
            records[hits[i]].flags &= ~SEEN
    return fault


@jit
def find_hit_fault(records: Any, hits: Any, null_id: int, masked: bool, cached_only: bool, distinct: bool) -> int:
    """Do what `hit_fault` does, for callers in Python."""
    return hit_fault(records, hits, null_id, masked, cached_only, distinct)


@leaf
def take_hits(pool: Any, store: Any, group: Any, table_id: int, hits: Any, num_elsewhere: int) -> int:
    """Do what `SingleTypeKVCacheManager.take_computed_blocks` does; return the blocks of the table after it.

    `num_elsewhere` tokens, from the first on, need not be computed.
    """
    table = store.tables[table_id]
    if table[NUM_CACHED] >= 0:
        return int(table[LENGTH])
    skipped = max(skipped_tokens(group.kind, group.extent, num_elsewhere), 0) // group.block_size
    if skipped > 0:
        hits = hits[min(skipped, len(hits)) :]
    length = table[LENGTH]
    make_room(store, table_id, length + skipped + len(hits))
    begin = table[BEGIN] + length
    # [begin, begin + skipped) become null blocks, and the hits follow.
    store.ids[begin : begin + skipped] = pool.null_id
    touch_all(pool, hits, pool.null_id)
    for i in range(len(hits)):
        store.ids[begin + skipped + i] = hits[i]
    length += skipped + len(hits)
    table[LENGTH] = length
    table[NUM_CACHED] = length
    return int(length)


@leaf
def full_blocks(table: Any, group: Any, num_cacheable: int, num_hashed: int) -> tuple[int, int]:
    """Return the blocks that caching has not handled and that become full, as [first, end), by their places.

    `table` are the words of the block table; the blocks of `num_hashed` tokens have hashes.
    """
    size = group.block_size
    first = max(table[NUM_CACHED], 0)
    if num_cacheable < (first + 1) * size:
        return first, first
    num_tokens = cacheable_tokens(num_cacheable, group.alignment, group.eagle != 0, size, group.behind)
    return first, max(first, min(num_tokens, num_hashed) // size)


@jit
def insert_reachable(pool: Any, group: Any, chosen: Any, hashes: Any, first: int, ends: tuple[int, int]) -> int:
    """`insert_all` for blocks of a request from place `first` on, without null blocks and those that no hit needs."""
    needed = chosen.copy()
    mask = mask_of(group)
    positions = boundaries(mask, ends[0], ends[1])
    for i in range(len(needed)):
        reachable = group.keep_all or is_reachable(mask, first + i, positions)
        if needed[i] == pool.null_id or not reachable:
            needed[i] = -1
    return insert_all(pool, needed, hashes, 1, group.group_id, 0, False)


@leaf
def cache_full(
    pool: Any,
    store: Any,
    group: Any,
    table_id: int,
    hashes: Any,
    full: tuple[int, int],
    ends: tuple[int, int],
    tally: Any,
) -> None:
    """Enter blocks [first, end) of a request in the index; those that no hit could need are left out.

    Args:
        pool, store, group, table_id: See the module.
        hashes: A pair: int64 [n, KEY_WORDS], and the place in the request of the block that the first of them belongs
        to. full: [first, end), see `full_blocks`. ends: Tokens of the prompt, -1 if not known, and the junction, see
        `boundaries`. tally: Added to.
    """
    table, (words, first_hash), (first, end) = store.tables[table_id], hashes, full
    # A request longer than the model allows has fewer blocks than full ones.
    begin = table[BEGIN]
    chosen = store.ids[begin + first : begin + min(end, table[LENGTH])]
    chosen_hashes = words[first - first_hash : end - first_hash]
    if group.keep_all and group.kind == FULL:
        before = ROOT if first == 0 else UNKNOWN
        if first_hash < first < table[LENGTH]:
            block_before = store.ids[begin + first - 1]
            key = key_at(words, first - first_hash - 1, group.group_id)
            if block_before != pool.null_id and has_key(pool.records[block_before], key):
                before = block_before
        tally[KEYS] += insert_run(pool, chosen, chosen_hashes, before, group.group_id)
    else:
        tally[KEYS] += insert_reachable(pool, group, chosen, chosen_hashes, first, ends)
    tell_policy(pool.queue_words, CACHED, chosen.ctypes.data, FIRST_PLACE * first + len(chosen))
    table[NUM_CACHED] = end


@leaf
def first_hashed(pool: Any, store: Any, table_id: int, full: tuple[int, int]) -> int:
    """Return the first of the blocks [first, end) of a block table that is cached already, or -1."""
    table = store.tables[table_id]
    begin = table[BEGIN]
    for i in range(begin + full[0], begin + min(full[1], table[LENGTH])):
        if store.ids[i] != pool.null_id and pool.records[store.ids[i]].flags & IN_TABLE:
            return int(store.ids[i])
    return -1
