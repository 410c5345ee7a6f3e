"""Compiled steps over many rows: slots for each, and the return of their blocks."""

from typing import Any, NamedTuple

import numpy as np

from kvgpu.allocation.arguments import AllocationArguments
from kvgpu.allocation.compiled import FITS, HELD, START_WORDS, CallArrays, allocate_request, free_request
from kvgpu.batch.rows.record import longest_hit
from kvgpu.batch.step.arrays import (
    GROUP,
    GROUPS,
    LINES,
    OPTION,
    OPTIONS,
    PLAN,
    POOL,
    REPORT,
    REPORTED,
    STORE,
    Step,
    batch_at,
    given_at,
    in_flight_at,
)
from kvgpu.batch.step.check import check_step, hashed_tokens, is_covered
from kvgpu.batch.step.report import DONE, clear_report
from kvgpu.block_tables.store import BEGIN, COVERED, JUNCTION, LENGTH, SERIAL, StoreArrays, store_at
from kvgpu.blocks.free_order import FreeQueue
from kvgpu.blocks.index_meta import refuse_broken
from kvgpu.compiled.handle import WORDS, array_at, lines_at
from kvgpu.compiled.jit import inline, jit, leaf
from kvgpu.groups.compiled import EVICTED, KEYS, TALLY_WORDS
from kvgpu.hashing.hash_arena import hashes_at
from kvgpu.index.host.memo import MEMO_WORDS
from kvgpu.index.host.pool_arrays import pool_at
from kvgpu.index.host.prefix_match import longest_prefix, lookup_in, num_lines_of
from kvgpu.rules.hits import FIRST_NEEDED, FURTHEST, HIT_ROWS, NUM_HIT
from kvgpu.rules.plan_words import PLAN_NUM_QUERIES


class Lookups(NamedTuple):
    """What the lookups of a step ask, and what they write to."""

    words: Any
    """Of the `PrefixPlan`; empty for no lookups."""
    lines: Any
    """int64 [2, groups], line and query of the plan that each group has."""
    ids: Any
    last: Any
    memo: Any
    """int32 [lines, hashes], int64 [lines, 2] and int64 [queries, MEMO_WORDS], see `Lookup`."""
    found: Any
    """int64 [HIT_ROWS, queries], see `common_hit`."""
    hits: Any
    """int32 [lines * hashes], hits of all groups, one group after the other."""
    hit_ends: Any
    """int64 [groups + 1], see `CallArrays`."""


class StepResults(NamedTuple):
    """What each row of a step got."""

    fits: Any
    """bool [n], whether it got its slots."""
    num_new: Any
    """int64 [n], its new tokens; 0 if it got none."""
    num_hit_tokens: Any
    """int64 [n], cached tokens, if it was looked up."""
    changed: Any
    """int64 [busy], places of the rows whose blocks changed."""
    starts: Any
    """int64 [busy, START_WORDS, groups], of these rows."""


@inline
def make_lookups(words: Any, lines: Any, longest: int) -> Any:
    """Make `Lookups` of requests with up to `longest` hashes."""
    num_queries = words[PLAN_NUM_QUERIES] if len(words) else 0
    num_lines = num_lines_of(words) if len(words) else 0
    return Lookups(
        words,
        lines,
        np.empty((num_lines, longest), np.int32),
        np.empty((num_lines, 2), np.int64),
        np.empty((num_queries, MEMO_WORDS), np.int64),
        np.zeros((HIT_ROWS, num_queries), np.int64),
        np.empty(num_lines * longest, np.int32),
        np.zeros(lines.shape[1] + 1, np.int64),
    )


@leaf
def look_up(pool: Any, request: Any, hashes: Any, lookups: Any) -> int:
    """Return the cached tokens of a request that holds nothing; its hits are left in `lookups`."""
    ids, found, hits, ends = lookups.ids, lookups.found, lookups.hits, lookups.hit_ends
    lookups.last[:] = -2
    lookups.memo[:] = 0
    lookup = lookup_in(pool, hashes, lookups.words, ids, lookups.last, lookups.memo)
    num_tokens = longest_prefix(lookup, longest_hit(request), found)
    for g in range(lookups.lines.shape[1]):
        line, query = lookups.lines[0, g], lookups.lines[1, g]
        first, length = found[FIRST_NEEDED, query], found[NUM_HIT, query]
        begin = ends[g]
        ends[g + 1] = begin + length
        for block in range(length):
            hits[begin + block] = pool.null_id if block < first else ids[line, block]
    return int(num_tokens)


@leaf
def count_lookup(request: Any, num_hit_tokens: int, report: Any) -> None:
    """Count a lookup in the statistics."""
    if request.preempted:
        report.preempted_requests += 1
        report.preempted_queries += request.num_tokens
        report.preempted_hits += num_hit_tokens
    else:
        report.first_requests += 1
        report.first_queries += request.num_tokens
        report.first_hits += num_hit_tokens


@leaf
def allocate_row(step: Any, place: int, lookups: Any, results: Any, tally: Any) -> bool:
    """Give one row its slots, with a lookup first if it holds nothing; returns whether it got them."""
    batch, options, report, groups = step.batch, step.options, step.report, step.groups
    request = batch.requests[batch.rows[place]]
    table_ids = batch.table_ids[batch.rows[place]]
    new = given_at(batch, place)
    hashes = hashes_at(batch.arena, request.borrowed, request.begin, request.end)
    bound = request.serial != 0
    looks = not bound and len(lookups.words) > 0 and request.reads
    lookups.hit_ends[:] = 0
    num_hit_tokens = look_up(step.pool, request, hashes, lookups) if looks else 0
    if not bound:
        results.num_hit_tokens[place] = num_hit_tokens
        new = min(new, request.num_tokens - num_hit_tokens)
    junction = step.store.tables[table_ids[0], JUNCTION] if bound else 0
    if looks and options.junctions and lookups.found[FURTHEST, 0] > num_hit_tokens:
        junction = lookups.found[FURTHEST, 0]
    args = AllocationArguments(
        request.num_computed,
        num_hit_tokens,
        0,
        new,
        options.num_lookahead,
        request.num_tokens,
        request.num_prompt,
        junction,
        hashed_tokens(request, options),
        in_flight_at(batch, place),
        options.max_model_len,
        options.reserved_blocks,
        0,
        0,
        options.whole != 0,
        lookups.hit_ends[len(groups)] > 0,
        options.caches != 0,
        options.caching != 0,
    )
    call = CallArrays(table_ids, lookups.hits, lookups.hit_ends, hashes)
    starts = results.starts[report.num_changed]
    status = allocate_request(step.pool, step.store, groups, call, args, starts, tally)
    results.changed[report.num_changed] = place
    report.num_changed += 1
    if looks and (status == FITS or not options.counts_admissions):
        count_lookup(request, num_hit_tokens, report)
    if status == FITS:
        table = step.store.tables[table_ids[0]]
        results.num_new[place] = new
        request.num_computed += num_hit_tokens + new
        request.serial = table[SERIAL]
        request.covered = table[COVERED]
    return bool(status == FITS)


@leaf
def allocate_rows(step: Any, lookups: Any, results: Any, tally: Any) -> None:
    """Give each row its slots, in order."""
    batch, options, report = step.batch, step.options, step.report
    for place in range(len(batch.rows)):
        report.num_tried += 1
        request, new = batch.requests[batch.rows[place]], given_at(batch, place)
        if request.serial != 0 and is_covered(request, request.num_computed + new, options):
            results.fits[place] = True
            results.num_new[place] = new
            request.num_computed += new
            continue
        results.fits[place] = allocate_row(step, place, lookups, results, tally)
        if not results.fits[place] and options.stops:
            break


@inline
def collect_new(step: Any, results: Any, kept: Any, offsets: Any) -> Any:
    """Return the new blocks of the rows that got slots, group by group.

    Args:
        step, results: Of the step.
        kept: int64 [busy], receives the places of these rows.
        offsets: int64 [groups, busy + 1], receives where those of each begin.
    """
    batch, store, report = step.batch, step.store, step.report
    changed, starts = results.changed, results.starts
    count = 0
    # First `kept` holds places among the rows that changed, whose starts are needed; in the end places in the step.
    for place in range(report.num_changed):
        if results.fits[changed[place]]:
            kept[count] = place
            count += 1
    report.num_kept = count
    total = 0
    for g in range(len(step.groups)):
        for k in range(count):
            offsets[g, k] = total
            table_id = batch.table_ids[batch.rows[changed[kept[k]]], g]
            total += store.tables[table_id, LENGTH] - starts[kept[k], HELD, g]
        offsets[g, count] = total
    ids = np.empty(total, np.int32)
    for g in range(len(step.groups)):
        for k in range(count):
            table_id = batch.table_ids[batch.rows[changed[kept[k]]], g]
            begin = store.tables[table_id, BEGIN] + starts[kept[k], HELD, g]
            first = offsets[g, k]
            # Not as slices, which would be copied one id at a time.
            for place in range(offsets[g, k + 1] - first):
                ids[np.uint64(first + place)] = store.ids[np.uint64(begin + place)]
    for k in range(count):
        kept[k] = changed[kept[k]]
    return ids


@jit
def take_step(handle: Any, rows: Any, given: Any, widths: Any) -> Any:
    """Take a whole step: everything is checked, then each row gets its slots.

    Args:
        handle: See `kvgpu.batch.step.arrays`. The report is filled; unless its status is DONE, nothing was changed.
        rows, given, widths: Fields of `BatchArrays`.

    Returns:
        `fits` of `StepResults`; `num_new` and `num_hit_tokens`, int64 [2, n]; `changed`, and the places of those rows
        of it that got slots, int64 [2, busy]; `starts`; where the new blocks of each of these rows begin, int64
        [groups, busy + 1]; and the new blocks, int32. Each array costs half a microsecond to return.
    """
    groups = array_at(handle, 2 * GROUPS, GROUP)
    step = Step(
        pool_at(array_at(handle, 2 * POOL, WORDS)),
        store_at(array_at(handle, 2 * STORE, WORDS)),
        groups,
        batch_at(handle, rows, given, widths),
        array_at(handle, 2 * OPTIONS, OPTION)[0],
        array_at(handle, 2 * REPORT, REPORTED)[0],
    )
    if step.options.checked:
        step.report.status = DONE
    else:
        clear_report(step.report)
        check_step(step)
    done = step.report.status == DONE and step.options.arrays != 0
    count = len(step.batch.rows) if done else 0
    num_busy = step.report.num_busy if done else 0
    counts, places = np.zeros((2, count), np.int64), np.empty((2, num_busy), np.int64)
    starts = np.empty((num_busy, START_WORDS, len(groups)), np.int64)
    results = StepResults(np.zeros(count, np.bool_), counts[0], counts[1], places[0], starts)
    offsets = np.zeros((len(groups), num_busy + 1), np.int64)
    tally = np.zeros(TALLY_WORDS, np.int64)
    if count > 0:
        plan, lines = array_at(handle, 2 * PLAN, WORDS), lines_at(handle, 2 * LINES, WORDS, len(groups))
        allocate_rows(step, make_lookups(plan, lines, step.report.longest), results, tally)
    step.report.new_keys = tally[KEYS]
    step.report.num_evicted = tally[EVICTED]
    ids = collect_new(step, results, places[1], offsets)
    refuse_broken(step.pool.meta)
    return results.fits, counts, places, starts, offsets, ids


@jit
def free_rows(
    free: Any, records: Any, null_id: int, store: Any, groups: Any, requests: Any, rows: Any, table_ids: Any
) -> None:
    """Give back the blocks of each row that holds some, in order; `free` and `store` are plain tuples."""
    free, store = FreeQueue(*free), StoreArrays(*store)
    for i in range(len(rows)):
        request = requests[rows[i]]
        if request.serial != 0:
            free_request(free, records, null_id, store, groups, table_ids[rows[i]])
        request.serial = 0
        request.num_computed = 0


@jit
def foreign_row(tables: Any, requests: Any, rows: Any, table_ids: Any) -> int:
    """Return the place of the first row whose blocks were freed beside the batch, or -1."""
    for i in range(len(rows)):
        serial = requests[rows[i]].serial
        if serial != 0 and tables[table_ids[rows[i], 0], SERIAL] != serial:
            return i
    return -1
