"""Compiled steps over many rows: slots for each, and the return of their blocks.

`table` are the records of `RequestRows`, `tables` int64 [rows, groups] the rows of each request in the pool's
`TableStore`. Everything else is named as in `kvgpu.allocation`.
"""

from typing import Any

import numpy as np

from kvgpu._jit import jit, leaf
from kvgpu.allocation import FITS, allocate_request, free_request
from kvgpu.batch.row_record import check_row, longest_hit
from kvgpu.groups.rules import blocks_of
from kvgpu.groups.steps import TALLY_WORDS, Ask, first_hashed, full_blocks
from kvgpu.index.matching import bind_query, probe, probe_run
from kvgpu.index.table import RING
from kvgpu.kernels.layout import PLAN_HEADER, PLAN_NUM_QUERIES, QUERY_WORDS
from kvgpu.policies import apply_rule, common_hit
from kvgpu.table_store import BEGIN, LENGTH, LIMIT, QUIET, SERIAL, segment_class

FREED, NO_TOKENS, NO_HASHES, HASHED = 3, 4, 5, 6
"""What is wrong with a row, beside those of `check_row`."""

(
    NULL_ID, SEED, LOOKAHEAD, MAX_MODEL_LEN, RESERVED, HASH_SIZE, WHOLE, CACHES, CACHING, STOPS, STAMP,
) = range(11)  # fmt: skip
"""Words of the options of a step."""

SEGMENTS, CHANGES, WAITING, LONGEST, BUSY, BOUNDS = 0, 1, 2, 3, 4, 5
"""Bounds of a step: ids of the store and notes of the journal that it can take, requests that hold nothing
yet, hashes of the longest of those, rows that need something."""

REQUESTS, QUERIES, HITS, STATISTICS = 0, 1, 2, 3
"""Counts of lookups, as in `PrefixCacheStats`: row 0 of first attempts, row 1 after a preemption."""


@leaf
def is_quiet(store_rows: Any, first: int, num_main: int, options: Any) -> bool:
    """Whether a request needs nothing of any group for so many tokens.

    Not asked where the answer depends on the free blocks, too: those calls may fail.
    """
    if options[WHOLE] or options[RESERVED]:
        return False
    return bool(num_main + options[LOOKAHEAD] <= store_rows[first, QUIET])


@jit
def bounds_of(
    records: Any, store_rows: Any, store_ids: Any, heads: Any, groups: Any, table: Any, rows: Any,
    tables: Any, num_new: Any, options: Any,
) -> Any:  # fmt: skip
    """Status, place of the first bad row, and bounds, before anything is changed."""
    bounds = np.zeros(BOUNDS, np.int64)
    store = (store_rows, store_ids, heads)
    pool = (records, store_ids, 0, store_ids, options[NULL_ID], store_ids)
    for i in range(len(rows)):
        status = check_row(table, rows[i], options[STAMP])
        if status != 0:
            return status, i, bounds
        record = table[rows[i]]
        bound = record.serial != 0
        if num_new[i] <= 0 or (not bound and record.num_tokens == 0):
            return NO_TOKENS, i, bounds
        first_table = tables[rows[i], 0]
        num_main = record.num_computed + num_new[i]
        if bound:
            if store_rows[first_table, SERIAL] != record.serial:
                return FREED, i, bounds
            if is_quiet(store_rows, first_table, num_main, options):
                continue
        else:
            bounds[WAITING] += 1
            bounds[LONGEST] = max(bounds[LONGEST], record.end - record.begin)
            # However long the hit in front of its new tokens.
            num_main = record.num_computed + record.num_tokens
        num_cacheable = min(num_main, record.num_tokens)
        if options[CACHES] and record.end - record.begin < num_cacheable // options[HASH_SIZE]:
            return NO_HASHES, i, bounds
        bounds[BUSY] += 1
        mine = tables[rows[i]]
        for g in range(len(groups)):
            required = blocks_of(num_main + options[LOOKAHEAD], groups[g].block_size)
            held = store_rows[mine[g], LENGTH] if bound else 0
            if not bound or required > store_rows[mine[g], LIMIT]:
                bounds[SEGMENTS] += 1 << segment_class(required)
            bounds[CHANGES] += max(required - held, 0)
            if options[CACHES]:
                first, full = 0, num_cacheable // groups[g].block_size
                if bound:
                    first, full = full_blocks(store, groups[g], mine[g], num_cacheable)
                    if first_hashed(pool, store, groups[g], mine[g], first, full) >= 0:
                        return HASHED, i, bounds
                bounds[CHANGES] += max(full - first, 0)
    return 0, 0, bounds


@jit
def advance_rows(table: Any, rows: Any, num_new: Any) -> None:
    """Count the new tokens of rows that need nothing."""
    for i in range(len(rows)):
        table[rows[i]].num_computed += num_new[i]


@leaf
def collect_hits(
    found: Any, firsts: Any, lines: Any, ids: Any, null_id: int, hits: Any, ends: Any
) -> None:
    """Hits of all groups, one group after the other."""
    for g in range(lines.shape[1]):
        line, query = lines[0, g], lines[1, g]
        begin = ends[g]
        ends[g + 1] = begin + found[query]
        for block in range(found[query]):
            hits[begin + block] = null_id if block < firsts[query] else ids[line, block]


@jit
def allocate_rows(
    records: Any, index: Any, log: Any, store_rows: Any, store_ids: Any, heads: Any, groups: Any,
    table: Any, rows: Any, tables: Any, arena: Any, num_new: Any, plan: Any, lines: Any,
    options: Any, bounds: Any, fits: Any, hit_tokens: Any, statistics: Any,
) -> Any:  # fmt: skip
    """Slots for each row in order, with a lookup first for those that hold nothing.

    Args:
        plan: Words of a `PrefixPlan`; empty for no lookups.
        lines: int64 [2, groups], line and query of the plan that each group has.
        fits: bool [n], receives which got their slots; all False.
        hit_tokens: int64 [n], receives the cached tokens of those that were looked up; all 0.
        statistics: int64 [2, STATISTICS], added to.

    Returns:
        How many rows were tried, the places [m] of those whose blocks changed, their `starts`
        int64 [m, 3, groups], and the tally.
    """
    null_id, seed = options[NULL_ID], options[SEED]
    pool = (records, index, seed, log, null_id, np.empty(RING, np.int64))
    store = (store_rows, store_ids, heads)
    num_groups = len(groups)
    num_queries = plan[PLAN_NUM_QUERIES] if len(plan) else 0
    num_lines = len(plan) - PLAN_HEADER - num_queries * QUERY_WORDS if len(plan) else 0
    ids = np.empty((num_lines, bounds[LONGEST]), np.int32)
    hits = np.empty(num_lines * bounds[LONGEST], np.int32)
    ends = np.zeros(num_groups + 1, np.int64)
    last = np.empty((num_lines, 2), np.int64)
    firsts = np.zeros(num_queries, np.int64)
    found = np.zeros(num_queries, np.int64)
    tally = np.zeros(TALLY_WORDS, np.int64)
    changed = np.empty(len(rows), np.int64)
    starts = np.empty((len(rows), 3, num_groups), np.int64)
    num_changed = 0
    num_tried = 0
    for i in range(len(rows)):
        num_tried += 1
        record = table[rows[i]]
        bound = record.serial != 0
        num_main = record.num_computed + num_new[i]
        if bound and is_quiet(store_rows, tables[rows[i], 0], num_main, options):
            fits[i] = True
            record.num_computed += num_new[i]
            continue
        mine = tables[rows[i]]
        begin, end = record.begin, record.end
        hit = 0
        new = num_new[i]
        ends[:] = 0
        if not bound:
            if num_queries > 0 and record.reads:
                last[:] = -2
                ctx = (records, index, arena[begin:end], plan, ids, last, seed)
                hit = common_hit(
                    apply_rule,
                    bind_query,
                    probe,
                    probe_run,
                    ctx,
                    plan,
                    end - begin,
                    longest_hit(record),
                    firsts,
                    found,
                )
                collect_hits(found, firsts, lines, ids, null_id, hits, ends)
                kind = 1 if record.preempted else 0
                statistics[kind, REQUESTS] += 1
                statistics[kind, QUERIES] += record.num_tokens
                statistics[kind, HITS] += hit
            hit_tokens[i] = hit
            new = min(new, record.num_tokens - hit)
        ask = Ask(
            record.num_computed, hit, 0, new, options[LOOKAHEAD], record.num_tokens, record.num_prompt,
            options[MAX_MODEL_LEN], options[RESERVED], 0, options[WHOLE] != 0, ends[num_groups] > 0,
            options[CACHES] != 0, options[CACHING] != 0,
        )  # fmt: skip
        status = allocate_request(
            pool, store, groups, mine, hits, ends, arena[begin:end], ask, starts[num_changed], tally
        )
        changed[num_changed] = i
        num_changed += 1
        if status == FITS:
            fits[i] = True
            record.num_computed += hit + new
            record.serial = store_rows[mine[0], SERIAL]
        elif options[STOPS]:
            break
    return num_tried, changed[:num_changed], starts[:num_changed], tally


@jit
def new_blocks(
    store_rows: Any, store_ids: Any, tables: Any, rows: Any, changed: Any, starts: Any
) -> Any:
    """Blocks that came to the rows at `changed`: int32 ids, group by group, and int64 [groups, m + 1]
    where those of each row begin."""
    num_groups = tables.shape[1]
    offsets = np.zeros((num_groups, len(changed) + 1), np.int64)
    total = 0
    for g in range(num_groups):
        for k in range(len(changed)):
            offsets[g, k] = total
            total += store_rows[tables[rows[changed[k]], g], LENGTH] - starts[k, 0, g]
        offsets[g, len(changed)] = total
    ids = np.empty(total, np.int32)
    for g in range(num_groups):
        for k in range(len(changed)):
            begin = store_rows[tables[rows[changed[k]], g], BEGIN] + starts[k, 0, g]
            count = offsets[g, k + 1] - offsets[g, k]
            ids[offsets[g, k] : offsets[g, k + 1]] = store_ids[begin : begin + count]
    return ids, offsets


@jit
def free_rows(
    records: Any, store_rows: Any, store_ids: Any, heads: Any, groups: Any, table: Any, rows: Any,
    tables: Any, null_id: int,
) -> None:  # fmt: skip
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
