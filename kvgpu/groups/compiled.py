"""Compiled steps of an allocation in one cache group.

`pool` is (records, table, seed, log, null_id, marks); `store` is (rows, ids, heads) of a `TableStore`; `group` a
GROUP_RECORD; `row` the row of the request in the store.
"""

from typing import Any, NamedTuple

import numpy as np

from kvgpu.block_tables.store import BEGIN, LENGTH, NUM_CACHED, make_room
from kvgpu.blocks.lru import count_free, cut, leave, load_ahead, release_split, touch_all
from kvgpu.blocks.marks import BROKEN, RING, RING_MASK
from kvgpu.blocks.record import HAS_HASH, IN_TABLE, LEADS, LED, SEEN
from kvgpu.compiled.jit import inline, jit, leaf
from kvgpu.index.host.entries import erase_all, erase_row, insert_all, leave_lead
from kvgpu.index.host.led_runs import ROOT, UNKNOWN, insert_run
from kvgpu.index.host.table import same_key
from kvgpu.rules.allocation import NO_CAP, blocks_beyond, blocks_missing, cacheable_tokens, is_reachable, skipped_tokens
from kvgpu.rules.plan_words import FULL

KEYS, EVICTED, TALLY_WORDS = 0, 1, 2
"""A tally: keys that the index gained, cached blocks that were evicted."""


class Ask(NamedTuple):
    """What is asked for one request, in tokens; the arguments of `KVCacheManager.allocate_slots`."""

    num_computed: int
    num_hit_tokens: int
    num_external: int
    num_new: int
    num_lookahead: int
    num_tokens: int
    num_prompt: int
    max_model_len: int
    reserved_blocks: int
    first_hash: int
    """Place in the request of the first hash that is given."""
    whole: bool
    takes_hits: bool
    caches: bool
    caching: bool


@inline
def ids_of_row(store: Any, row: int) -> Any:
    rows, ids, _ = store
    return ids[rows[row, BEGIN] : rows[row, BEGIN] + rows[row, LENGTH]]


@leaf
def take_free(pool: Any, out: Any, tally: Any) -> None:
    """Fill `out` with blocks from the head of the free queue; cached ones among them are evicted.

    Led blocks at once; few others one by one; many together, which loads their buckets ahead.
    """
    records, table, seed, log, null_id, marks = pool
    row, stride, step = records[len(records) - 1].next, 0, 0
    if len(out) > records[len(records) - 1].ref_cnt:
        # Whoever called has counted them: a fault here, and the walk would not end at the sentinel.
        marks[BROKEN] = 1
        out[:] = null_id
        return
    led = 0
    others = 0
    for i in range(len(out)):
        after = leave(records, row, 1)
        stride, step = load_ahead(records, row, after, stride, step, len(out) - i)
        record = records[np.uint64(row)]
        flags = record.flags
        if flags & (LED | LEADS) == LED:
            leave_lead(records, row, log, marks)
            record.flags = 0
            led += 1
        elif flags & IN_TABLE:
            marks[others & RING_MASK] = row
            others += 1
        out[np.uint64(i)] = row
        row = after
    cut(records, row, len(out))
    tally[EVICTED] += led + others
    tally[KEYS] -= led
    if others > RING:
        tally[KEYS] -= erase_all(records, table, out, True, seed, log, marks)
    else:
        for i in range(others):
            tally[KEYS] -= erase_row(records, table, marks[i], 0, True, seed, log, marks)


@leaf
def extend(pool: Any, store: Any, row: int, count: int, tally: Any) -> None:
    """Append so many new blocks to a row."""
    if count <= 0:
        return
    rows, ids, heads = store
    length = rows[row, LENGTH]
    make_room(rows, ids, heads, row, length + count)
    begin = rows[row, BEGIN] + length
    take_free(pool, ids[begin : begin + count], tally)
    rows[row, LENGTH] = length + count


@leaf
def needed_in_group(
    pool: Any, store: Any, group: Any, row: int, hits: Any, num_tokens: int, total: int, capped: bool
) -> int:
    """`SingleTypeKVCacheManager.get_num_blocks_to_allocate`."""
    records, _, _, _, null_id, _ = pool
    rows = store[0]
    size = group.block_size
    held = rows[row, LENGTH]
    required = held + blocks_beyond(num_tokens, held, size)
    if capped and group.cap != NO_CAP:
        required = min(required, group.cap)
    running = rows[row, NUM_CACHED] >= 0
    skipped = skipped_tokens(group.kind, group.extent, total)
    if skipped > 0:
        skipped //= size
    needed = blocks_missing(required, held, running, skipped, len(hits))
    if not running and len(hits) > 0:
        needed += count_free(records, hits[max(0, skipped - held) :], null_id)
    return needed


@jit
def drop_skipped(pool: Any, store: Any, group: Any, row: int, total: int) -> int:
    """`SingleTypeKVCacheManager.remove_skipped_blocks`; place of the first block dropped, else the length."""
    records, _, _, _, null_id, _ = pool
    rows, ids, _ = store
    begin = rows[row, BEGIN]
    length = int(rows[row, LENGTH])
    skipped = max(skipped_tokens(group.kind, group.extent, total), 0)
    end = min(skipped // group.block_size, length)
    if end == 0 or ids[begin + end - 1] == null_id:
        return length
    first = end - 1
    while first > 0 and ids[begin + first - 1] != null_id:
        first -= 1
    release_split(records, ids[begin + first : begin + end], null_id)
    ids[begin + first : begin + end] = null_id
    return int(first)


@leaf
def hit_fault(records: Any, hits: Any, null_id: int, masked: bool, cached_only: bool, distinct: bool) -> int:
    """Place of the first of a request's hits that cannot be one, or -1.

    A hit is a block of the pool, has a hash (where `cached_only`), and comes once (where all hashes are `distinct`).
    Null blocks stand in front of the others, in groups whose mask puts them there.
    """
    sentinel = len(records) - 1
    fault = -1
    seen = len(hits)
    for i in range(len(hits)):
        row = hits[i]
        if row < 0 or row >= sentinel:
            fault = i
        elif row == null_id:
            if not masked or (i > 0 and hits[i - 1] != null_id):
                fault = i
        elif (distinct and records[row].flags & SEEN) or (cached_only and not records[row].flags & HAS_HASH):
            fault = i
        else:
            records[row].flags |= SEEN
        if fault >= 0:
            seen = i
            break
    for i in range(seen):
        if hits[i] != null_id:
            records[hits[i]].flags &= ~SEEN
    return fault


@jit
def find_hit_fault(records: Any, hits: Any, null_id: int, masked: bool, cached_only: bool, distinct: bool) -> int:
    """`hit_fault` for Python."""
    return hit_fault(records, hits, null_id, masked, cached_only, distinct)


@leaf
def take_hits(pool: Any, store: Any, group: Any, row: int, hits: Any, ask: Any) -> int:
    """`SingleTypeKVCacheManager.take_computed_blocks`; blocks that the row has then."""
    records, _, _, _, null_id, _ = pool
    rows, ids, heads = store
    if rows[row, NUM_CACHED] >= 0:
        return int(rows[row, LENGTH])
    size = group.block_size
    total = ask.num_computed + ask.num_hit_tokens + ask.num_external
    skipped = max(skipped_tokens(group.kind, group.extent, total), 0) // size
    if skipped > 0:
        hits = hits[min(skipped, len(hits)) :]
    length = rows[row, LENGTH]
    make_room(rows, ids, heads, row, length + skipped + len(hits))
    begin = rows[row, BEGIN] + length
    ids[begin : begin + skipped] = null_id
    touch_all(records, hits, null_id)
    for i in range(len(hits)):
        ids[begin + skipped + i] = hits[i]
    length += skipped + len(hits)
    rows[row, LENGTH] = length
    rows[row, NUM_CACHED] = length
    return int(length)


@leaf
def full_blocks(store: Any, group: Any, row: int, num_cacheable: int) -> tuple[int, int]:
    """Blocks that caching has not handled and that become full: [first, behind the last)."""
    size = group.block_size
    first = max(store[0][row, NUM_CACHED], 0)
    if num_cacheable < (first + 1) * size:
        return first, first
    num_tokens = cacheable_tokens(num_cacheable, group.alignment, group.eagle != 0, size)
    return first, num_tokens // size


@jit
def insert_reachable(pool: Any, group: Any, chosen: Any, hashes: Any, first: int, num_prompt: int) -> int:
    """`insert_all` for blocks of a row from place `first` on, without null blocks and those that no hit needs."""
    records, table, seed, log, null_id, marks = pool
    needed = chosen.copy()
    for i in range(len(needed)):
        reachable = group.keep_all or is_reachable(
            first + i,
            group.block_size,
            group.shift,
            group.need,
            group.period,
            group.prompt_ends != 0,
            group.hit_alignment,
            num_prompt,
        )
        if needed[i] == null_id or not reachable:
            needed[i] = -1
    return insert_all(records, table, needed, hashes, 1, group.group_id, 0, False, seed, log, marks)


@leaf
def cache_full(
    pool: Any,
    store: Any,
    group: Any,
    row: int,
    hashes: Any,
    first_hash: int,
    first: int,
    full: int,
    num_prompt: int,
    tally: Any,
) -> None:
    """Enter blocks [first, full) of a row in the index; those that no hit could need are left out.

    `hashes` begins with that of block `first_hash`.
    """
    records, table, seed, log, null_id, marks = pool
    rows, ids, _ = store
    # A request longer than the model allows has fewer blocks than full ones.
    begin = rows[row, BEGIN]
    chosen = ids[begin + first : begin + min(full, rows[row, LENGTH])]
    mine = hashes[first - first_hash : full - first_hash]
    if group.keep_all and group.kind == FULL:
        before = ROOT if first == 0 else UNKNOWN
        if first_hash < first < rows[row, LENGTH]:
            row_before = ids[begin + first - 1]
            k0, k1, k2, k3 = hashes[first - first_hash - 1]
            if row_before != null_id and same_key(records[row_before], k0, k1, k2, k3, group.group_id):
                before = row_before
        tally[KEYS] += insert_run(records, table, chosen, mine, before, group.group_id, seed, log, marks)
    else:
        tally[KEYS] += insert_reachable(pool, group, chosen, mine, first, num_prompt)
    rows[row, NUM_CACHED] = full


@leaf
def first_hashed(pool: Any, store: Any, group: Any, row: int, first: int, full: int) -> int:
    """The first of the blocks [first, full) that a row has already and that is cached, or -1."""
    records, _, _, _, null_id, _ = pool
    rows, ids, _ = store
    begin = rows[row, BEGIN]
    for i in range(begin + first, begin + min(full, rows[row, LENGTH])):
        if ids[i] != null_id and records[ids[i]].flags & IN_TABLE:
            return int(ids[i])
    return -1
