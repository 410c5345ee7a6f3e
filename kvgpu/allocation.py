"""Compiled allocation: slots for one request over all groups, and the return of its blocks.

The same functions serve single calls and batches. They cover what lies in arrays: groups of attention
kinds that `kvgpu.groups.rules` knows, one hash per block, nobody to be told of every block. The rest goes
through the managers of the groups, with the same rules.

`pool` is (records, table, seed, log, null_id, marks); `store` is (rows, ids, heads) of a `TableStore`; `groups`
GROUP_RECORD [groups]; `mine` int64 [groups], the rows of the request in the store.
"""

from typing import Any

from kvgpu._jit import inline, jit, leaf
from kvgpu.free_list import release_all, release_split
from kvgpu.groups.rules import blocks_beyond, blocks_of, quiet_tokens, skipped_tokens
from kvgpu.groups.steps import (
    OFFENDER,
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
from kvgpu.kernels.layout import FULL, SLIDING_WINDOW
from kvgpu.marks import refuse_broken
from kvgpu.table_store import LENGTH, LIMIT, NUM_CACHED, QUIET, make_room, release_segment

FITS, NO_ROOM, HASHED_BEFORE, BAD_HITS = 0, 1, 2, 3
"""What became of a call. HASHED_BEFORE: a block that should be cached has a hash already; BAD_HITS: hits are none; nothing
was done in both cases."""


@leaf
def blocks_with_external(group: Any, total: int, ask: Ask) -> int:
    """Blocks of a request that holds `total` tokens, those that come from elsewhere among them; 0 if none do."""
    skipped = skipped_tokens(group.kind, group.extent, total)
    return blocks_of(total, group.block_size) if min(total - skipped, ask.num_external) > 0 else 0


@leaf
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
            release_split(records, held, null_id)
        else:
            release_all(records, held, null_id, True, False)
        release_segment(rows, ids, heads, mine[g])


@jit
def allocate_one(
    records: Any, table: Any, log: Any, marks: Any, rows: Any, ids: Any, heads: Any, groups: Any, mine: Any,
    hits: Any, ends: Any, hashes: Any, words: Any, starts: Any, tally: Any, seed: int,
) -> int:  # fmt: skip
    """`allocate_request` for Python; `words` are the null block, the fields of an `Ask`, and whether hits are distinct. They are
    checked first."""
    pool = (records, table, seed, log, words[0], marks)
    for g in range(len(groups)):
        mine_hits = hits[ends[g] : ends[g + 1]]
        fault = hit_fault(
            records, mine_hits, words[0], groups[g].kind != FULL, True, words[15] != 0
        )
        if fault >= 0:
            tally[OFFENDER] = mine_hits[fault]
            return BAD_HITS
    ask = Ask(
        words[1], words[2], words[3], words[4], words[5], words[6], words[7], words[8], words[9],
        words[10], words[11] != 0, words[12] != 0, words[13] != 0, words[14] != 0,
    )  # fmt: skip
    status = allocate_request(
        pool, (rows, ids, heads), groups, mine, hits, ends, hashes, ask, starts, tally
    )
    refuse_broken(marks)
    return status
