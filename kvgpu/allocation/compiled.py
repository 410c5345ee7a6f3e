"""Compiled allocation: slots for one request over all groups, and the return of its blocks.

The same functions serve single calls and batches. They cover what lies in arrays: groups of attention
kinds that `kvgpu.rules.allocation` knows, one hash per block, nobody to be told of every block. The rest goes
through the managers of the groups, with the same rules.

`pool` is (records, table, seed, log, null_id, marks); `store` is (rows, ids, heads) of a `TableStore`; `groups`
GROUP_RECORD [groups]; `mine` int64 [groups], the rows of the request in the store.
"""

from typing import Any

import numpy as np

from kvgpu.block_tables.store import (
    BEGIN,
    LENGTH,
    LIMIT,
    NUM_CACHED,
    QUIET,
    ROW_WORDS,
    TOP,
    make_room,
    release_segment,
    segment_class,
)
from kvgpu.blocks.lru import release_all, release_split
from kvgpu.blocks.marks import refuse_broken
from kvgpu.compiled.jit import inline, jit, leaf
from kvgpu.groups.compiled import (
    TALLY_WORDS,
    Ask,
    cache_full,
    drop_skipped,
    extend,
    first_hashed,
    full_blocks,
    hit_fault,
    ids_of_row,
    needed_in_group,
    take_hits,
)
from kvgpu.integers import MOST_TOKENS
from kvgpu.rules.allocation import blocks_beyond, blocks_of, quiet_tokens, skipped_tokens
from kvgpu.rules.plan_words import FULL, SLIDING_WINDOW

FITS, NO_ROOM, REFUSED, SHORT = 0, 1, 2, 3
"""What became of a call. REFUSED: nothing was done, and `kvgpu.allocation.slots` says why; SHORT: nothing was done,
since the store has too little memory, or the log."""

ASKED = ("null_id", "seed", *Ask._fields, "num_encoder", "hash_block_size", "num_hashes", "distinct")
ASKED_RECORD = np.dtype([(name, "<i8") for name in ASKED])
"""What one call asks for: an `Ask`, and what it is checked against. num_hashes: those of the request; distinct: no
two of them can be the same. Nothing in it is trusted."""

SEGMENTS, CHANGES, QUIET_UNTIL, PLACES = 0, 1, TALLY_WORDS, TALLY_WORDS + 1
"""Words of the answer to a call. SEGMENTS, CHANGES: ids and notes that SHORT wants room for. With FITS, a tally
stands there; QUIET_UNTIL: what `RequestBlocks.quiet_until` becomes; from PLACES on, for each group: where in the
store its blocks for external tokens, its other new ones, and none any longer begin."""


@leaf
def blocks_with_external(group: Any, total: int, ask: Ask) -> int:
    """Blocks of a request that holds `total` tokens, those that come from elsewhere among them; 0 if none do."""
    skipped = skipped_tokens(group.kind, group.extent, total)
    return blocks_of(total, group.block_size) if min(total - skipped, ask.num_external) > 0 else 0


@leaf
def allocate_request(
    pool: Any, store: Any, groups: Any, mine: Any, hits: Any, ends: Any, hashes: Any, ask: Any, starts: Any, tally: Any
) -> int:
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
        FITS, NO_ROOM, or REFUSED where a block that should be cached has a hash already. The caller has made room in
        the store and in the log.
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
            if first_hashed(pool, store, groups[g], mine[g], first, full) >= 0:
                return REFUSED
    for g in range(num_groups):
        starts[:, g] = store[0][mine[g], LENGTH]
    if ask.whole:
        needed = 0
        longest = min(ask.num_tokens, ask.max_model_len)
        for g in range(num_groups):
            mine_hits = hits[ends[g] : ends[g + 1]]
            needed += needed_in_group(pool, store, groups[g], mine[g], mine_hits, longest, total, True)
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
        room = store[0][mine[g], LIMIT]
        room += blocks_beyond(longest, room, groups[g].block_size)
        make_room(store[0], store[1], store[2], mine[g], room)
    if ask.takes_hits or ask.num_external > 0:
        # All hits before the first block for external tokens, which might be one of them.
        for g in range(num_groups):
            fresh = store[0][mine[g], NUM_CACHED] < 0
            mine_hits = hits[ends[g] : ends[g + 1]]
            starts[1, g] = take_hits(pool, store, groups[g], mine[g], mine_hits, ask)
            starts[0, g] = blocks_with_external(groups[g], num_elsewhere, ask) if fresh else 0
        if ask.num_external > 0:
            for g in range(num_groups):
                extend(pool, store, mine[g], starts[0, g] - starts[1, g], tally)
    for g in range(num_groups):
        starts[0, g] = store[0][mine[g], LENGTH]
        missing = blocks_beyond(num_slots, starts[0, g], groups[g].block_size)
        extend(pool, store, mine[g], missing, tally)
    if ask.caches:
        for g in range(num_groups):
            first, full = full_blocks(store, groups[g], mine[g], num_cacheable)
            if first < full:
                cache_full(pool, store, groups[g], mine[g], hashes, ask.first_hash, first, full, ask.num_prompt, tally)
    rows = store[0]
    quiet = ask.max_model_len
    for g in range(num_groups):
        quiet = min(
            quiet,
            quiet_tokens(
                groups[g].kind,
                groups[g].extent,
                groups[g].block_size,
                rows[mine[g], LENGTH],
                rows[mine[g], NUM_CACHED],
                ask.caching,
                total,
            ),
        )
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
            release_split(records, held, null_id)
        else:
            release_all(records, held, null_id, True, False)
        release_segment(rows, ids, heads, mine[g])


@leaf
def is_refused(pool: Any, store: Any, groups: Any, mine: Any, hits: Any, ends: Any, hashes: Any, ask: Any) -> bool:
    """Whether `kvgpu.allocation.slots` must look at a call, to say what is wrong. O(groups), O(hits) with hits."""
    bits = ask.num_computed | ask.num_hit_tokens | ask.num_external | ask.num_new | ask.num_lookahead
    bits |= ask.num_tokens | (ask.num_prompt + 1) | ask.reserved_blocks | ask.num_encoder
    if not 0 <= bits <= MOST_TOKENS or ask.num_new + ask.num_external == 0:
        return True
    num_main = ask.num_computed + ask.num_hit_tokens + ask.num_external + ask.num_new
    if num_main > ask.max_model_len:
        return True
    num_hashes = min(ask.num_hashes, ask.first_hash + len(hashes))
    if ask.caches and min(num_main, ask.num_tokens) // ask.hash_block_size > num_hashes:
        return True
    longest = 0
    for g in range(len(groups)):
        size, masked = groups[g].block_size, groups[g].kind != FULL
        num_cached = store[0][mine[g], NUM_CACHED]
        running = num_cached >= 0
        if ask.first_hash > max(0, num_cached, ends[g + 1] - ends[g]):
            return True
        if masked and not running and ask.num_computed > store[0][mine[g], LENGTH] * size:
            return True
        if ends[g] == ends[g + 1]:
            continue
        found = hits[ends[g] : ends[g + 1]]
        if running or not ask.caching:
            return True
        if hit_fault(pool[0], found, pool[4], masked, True, ask.distinct != 0) >= 0:
            return True
        longest = max(longest, len(found) * size)
    return bool(ask.num_hit_tokens > longest)


@leaf
def room_for(store: Any, groups: Any, mine: Any, ends: Any, ask: Any) -> tuple[int, int]:
    """The most ids that the store must have room for, and notes that the log must, for a call that is not refused."""
    rows = store[0]
    num_main = ask.num_computed + ask.num_hit_tokens + ask.num_external + ask.num_new
    num_slots = min(num_main + ask.num_lookahead, ask.max_model_len)
    segments, changes = 0, 1
    for g in range(len(groups)):
        held, limit = rows[mine[g], LENGTH], rows[mine[g], LIMIT]
        needed = held + blocks_beyond(num_slots, held, groups[g].block_size)
        if needed > limit:
            segments += 1 << segment_class(needed)
        if rows[mine[g], NUM_CACHED] < 0:
            # Hits, and what stands for tokens in front of a mask, go behind what a request has that does not run.
            most = held + max(needed, ends[g + 1] - ends[g])
            if most > max(needed, limit):
                segments += 1 << segment_class(most)
        full = num_main // groups[g].block_size
        changes += needed - held + max(0, full - max(0, rows[mine[g], NUM_CACHED]))
    return segments, changes


@jit
def allocate_one(
    records: Any,
    table: Any,
    log: Any,
    marks: Any,
    rows: Any,
    ids: Any,
    heads: Any,
    groups: Any,
    mine: Any,
    hits: Any,
    ends: Any,
    hashes: Any,
    asked: Any,
    starts: Any,
    out: Any,
) -> int:
    """`allocate_request` for Python, with numbers and hits as they came: they are looked at first.

    Args:
        asked: ASKED_RECORD [1].
        starts: int64 [3, groups], written to.
        out: int64 [PLACES + 3 * groups], filled.
    """
    ask = asked[0]
    pool = (records, table, ask.seed, log, ask.null_id, marks)
    store = (rows, ids, heads)
    out[:] = 0
    if is_refused(pool, store, groups, mine, hits, ends, hashes, ask):
        return REFUSED
    segments, changes = room_for(store, groups, mine, ends, ask)
    if heads[TOP] + segments > len(ids) or (len(log) > 0 and log[0, 0] + changes >= len(log)):
        out[SEGMENTS] = segments
        out[CHANGES] = changes
        return SHORT
    status = allocate_request(pool, store, groups, mine, hits, ends, hashes, ask, starts, out[:TALLY_WORDS])
    if status == FITS:
        out[QUIET_UNTIL] = rows[mine[0], QUIET]
        for g in range(len(groups)):
            begin, end = rows[mine[g], BEGIN], rows[mine[g], LENGTH]
            out[PLACES + 3 * g] = begin + starts[1, g]
            out[PLACES + 3 * g + 1] = begin + starts[0, g]
            out[PLACES + 3 * g + 2] = begin + end
    refuse_broken(marks)
    return status


@jit
def free_one(records: Any, rows: Any, ids: Any, heads: Any, groups: Any, mine: Any, null_id: int) -> None:
    """`free_request` for Python; the rows of the request are cleared."""
    pool = (records, ids, 0, ids, null_id, ids)
    free_request(pool, (rows, ids, heads), groups, mine)
    for g in range(len(groups)):
        for word in range(ROW_WORDS):
            rows[mine[g], word] = 0
