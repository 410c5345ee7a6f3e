"""Compiled entry points for one call: its arguments are checked, and it is served, in one step.

Names are those of `kvgpu.allocation.compiled`.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from kvgpu.allocation.arguments import ARGUMENT_RECORD
from kvgpu.allocation.compiled import (
    FITS,
    HELD,
    HELD_BEFORE_EXTERNAL,
    REFUSED,
    START_WORDS,
    CallArrays,
    allocate_request,
    free_request,
)
from kvgpu.block_tables.store import BEGIN, COVERED, LENGTH, LIMIT, NUM_CACHED, TOP, segment_class, store_at
from kvgpu.blocks.index_meta import BROKEN, is_settled
from kvgpu.blocks.record import NO_IDS
from kvgpu.compiled.handle import IDS, WORDS, Handle, array_at, handle_at, lines_at
from kvgpu.compiled.jit import inline, jit, leaf
from kvgpu.compiled.list_items import copy_bytes, length_of
from kvgpu.groups.compiled import TALLY_WORDS, hit_fault
from kvgpu.index.base import Keys
from kvgpu.index.host.pool_arrays import pool_at
from kvgpu.integers import MOST_TOKENS
from kvgpu.layout import KEY_WORDS
from kvgpu.rules.allocation import GROUP_RECORD, blocks_beyond, tokens_to_cache
from kvgpu.rules.plan_words import FULL

SHORT, DISAGREES = 3, 4
"""Besides FITS, NO_ROOM and REFUSED. SHORT: nothing was done, since the store has too little memory, or the log.
DISAGREES: `refuse_broken` says what is wrong."""

POOL, STORE, GROUPS, ARGUMENTS, TABLE_IDS, STARTS, OUT, HITS, HIT_ENDS, HASHES, NUM_ARRAYS = range(11)
"""Arrays of the handle of an `ArrayAllocator`, in order.

POOL, STORE: the words of the handles of pool and store. GROUPS: GROUP_RECORD [groups]. ARGUMENTS: ARGUMENT_RECORD [1].
TABLE_IDS: int64 [groups], the block tables of the request. STARTS: int64 [START_WORDS, groups], scratch. OUT: int64
[PLACES + 3 * groups], the answer. HITS, HIT_ENDS, HASHES: as in `CallArrays`.
"""

GROUP, ARGUMENT = np.empty(0, GROUP_RECORD), np.empty(0, ARGUMENT_RECORD)
"""Arrays that stand for the type of others."""

SEGMENTS, CHANGES = 0, 1
COVERED_UNTIL, NUM_TAKEN, NUM_NEW, PLACES = range(TALLY_WORDS, TALLY_WORDS + 4)
"""Words of the answer to a call.

SEGMENTS, CHANGES: ids and notes that SHORT wants room for. With FITS, the tally is here.
COVERED_UNTIL: the new value of `RequestBlocks.covered_until`. NUM_TAKEN: blocks that the request got in all groups.
NUM_NEW: those of them that are not for external tokens.
PLACES: from here on, three words for each group: where in the store its blocks for external tokens begin, where its
other new blocks begin, and where they end.
"""


NO_KEYS: Keys = np.empty((0, KEY_WORDS), np.int64)


def new_handle(pool: Keys, store: Keys, groups: npt.NDArray[np.void]) -> Handle:
    """Make a handle for `allocate_one` and `free_one`; `pool` and `store` are words of handles. O(groups)."""
    arguments, starts = np.zeros(1, ARGUMENT_RECORD), np.zeros((START_WORDS, len(groups)), np.int64)
    table_ids, ends = np.zeros(len(groups), np.int64), np.zeros(len(groups) + 1, np.int64)
    out = np.zeros(PLACES + 3 * len(groups), np.int64)
    return Handle((pool, store, groups, arguments, table_ids, starts, out, NO_IDS, ends, NO_KEYS))


@leaf
def is_refused(pool: Any, store: Any, groups: Any, call: Any, args: Any) -> bool:
    """Return whether `kvgpu.allocation.slots` must look at a call, to say what is wrong. O(groups + hits)."""
    bits = args.num_computed | args.num_hit_tokens | args.num_external | args.num_new | args.num_lookahead
    bits |= args.num_tokens | (args.num_prompt + 1) | args.reserved_blocks | args.num_encoder
    bits |= args.junction | args.num_in_flight | args.headroom
    if not 0 <= bits <= MOST_TOKENS or args.num_new + args.num_external == 0:
        return True
    num_main = args.num_computed + args.num_hit_tokens + args.num_external + args.num_new
    if num_main > args.max_model_len:
        return True
    num_hashes = min(args.num_hashes, args.first_hash + len(call.hashes))
    num_cacheable = min(tokens_to_cache(num_main, args.num_tokens), args.num_hashed)
    if args.caches and num_cacheable // args.hash_block_size > num_hashes:
        return True
    longest = 0
    for g in range(len(groups)):
        size, masked = groups[g].block_size, groups[g].kind != FULL
        table, hits = store.tables[call.table_ids[g]], call.hits[call.hit_ends[g] : call.hit_ends[g + 1]]
        running = table[NUM_CACHED] >= 0
        if args.first_hash > max(0, table[NUM_CACHED], len(hits)):
            return True
        if masked and not running and args.num_computed > table[LENGTH] * size:
            return True
        if len(hits) == 0:
            continue
        if running or not args.caching:
            return True
        if hit_fault(pool.records, hits, pool.null_id, masked, True, args.distinct != 0) >= 0:
            return True
        longest = max(longest, len(hits) * size)
    return bool(args.num_hit_tokens > longest)


@leaf
def listed_range(store: Any, groups: Any, call: Any, args: Any) -> tuple[int, int]:
    """Return which hashes of a list a call caches blocks under, [first, stop); (0, 0) if the list is too short.

    Nothing has been checked yet.
    """
    num_main = args.num_computed + args.num_hit_tokens + args.num_external + args.num_new
    stop = min(tokens_to_cache(num_main, args.num_tokens), args.num_hashed) // args.hash_block_size
    first = stop
    for g in range(len(groups)):
        num_cached = store.tables[call.table_ids[g], NUM_CACHED]
        first = min(first, num_cached if num_cached >= 0 else call.hit_ends[g + 1] - call.hit_ends[g])
    return (first, stop) if first >= 0 and stop <= length_of(args.listed) else (0, 0)


@leaf
def room_for(store: Any, groups: Any, call: Any, args: Any) -> tuple[int, int]:
    """Return how many ids of the store and notes of the log a call that is not refused can take at most."""
    num_main = args.num_computed + args.num_hit_tokens + args.num_external + args.num_new
    num_slots = min(num_main + args.num_lookahead, args.max_model_len)
    segments, changes = 0, 1
    for g in range(len(groups)):
        table = store.tables[call.table_ids[g]]
        held, limit = table[LENGTH], table[LIMIT]
        most = held + blocks_beyond(num_slots, held, groups[g].block_size)
        if most > limit:
            segments += 1 << segment_class(most)
        if table[NUM_CACHED] < 0:
            # Hits, and null blocks for tokens in front of a mask, are appended to what a request holds that does not
            # run.
            with_hits = held + max(most, call.hit_ends[g + 1] - call.hit_ends[g])
            if with_hits > max(most, limit):
                segments += 1 << segment_class(with_hits)
        full = num_main // groups[g].block_size
        changes += most - held + max(0, full - max(0, table[NUM_CACHED]))
    return segments, changes


@inline
def serve_call(pool: Any, store: Any, groups: Any, call: Any, args: Any, starts: Any, out: Any) -> int:
    """`allocate_request` with arguments as they came: they are checked first.

    Args:
        pool, store, groups: As in `kvgpu.allocation.compiled`.
        call: `CallArrays`; its hashes are not looked at if the arguments say that they lie in a list.
        args: An ARGUMENT_RECORD.
        starts: int64 [START_WORDS, groups], scratch.
        out: int64 [PLACES + 3 * groups], the answer.

    Returns:
        FITS, NO_ROOM, REFUSED or SHORT.
    """
    hashes = call.hashes
    if args.listed != 0:
        if not is_settled(pool.meta):
            return REFUSED
        first, stop = listed_range(store, groups, call, args)
        hashes = np.zeros((stop - first, KEY_WORDS), np.int64)
        if copy_bytes(args.listed, first, stop - first, args.bytes_type, args.hash_width // 8, hashes) < stop - first:
            return REFUSED
        args.first_hash = first
    call = CallArrays(call.table_ids, call.hits, call.hit_ends, hashes)
    out[:] = 0
    if is_refused(pool, store, groups, call, args):
        return REFUSED
    segments, changes = room_for(store, groups, call, args)
    log = pool.log
    if store.free_segments[TOP] + segments > len(store.ids) or (len(log) > 0 and log[0, 0] + changes >= len(log)):
        out[SEGMENTS] = segments
        out[CHANGES] = changes
        return SHORT
    status = allocate_request(pool, store, groups, call, args, starts, out[:TALLY_WORDS])
    if status == FITS:
        out[COVERED_UNTIL] = store.tables[call.table_ids[0], COVERED]
        for g in range(len(groups)):
            table = store.tables[call.table_ids[g]]
            out[NUM_TAKEN] += table[LENGTH] - starts[HELD_BEFORE_EXTERNAL, g]
            out[NUM_NEW] += table[LENGTH] - starts[HELD, g]
            out[PLACES + 3 * g] = table[BEGIN] + starts[HELD_BEFORE_EXTERNAL, g]
            out[PLACES + 3 * g + 1] = table[BEGIN] + starts[HELD, g]
            out[PLACES + 3 * g + 2] = table[BEGIN] + table[LENGTH]
    return status


@jit
def allocate_one(address: int) -> int:
    """`serve_call` for Python and C; at the address are the words of the handle of an allocator."""
    handle = handle_at(address, 2 * NUM_ARRAYS)
    pool, store = pool_at(array_at(handle, 2 * POOL, WORDS)), store_at(array_at(handle, 2 * STORE, WORDS))
    groups, args = array_at(handle, 2 * GROUPS, GROUP), array_at(handle, 2 * ARGUMENTS, ARGUMENT)[0]
    call = CallArrays(
        array_at(handle, 2 * TABLE_IDS, WORDS),
        array_at(handle, 2 * HITS, IDS),
        array_at(handle, 2 * HIT_ENDS, WORDS),
        lines_at(handle, 2 * HASHES, WORDS, KEY_WORDS),
    )
    starts, out = lines_at(handle, 2 * STARTS, WORDS, len(groups)), array_at(handle, 2 * OUT, WORDS)
    status = serve_call(pool, store, groups, call, args, starts, out)
    return DISAGREES if pool.meta[BROKEN] != 0 else status


@jit
def free_one(address: int) -> int:
    """`free_request` for Python and C, which also clears the block tables; `address` as in `allocate_one`."""
    handle = handle_at(address, 2 * NUM_ARRAYS)
    pool, store = pool_at(array_at(handle, 2 * POOL, WORDS)), store_at(array_at(handle, 2 * STORE, WORDS))
    groups, table_ids = array_at(handle, 2 * GROUPS, GROUP), array_at(handle, 2 * TABLE_IDS, WORDS)
    free_request(pool, pool.records, pool.null_id, store, groups, table_ids)
    for g in range(len(groups)):
        store.tables[table_ids[g]] = 0
    return FITS
