"""Compiled allocation for many requests that run, with counters and hashes that an engine owns.

Each request is served as by a single call, in order; names are those of `kvgpu.allocation.single_call`.
"""

from typing import Any

import numpy as np

from kvgpu.allocation.compiled import FITS, REFUSED, START_WORDS, CallArrays
from kvgpu.allocation.single_call import (
    ARGUMENT,
    ARGUMENTS,
    CHANGES,
    GROUP,
    GROUPS,
    PLACES,
    POOL,
    SEGMENTS,
    SHORT,
    STORE,
    serve_call,
)
from kvgpu.block_tables.store import COVERED, JUNCTION, LENGTH, SERIAL, store_at
from kvgpu.blocks.index_meta import refuse_broken
from kvgpu.compiled.handle import IDS, WORDS, array_at, lines_at
from kvgpu.compiled.jit import AHEAD, inline, jit, leaf, prefetch
from kvgpu.compiled.list_items import length_of
from kvgpu.groups.compiled import EVICTED, KEYS
from kvgpu.index.host.pool_arrays import pool_at
from kvgpu.integers import MOST_TOKENS
from kvgpu.layout import KEY_WORDS
from kvgpu.rules.allocation import blocks_beyond

FACT_TABLES, COUNT_ARRAYS, BUSY_ROWS, NEW_IDS, REPORT = range(ARGUMENTS + 1, ARGUMENTS + 6)
"""Arrays of the handle of `RunningSlots`, after those that it shares with the handle of an `ArrayAllocator`.

FACT_TABLES: int64 [any, FACTS + groups], what each running request is known by, and its block tables. COUNT_ARRAYS:
int64 [any, COUNTS], its counters. BUSY_ROWS: int64 [any, BUSY + groups], requests that needed something. NEW_IDS:
int32, their new blocks, request by request and group by group. REPORT: int64 [REPORT_WORDS].
"""

SERIAL_NUMBER, LISTED, NUM_PROMPT, FACTS = 0, 1, 2, 3
"""Facts: the serial number of the first block table, the address of the list of hashes, tokens of the prompt."""

NUM_COMPUTED, NUM_TOKENS, NUM_NEW, NUM_IN_FLIGHT, COUNTS = range(5)
"""Counters: tokens that have slots, tokens of the request, tokens to give slots to, 0 for none, and tokens of steps
that have not ended."""

PLACE, COVERED_TO, BUSY = 0, 1, 2
"""Of a request that needed something: its place, the new value of `RequestBlocks.covered_until`, and then, for each
group, the number of its new blocks."""

NUM_ROWS, FROM, NUM_BUSY, NUM_IDS, WANTED_IDS, WANTED_NOTES, NUM_KEYS, NUM_EVICTED, REPORT_WORDS = range(9)
"""Words of the report.

NUM_ROWS: requests to be served. FROM: the first that is not served yet. NUM_BUSY, NUM_IDS: rows of BUSY_ROWS, and ids
of NEW_IDS, that are written. WANTED_IDS, WANTED_NOTES: what SHORT wants room for. NUM_KEYS, NUM_EVICTED: keys that the
index gained, and blocks that were evicted.
"""


@leaf
def needs_nothing(table: Any, counts: Any, num_lookahead: int) -> bool:
    """Return whether a request needs nothing of any group for its next tokens."""
    return bool(
        counts[NUM_NEW] == 0
        or (
            counts[NUM_COMPUTED] >= 0 < counts[NUM_NEW]
            and counts[NUM_COMPUTED] + counts[NUM_NEW] + num_lookahead <= table[COVERED]
        )
    )


@leaf
def most_new(store: Any, groups: Any, table_ids: Any, num_slots: int) -> int:
    """Return how many blocks a request can get at most, over all groups."""
    count = 0
    for g in range(len(groups)):
        count += blocks_beyond(num_slots, store.tables[table_ids[g], LENGTH], groups[g].block_size)
    return count


@leaf
def note_new(store: Any, num_groups: int, out: Any, busy: Any, new_ids: Any, report: Any) -> None:
    """Write down what a call gave a request."""
    for g in range(num_groups):
        begin, end = out[PLACES + 3 * g + 1], out[PLACES + 3 * g + 2]
        busy[BUSY + g] = end - begin
        for at in range(begin, end):
            new_ids[report[NUM_IDS]] = store.ids[at]
            report[NUM_IDS] += 1
    report[NUM_KEYS] += out[KEYS]
    report[NUM_EVICTED] += out[EVICTED]


@inline
def serve_rows(pool: Any, store: Any, groups: Any, args: Any, rows: Any, report: Any) -> int:
    """Serve requests in order, until one cannot be served; `rows` are FACT_TABLES to NEW_IDS.

    Returns:
        FITS, or what `serve_call` says of request number `report[FROM]`; REFUSED also if it has lost its blocks, or
        NEW_IDS has no room for its new ones.
    """
    facts, counts, busy, new_ids = rows
    starts = np.zeros((START_WORDS, len(groups)), np.int64)
    out = np.zeros(PLACES + 3 * len(groups), np.int64)
    ends, keys, hits = np.zeros(len(groups) + 1, np.int64), np.zeros((0, KEY_WORDS), np.int64), np.zeros(0, np.int32)
    caches = args.caches
    for place in range(report[FROM], report[NUM_ROWS]):
        if place + AHEAD < report[NUM_ROWS]:
            prefetch(store.tables, facts[place + AHEAD, FACTS])
        report[FROM] = place
        fact, count = facts[place], counts[place]
        table = store.tables[fact[FACTS]]
        if table[SERIAL] != fact[SERIAL_NUMBER]:
            return REFUSED
        if needs_nothing(table, count, args.num_lookahead):
            continue
        num_slots = min(count[NUM_COMPUTED] + count[NUM_NEW] + args.num_lookahead, args.max_model_len)
        if report[NUM_IDS] + most_new(store, groups, fact[FACTS:], num_slots) > len(new_ids):
            return REFUSED
        args.num_computed, args.num_tokens, args.num_new = count[NUM_COMPUTED], count[NUM_TOKENS], count[NUM_NEW]
        args.num_in_flight = count[NUM_IN_FLIGHT]
        args.num_prompt, args.num_hashes = fact[NUM_PROMPT], length_of(fact[LISTED])
        args.num_hashed = args.num_hashes * args.hash_block_size if args.clamps else MOST_TOKENS
        args.junction = table[JUNCTION]
        args.listed = fact[LISTED] if caches and args.num_hashes > 0 else 0
        args.first_hash = 0
        status = serve_call(pool, store, groups, CallArrays(fact[FACTS:], hits, ends, keys), args, starts, out)
        if status == SHORT:
            report[WANTED_IDS], report[WANTED_NOTES] = out[SEGMENTS], out[CHANGES]
        if status != FITS:
            return status
        row = busy[report[NUM_BUSY]]
        row[PLACE], row[COVERED_TO] = place, table[COVERED]
        note_new(store, len(groups), out, row, new_ids, report)
        report[NUM_BUSY] += 1
    report[FROM] = report[NUM_ROWS]
    return FITS


@jit
def allocate_running(handle: Any) -> int:
    """`serve_rows` for Python; `handle` is that of `RunningSlots`."""
    pool, store = pool_at(array_at(handle, 2 * POOL, WORDS)), store_at(array_at(handle, 2 * STORE, WORDS))
    groups, args = array_at(handle, 2 * GROUPS, GROUP), array_at(handle, 2 * ARGUMENTS, ARGUMENT)[0]
    rows = (
        lines_at(handle, 2 * FACT_TABLES, WORDS, FACTS + len(groups)),
        lines_at(handle, 2 * COUNT_ARRAYS, WORDS, COUNTS),
        lines_at(handle, 2 * BUSY_ROWS, WORDS, BUSY + len(groups)),
        array_at(handle, 2 * NEW_IDS, IDS),
    )
    status = serve_rows(pool, store, groups, args, rows, array_at(handle, 2 * REPORT, WORDS))
    refuse_broken(pool.meta)
    return status
