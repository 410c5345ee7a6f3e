"""Compiled allocation: slots for one request over all groups, and the return of its blocks.

The same functions serve single calls and batches. They cover what lies in arrays: groups of attention
kinds that `kvgpu.rules.allocation` knows, with one hash per block, while nobody has to be told of single blocks.
Everything else goes through the managers of the groups, with the same rules.

`pool` is `PoolArrays`, `store` is `StoreArrays`, `groups` are GROUP_RECORD [groups], `call` is `CallArrays`, and
`args` are `AllocationArguments` or an ARGUMENT_RECORD.
"""

from typing import Any, NamedTuple

from kvgpu.block_tables.store import COVERED, JUNCTION, LENGTH, LIMIT, NUM_CACHED, make_room, release_segment
from kvgpu.blocks.free_order import NUM_FREE
from kvgpu.blocks.lru_release import release_all, release_split
from kvgpu.compiled.jit import inline, leaf
from kvgpu.groups.compiled import (
    cache_full,
    drop_skipped,
    extend,
    first_hashed,
    full_blocks,
    ids_of_table,
    needed_in_group,
    take_hits,
)
from kvgpu.rules.allocation import blocks_beyond, blocks_of, covered_tokens, skipped_tokens, tokens_to_cache
from kvgpu.rules.plan_words import FULL

FITS, NO_ROOM, REFUSED = 0, 1, 2
"""What became of a call. REFUSED: nothing was done, and `kvgpu.allocation.slots` says why."""

HELD, HELD_BEFORE_EXTERNAL, DROPPED, START_WORDS = 0, 1, 2, 3
"""Rows of `starts`, by group: blocks that the request held before its new ones, and before those for external tokens;
the first of its earlier blocks that was dropped."""


class CallArrays(NamedTuple):
    """What belongs to the request of one call."""

    table_ids: Any
    """int64 [groups], its block tables in the store."""
    hits: Any
    """int32, cached blocks of all groups, one group after the other."""
    hit_ends: Any
    """int64 [groups + 1]: the hits of group g are [hit_ends[g], hit_ends[g + 1])."""
    hashes: Any
    """int64 [n, KEY_WORDS], its hashes from block `first_hash` on."""


@leaf
def blocks_with_external(group: Any, num_elsewhere: int, num_external: int) -> int:
    """Return the blocks for `num_elsewhere` tokens that need not be computed; 0 if none of them is external."""
    skipped = skipped_tokens(group.kind, group.extent, num_elsewhere)
    if min(num_elsewhere - skipped, num_external) <= 0:
        return 0
    return blocks_of(num_elsewhere, group.block_size)


@leaf
def needed(pool: Any, store: Any, groups: Any, call: Any, num_tokens: int, num_elsewhere: int, capped: bool) -> int:
    """Return the free blocks that `num_tokens` tokens of a request take, over all groups."""
    total = 0
    for g in range(len(groups)):
        table = store.tables[call.table_ids[g]]
        hits = call.hits[call.hit_ends[g] : call.hit_ends[g + 1]]
        total += needed_in_group(pool, table, groups[g], hits, num_tokens, num_elsewhere, capped)
    return total


@leaf
def is_cached_twice(pool: Any, store: Any, groups: Any, call: Any, num_cacheable: int, num_hashed: int) -> bool:
    """Return whether a block that should be cached has a hash already."""
    for g in range(len(groups)):
        table_id = call.table_ids[g]
        full = full_blocks(store.tables[table_id], groups[g], num_cacheable, num_hashed)
        if first_hashed(pool, store, table_id, full) >= 0:
            return True
    return False


@leaf
def covered_of(store: Any, groups: Any, call: Any, args: Any, processed: int) -> int:
    """Return up to how many tokens a request needs nothing of any group."""
    covered = args.max_model_len
    for g in range(len(groups)):
        table, group = store.tables[call.table_ids[g]], groups[g]
        covered = min(
            covered,
            covered_tokens(
                group.kind, group.extent, group.block_size, table[LENGTH], table[NUM_CACHED], args.caching, processed
            ),
        )
    return int(covered)


@leaf
def allocate_request(pool: Any, store: Any, groups: Any, call: Any, args: Any, starts: Any, tally: Any) -> int:
    """Do what `KVCacheManager.allocate_slots` does, in the order of `SlotAllocator.allocate_slots`.

    tests/allocation/test_array_allocator.py compares the two.

    Args:
        pool, store, groups, call, args: See the module.
        starts: int64 [START_WORDS, groups], filled.
        tally: int64 [TALLY_WORDS], added to.

    Returns:
        FITS, NO_ROOM, or REFUSED if a block that should be cached has a hash already. The caller has made room in the
        store and in the log.
    """
    tables, table_ids = store.tables, call.table_ids
    num_free = pool.queue_words[NUM_FREE]
    num_groups = len(groups)
    # The tokens of the request: [0, num_local) have slots or are hits, [num_local, num_elsewhere) are external,
    # [num_elsewhere, num_main) are new, and [num_main, num_slots) are drafts. The model's length cuts the last two.
    num_local = args.num_computed + args.num_hit_tokens
    num_elsewhere = num_local + args.num_external
    total = min(num_elsewhere, args.max_model_len)
    num_main = total + args.num_new
    num_slots = min(num_main + args.num_lookahead, args.max_model_len)
    num_cacheable = tokens_to_cache(num_main, args.num_tokens)
    if args.caches and is_cached_twice(pool, store, groups, call, num_cacheable, args.num_hashed):
        return REFUSED
    for g in range(num_groups):
        starts[:, g] = tables[table_ids[g], LENGTH]
    if args.whole:
        whole = min(args.num_tokens, args.max_model_len)
        if needed(pool, store, groups, call, whole, total, True) + args.headroom > num_free:
            return NO_ROOM
    # Steps in flight still read what they were given.
    processed = max(0, total - args.num_in_flight)
    for g in range(num_groups):
        if groups[g].kind != FULL:
            starts[DROPPED, g] = drop_skipped(pool, store, groups[g], table_ids[g], processed)
    num_free = pool.queue_words[NUM_FREE]
    # Blocks for external tokens are not cut to the length of the model, so they are counted.
    longest = max(num_slots, num_elsewhere)
    if needed(pool, store, groups, call, longest, total, False) + args.headroom > num_free - args.reserved_blocks:
        return NO_ROOM
    for g in range(num_groups):
        # All at once, so that a block table moves at most once.
        room = tables[table_ids[g], LIMIT]
        room += blocks_beyond(longest, room, groups[g].block_size)
        make_room(store, table_ids[g], room)
    if args.takes_hits or args.num_external > 0:
        # All hits before the first block for external tokens, which might be one of them.
        for g in range(num_groups):
            is_new = tables[table_ids[g], NUM_CACHED] < 0
            hits = call.hits[call.hit_ends[g] : call.hit_ends[g + 1]]
            starts[HELD_BEFORE_EXTERNAL, g] = take_hits(pool, store, groups[g], table_ids[g], hits, num_elsewhere)
            starts[HELD, g] = blocks_with_external(groups[g], num_elsewhere, args.num_external) if is_new else 0
        if args.num_external > 0:
            for g in range(num_groups):
                extend(pool, store, table_ids[g], starts[HELD, g] - starts[HELD_BEFORE_EXTERNAL, g], tally)
    for g in range(num_groups):
        starts[HELD, g] = tables[table_ids[g], LENGTH]
        missing = blocks_beyond(num_slots, starts[HELD, g], groups[g].block_size)
        extend(pool, store, table_ids[g], missing, tally)
    if args.caches:
        hashes, ends = (call.hashes, args.first_hash), (args.num_prompt, args.junction)
        for g in range(num_groups):
            full = full_blocks(tables[table_ids[g]], groups[g], num_cacheable, args.num_hashed)
            if full[0] < full[1]:
                cache_full(pool, store, groups[g], table_ids[g], hashes, full, ends, tally)
    tables[table_ids[0], JUNCTION] = args.junction
    tables[table_ids[0], COVERED] = covered_of(store, groups, call, args, processed)
    return FITS


@inline
def free_request(free: Any, records: Any, null_id: int, store: Any, groups: Any, table_ids: Any) -> None:
    """`KVCacheManager.free`: blocks go back group by group, the last of each first; `free` is a `FreeQueue`."""
    for g in range(len(groups)):
        held = ids_of_table(store, table_ids[g])
        if groups[g].splits:
            release_split(free, records, held, null_id)
        else:
            release_all(free, held, null_id, True, False)
        release_segment(store, table_ids[g])
