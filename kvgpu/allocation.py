"""Compiled allocation: slots for one request over all groups, and the return of its blocks.

The same functions serve single calls and batches. They cover what lies in arrays: groups of attention
kinds that `kvgpu.groups.rules` knows, one hash per block, nobody to be told of every block. The rest goes
through the managers of the groups, with the same rules.

`pool` is (records, table, seed, log, null_id, ring); `store` is (rows, ids, heads) of a `TableStore`; `groups`
GROUP_RECORD [groups]; `mine` int64 [groups], the rows of the request in the store.
"""

from typing import Any, NamedTuple

import numpy as np

from kvgpu._jit import inline, jit, leaf
from kvgpu.blocks import HAS_HASH
from kvgpu.free_queue import count_free, pop_into, release_all, touch_all
from kvgpu.groups.block_tables import split_ids
from kvgpu.groups.rules import (
    NO_CAP,
    blocks_missing,
    blocks_of,
    cacheable_tokens,
    is_reachable,
    quiet_tokens,
    skipped_tokens,
)
from kvgpu.index.table import RING, erase_all, insert_all
from kvgpu.kernels.layout import FULL, SLIDING_WINDOW
from kvgpu.table_store import BEGIN, LENGTH, NUM_CACHED, QUIET, make_room, release_segment

FITS, NO_ROOM, HASHED_BEFORE = 0, 1, 2
"""What became of a call. HASHED_BEFORE: a block that should be cached has a hash already; nothing was done."""

KEYS, EVICTED, OFFENDER, TALLY_WORDS = 0, 1, 2, 3
"""A tally: keys that the index gained, cached blocks that were evicted, the block of HASHED_BEFORE."""


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
    """Fill `out` with blocks from the head of the free queue; cached ones among them are evicted."""
    records, table, seed, log, _, ring = pool
    cached = pop_into(records, out, 1)
    if cached > 0:
        tally[EVICTED] += cached
        tally[KEYS] -= erase_all(records, table, out, True, seed, log, ring)


@inline
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
    pool: Any,
    store: Any,
    group: Any,
    row: int,
    hits: Any,
    num_tokens: int,
    total: int,
    capped: bool,
) -> int:
    """`SingleTypeKVCacheManager.get_num_blocks_to_allocate`."""
    records, _, _, _, null_id, _ = pool
    rows = store[0]
    size = group.block_size
    required = blocks_of(num_tokens, size)
    if capped and group.cap != NO_CAP:
        required = min(required, group.cap)
    held = rows[row, LENGTH]
    running = rows[row, NUM_CACHED] >= 0
    skipped = skipped_tokens(group.kind, group.extent, total) // size
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
    hashed, unhashed = split_ids(records, ids[begin : begin + end], null_id, True)
    first = int(end - len(hashed) - len(unhashed))
    ids[begin + first : begin + end] = null_id
    release_all(records, hashed, null_id, False, False)
    release_all(records, unhashed, null_id, False, True)
    return first


@inline
def take_hits(pool: Any, store: Any, group: Any, row: int, hits: Any, ask: Any, tally: Any) -> int:
    """`SingleTypeKVCacheManager.allocate_new_computed_blocks`; blocks before those for external tokens."""
    records, _, _, _, null_id, _ = pool
    rows, ids, heads = store
    if rows[row, NUM_CACHED] >= 0:
        return int(rows[row, LENGTH])
    size = group.block_size
    num_external = ask.num_external
    total = ask.num_computed + ask.num_hit_tokens + num_external
    skipped_front = skipped_tokens(group.kind, group.extent, total)
    skipped = max(skipped_front, 0) // size
    if skipped > 0:
        hits = hits[min(skipped, len(hits)) :]
        num_external = min(total - skipped_front, num_external)
    length = rows[row, LENGTH]
    make_room(rows, ids, heads, row, length + skipped + len(hits))
    begin = rows[row, BEGIN] + length
    ids[begin : begin + skipped] = null_id
    touch_all(records, hits, null_id)
    ids[begin + skipped : begin + skipped + len(hits)] = hits
    length += skipped + len(hits)
    rows[row, LENGTH] = length
    rows[row, NUM_CACHED] = length
    if num_external > 0:
        extend(pool, store, row, blocks_of(total, size) - length, tally)
    return int(length)


@leaf
def full_blocks(store: Any, group: Any, row: int, num_cacheable: int) -> tuple[int, int]:
    """Blocks that caching has not handled and that become full: [first, behind the last)."""
    size = group.block_size
    first = max(store[0][row, NUM_CACHED], 0)
    num_tokens = cacheable_tokens(num_cacheable, group.alignment, group.eagle != 0, size)
    return first, num_tokens // size


@inline
def cache_full(
    pool: Any, store: Any, group: Any, row: int, hashes: Any, first_hash: int, first: int, full: int,
    num_prompt: int, tally: Any,
) -> None:  # fmt: skip
    """Enter blocks [first, full) of a row in the index; those that no hit could need are left out.

    `hashes` begins with that of block `first_hash`.
    """
    records, table, seed, log, null_id, ring = pool
    rows, ids, _ = store
    # A request longer than the model allows has fewer blocks than full ones.
    begin = rows[row, BEGIN]
    chosen = ids[begin + first : begin + min(full, rows[row, LENGTH])]
    if not group.keep_all or group.kind != FULL:
        chosen = chosen.copy()
        for i in range(len(chosen)):
            reachable = group.keep_all or is_reachable(
                first + i, group.block_size, group.shift, group.need, group.period,
                group.prompt_ends != 0, group.hit_alignment, num_prompt,
            )  # fmt: skip
            if chosen[i] == null_id or not reachable:
                chosen[i] = -1
    tally[KEYS] += insert_all(
        records, table, chosen, hashes[first - first_hash : full - first_hash], 1, group.group_id,
        0, seed, log, ring,
    )  # fmt: skip
    rows[row, NUM_CACHED] = full


@leaf
def first_hashed(pool: Any, store: Any, group: Any, row: int, first: int, full: int) -> int:
    """The first of the blocks [first, full) that a row has already and that has a hash, or -1."""
    records, _, _, _, null_id, _ = pool
    rows, ids, _ = store
    begin = rows[row, BEGIN]
    for i in range(begin + first, begin + min(full, rows[row, LENGTH])):
        if ids[i] != null_id and records[ids[i]].flags & HAS_HASH:
            return int(ids[i])
    return -1


@inline
def allocate_request(
    pool: Any, store: Any, groups: Any, mine: Any, hits: Any, ends: Any, hashes: Any, ask: Any,
    starts: Any, tally: Any,
) -> int:  # fmt: skip
    """`KVCacheManager.allocate_slots` for one request.

    Args:
        pool, store, groups, mine: See the module.
        hits: int32, cached blocks of all groups, one group after the other.
        ends: int64 [groups + 1], where each group's hits begin and end.
        hashes: int64 [n, KEY_WORDS], of the request.
        ask: The `Ask`.
        starts: int64 [3, groups], receives how many blocks each group had before its new ones, and before
            those for external tokens, and the first of its earlier blocks that was dropped.
        tally: int64 [TALLY_WORDS], added to.

    Returns:
        FITS, NO_ROOM or HASHED_BEFORE. The caller has made room in the store and in the log.
    """
    records = pool[0]
    sentinel = len(records) - 1
    num_groups = len(groups)
    num_local = ask.num_computed + ask.num_hit_tokens
    num_elsewhere = num_local + ask.num_external
    total = min(num_elsewhere, ask.max_model_len)
    num_main = total + ask.num_new
    num_slots = min(num_main + ask.num_lookahead, ask.max_model_len)
    # Draft tokens may be rejected, so only what the request has is cached.
    num_cacheable = min(num_main, ask.num_tokens)
    if ask.caches:
        for g in range(num_groups):
            first, full = full_blocks(store, groups[g], mine[g], num_cacheable)
            offender = first_hashed(pool, store, groups[g], mine[g], first, full)
            if offender >= 0:
                tally[OFFENDER] = offender
                return HASHED_BEFORE
    for g in range(num_groups):
        starts[:, g] = store[0][mine[g], LENGTH]
    if ask.whole:
        needed = 0
        longest = min(ask.num_tokens, ask.max_model_len)
        for g in range(num_groups):
            mine_hits = hits[ends[g] : ends[g + 1]]
            needed += needed_in_group(
                pool, store, groups[g], mine[g], mine_hits, longest, total, True
            )
        if needed > records[sentinel].ref_cnt:
            return NO_ROOM
    for g in range(num_groups):
        if groups[g].kind != FULL:
            starts[2, g] = drop_skipped(pool, store, groups[g], mine[g], total)
    needed = 0
    # Blocks for external tokens are not cut to the length of the model, so they are counted.
    longest = max(num_slots, num_elsewhere)
    for g in range(num_groups):
        mine_hits = hits[ends[g] : ends[g + 1]]
        needed += needed_in_group(pool, store, groups[g], mine[g], mine_hits, longest, total, False)
    if needed > records[sentinel].ref_cnt - ask.reserved_blocks:
        return NO_ROOM
    for g in range(num_groups):
        # All at once, so that a row moves at most once.
        make_room(store[0], store[1], store[2], mine[g], blocks_of(longest, groups[g].block_size))
        if ask.takes_hits or ask.num_external > 0:
            mine_hits = hits[ends[g] : ends[g + 1]]
            starts[1, g] = take_hits(pool, store, groups[g], mine[g], mine_hits, ask, tally)
    for g in range(num_groups):
        starts[0, g] = store[0][mine[g], LENGTH]
        missing = blocks_of(num_slots, groups[g].block_size) - starts[0, g]
        extend(pool, store, mine[g], missing, tally)
    if ask.caches:
        for g in range(num_groups):
            first, full = full_blocks(store, groups[g], mine[g], num_cacheable)
            if first < full:
                cache_full(
                    pool, store, groups[g], mine[g], hashes, ask.first_hash, first, full,
                    ask.num_prompt, tally,
                )  # fmt: skip
    rows = store[0]
    quiet = ask.max_model_len
    for g in range(num_groups):
        quiet = min(
            quiet,
            quiet_tokens(
                groups[g].kind, groups[g].extent, groups[g].block_size, rows[mine[g], LENGTH],
                rows[mine[g], NUM_CACHED], ask.caching, total,
            ),
        )  # fmt: skip
    store[0][mine[0], QUIET] = quiet
    return FITS


@inline
def free_request(pool: Any, store: Any, groups: Any, mine: Any) -> None:
    """`KVCacheManager.free`: blocks go back group by group, the last of each first."""
    records, _, _, _, null_id, _ = pool
    rows, ids, heads = store
    for g in range(len(groups)):
        held = ids_of_row(store, mine[g])
        if groups[g].kind == SLIDING_WINDOW:
            # Blocks that were never cached are reused before every cached one.
            hashed, unhashed = split_ids(records, held, null_id, False)
            release_all(records, hashed, null_id, False, False)
            release_all(records, unhashed, null_id, False, True)
        else:
            release_all(records, held, null_id, True, False)
        release_segment(rows, ids, heads, mine[g])


@jit
def allocate_one(
    records: Any, table: Any, log: Any, rows: Any, ids: Any, heads: Any, groups: Any, mine: Any,
    hits: Any, ends: Any, hashes: Any, words: Any, starts: Any, tally: Any, seed: int,
) -> int:  # fmt: skip
    """`allocate_request` for Python; `words` are the null block and the fields of an `Ask`."""
    pool = (records, table, seed, log, words[0], np.empty(RING, np.int64))
    ask = Ask(
        words[1], words[2], words[3], words[4], words[5], words[6], words[7], words[8], words[9],
        words[10], words[11] != 0, words[12] != 0, words[13] != 0, words[14] != 0,
    )  # fmt: skip
    return allocate_request(
        pool, (rows, ids, heads), groups, mine, hits, ends, hashes, ask, starts, tally
    )
