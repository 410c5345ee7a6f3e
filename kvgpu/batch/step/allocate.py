"""Compiled steps over many rows: slots for each, and the return of their blocks.

`table` are the records of `RequestRows`, `tables` int64 [rows, groups] the rows of each request in the pool's
`TableStore`. Everything else is named as in `kvgpu.allocation.compiled`.
"""

from typing import Any

import numpy as np

from kvgpu.allocation.compiled import FITS, allocate_request, free_request
from kvgpu.batch.rows.record import longest_hit
from kvgpu.batch.step.check import (
    ADMITS,
    AFTER_PREEMPTION,
    ARRAYS,
    BUSY,
    CACHES,
    CACHING,
    CHANGED,
    CHECKED,
    DONE,
    FIRST_ATTEMPTS,
    HITS,
    KEPT,
    LONGEST,
    LOOKAHEAD,
    MAX_MODEL_LEN,
    NULL_ID,
    QUERIES,
    REQUESTS,
    RESERVED,
    SEED,
    STATUS,
    STOPS,
    TALLY,
    TRIED,
    WHOLE,
    check_step,
    is_quiet,
)
from kvgpu.block_tables.store import BEGIN, LENGTH, QUIET, SERIAL
from kvgpu.blocks.marks import refuse_broken
from kvgpu.compiled.jit import inline, jit, leaf
from kvgpu.groups.compiled import TALLY_WORDS, Ask
from kvgpu.hashing.arena import hashes_at
from kvgpu.index.host.prefix_match import MEMO_WORDS, bind_query, probe, probe_run
from kvgpu.rules.hits import apply_rule, common_hit
from kvgpu.rules.plan_words import PLAN_HEADER, PLAN_NUM_QUERIES, QUERY_WORDS


@leaf
def collect_hits(found: Any, firsts: Any, lines: Any, ids: Any, null_id: int, hits: Any, ends: Any) -> None:
    """Hits of all groups, one group after the other."""
    for g in range(lines.shape[1]):
        line, query = lines[0, g], lines[1, g]
        begin = ends[g]
        ends[g + 1] = begin + found[query]
        for block in range(found[query]):
            hits[begin + block] = null_id if block < firsts[query] else ids[line, block]


@inline
def make_scratch(plan: Any, num_groups: int, longest: int) -> Any:
    """What lookups of requests with up to so many hashes write to: the plan's number of queries, ids of each line,
    hits of all groups and where each group's end, what `probe` keeps, first block and length of each query, and what
    `probe_run` learns."""
    num_queries = plan[PLAN_NUM_QUERIES] if len(plan) else 0
    num_lines = len(plan) - PLAN_HEADER - num_queries * QUERY_WORDS if len(plan) else 0
    return (
        num_queries,
        np.empty((num_lines, longest), np.int32),
        np.empty(num_lines * longest, np.int32),
        np.zeros(num_groups + 1, np.int64),
        np.empty((num_lines, 2), np.int64),
        np.zeros(num_queries, np.int64),
        np.zeros(num_queries, np.int64),
        np.empty((num_queries, MEMO_WORDS), np.int64),
    )


@leaf
def look_up(pool: Any, record: Any, hashes: Any, plan: Any, lines: Any, scratch: Any) -> int:
    """Cached tokens of a request that holds nothing; its blocks are left in the scratch."""
    records, index, seed, _, null_id, marks = pool
    _, ids, hits, ends, last, firsts, found, run = scratch
    last[:] = -2
    run[:] = 0
    ctx = (records, index, hashes, plan, ids, last, seed, marks, run)
    hit = common_hit(
        apply_rule, bind_query, probe, probe_run, ctx, plan, len(hashes), longest_hit(record), firsts, found
    )
    collect_hits(found, firsts, lines, ids, null_id, hits, ends)
    return int(hit)


@leaf
def count_lookup(record: Any, hit: int, head: Any) -> None:
    """Count a lookup in the statistics."""
    counts = AFTER_PREEMPTION if record.preempted else FIRST_ATTEMPTS
    head[counts + REQUESTS] += 1
    head[counts + QUERIES] += record.num_tokens
    head[counts + HITS] += hit


@leaf
def allocate_rows(
    pool: Any,
    store: Any,
    groups: Any,
    table: Any,
    rows: Any,
    tables: Any,
    arena: Any,
    given: Any,
    plan: Any,
    lines: Any,
    options: Any,
    scratch: Any,
    fits: Any,
    num_new: Any,
    hit_tokens: Any,
    changed: Any,
    starts: Any,
    head: Any,
) -> None:
    """Slots for each row in order, with a lookup first for those that hold nothing; see `take_step`."""
    store_rows = store[0]
    num_queries, hits, ends = scratch[0], scratch[2], scratch[3]
    next_given = 0 if len(given) == 1 else 1
    for i in range(len(rows)):
        head[TRIED] += 1
        record = table[rows[i]]
        bound = record.serial != 0
        new = given[i * next_given]
        if bound and is_quiet(record, record.num_computed + new, options):
            fits[i] = True
            num_new[i] = new
            record.num_computed += new
            continue
        mine = tables[rows[i]]
        hashes = hashes_at(arena, record.lent, record.begin, record.end)
        hit = 0
        ends[:] = 0
        looks = not bound and num_queries > 0 and record.reads
        if not bound:
            if looks:
                hit = look_up(pool, record, hashes, plan, lines, scratch)
            hit_tokens[i] = hit
            new = min(new, record.num_tokens - hit)
        ask = Ask(
            record.num_computed,
            hit,
            0,
            new,
            options[LOOKAHEAD],
            record.num_tokens,
            record.num_prompt,
            options[MAX_MODEL_LEN],
            options[RESERVED],
            0,
            options[WHOLE] != 0,
            ends[len(groups)] > 0,
            options[CACHES] != 0,
            options[CACHING] != 0,
        )
        place = head[CHANGED]
        status = allocate_request(
            pool, store, groups, mine, hits, ends, hashes, ask, starts[place], head[TALLY : TALLY + TALLY_WORDS]
        )
        changed[place] = i
        head[CHANGED] += 1
        if looks and (status == FITS or not options[ADMITS]):
            count_lookup(record, hit, head)
        if status == FITS:
            fits[i] = True
            num_new[i] = new
            record.num_computed += hit + new
            record.serial = store_rows[mine[0], SERIAL]
            record.quiet = store_rows[mine[0], QUIET]
        elif options[STOPS]:
            break


@inline
def collect_new(
    store: Any, rows: Any, tables: Any, fits: Any, changed: Any, starts: Any, kept: Any, offsets: Any, head: Any
) -> Any:
    """New blocks of the rows that got slots, group by group; fills their places, and where those of each begin."""
    store_rows, store_ids, _ = store
    count = 0
    for place in range(head[CHANGED]):
        if fits[changed[place]]:
            kept[count] = place
            count += 1
    head[KEPT] = count
    total = 0
    for g in range(tables.shape[1]):
        for k in range(count):
            offsets[g, k] = total
            mine = tables[rows[changed[kept[k]]], g]
            total += store_rows[mine, LENGTH] - starts[kept[k], 0, g]
        offsets[g, count] = total
    ids = np.empty(total, np.int32)
    for g in range(tables.shape[1]):
        for k in range(count):
            begin = store_rows[tables[rows[changed[kept[k]]], g], BEGIN] + starts[kept[k], 0, g]
            first = offsets[g, k]
            # As slices one id would be copied at a time.
            for place in range(offsets[g, k + 1] - first):
                ids[np.uint64(first + place)] = store_ids[np.uint64(begin + place)]
    for k in range(count):
        kept[k] = changed[kept[k]]
    return ids


@jit
def take_step(
    records: Any,
    index: Any,
    log: Any,
    marks: Any,
    store_rows: Any,
    store_ids: Any,
    heads: Any,
    groups: Any,
    table: Any,
    rows: Any,
    tables: Any,
    arena: Any,
    given: Any,
    plan: Any,
    lines: Any,
    widths: Any,
    options: Any,
    head: Any,
) -> Any:
    """A whole step: everything is checked, then each row gets its slots.

    Args:
        given: int64 [n] or [1], new tokens of each row or of all.
        plan: Words of a `PrefixPlan`; empty for no lookups.
        lines: int64 [2, groups], line and query of the plan that each group has.
        widths: int64 [groups], columns of the caller's block tables; empty where there are none.
        head: int64 [HEAD_WORDS], filled. Unless its status is DONE, nothing was changed.

    Returns:
        bool [n], which rows got their slots; int64 [2, n], new tokens of these (else 0), and cached tokens
        of those that were looked up; int64 places of rows whose blocks changed [CHANGED], their `starts`
        [CHANGED, 3, groups], places of those of them that got slots [KEPT], all with gaps behind them up to
        BUSY, and where the new blocks of each of these begin [groups, BUSY + 1]; int32 new blocks.
    """
    store = (store_rows, store_ids, heads)
    if not options[CHECKED]:
        check_step(records, index, marks, store, groups, table, rows, tables, arena, given, widths, options, head)
    else:
        head[STATUS] = DONE
    count = len(rows) if head[STATUS] == DONE and options[ARRAYS] else 0
    fits = np.zeros(count, np.bool_)
    numbers = np.zeros((2, count), np.int64)
    busy = head[BUSY] if count > 0 else 0
    changed = np.empty(busy, np.int64)
    starts = np.empty((busy, 3, len(groups)), np.int64)
    kept = np.empty(busy, np.int64)
    offsets = np.zeros((len(groups), busy + 1), np.int64)
    if count > 0:
        pool = (records, index, options[SEED], log, options[NULL_ID], marks)
        allocate_rows(
            pool,
            store,
            groups,
            table,
            rows,
            tables,
            arena,
            given,
            plan,
            lines,
            options,
            make_scratch(plan, len(groups), head[LONGEST]),
            fits,
            numbers[0],
            numbers[1],
            changed,
            starts,
            head,
        )
    ids = collect_new(store, rows, tables, fits, changed, starts, kept, offsets, head)
    refuse_broken(marks)
    return fits, numbers, changed, starts, kept, offsets, ids


@jit
def free_rows(
    records: Any,
    store_rows: Any,
    store_ids: Any,
    heads: Any,
    groups: Any,
    table: Any,
    rows: Any,
    tables: Any,
    null_id: int,
) -> None:
    """Give back the blocks of each row that holds some, in order."""
    pool = (records, store_ids, 0, store_ids, null_id, store_ids)
    store = (store_rows, store_ids, heads)
    for i in range(len(rows)):
        record = table[rows[i]]
        if record.serial != 0:
            free_request(pool, store, groups, tables[rows[i]])
        record.serial = 0
        record.num_computed = 0


@jit
def foreign_row(store_rows: Any, table: Any, rows: Any, tables: Any) -> int:
    """Place of the first row whose blocks were freed beside the batch, or -1."""
    for i in range(len(rows)):
        serial = table[rows[i]].serial
        if serial != 0 and store_rows[tables[rows[i], 0], SERIAL] != serial:
            return i
    return -1
