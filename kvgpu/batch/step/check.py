"""Compiled checks of a step over many rows, before anything is changed.

`step` is a `Step`, `place` the place of a row in it.
"""

from typing import Any

import numpy as np

from kvgpu.batch.rows.record import check_row, stays_inside
from kvgpu.batch.step.arrays import given_at
from kvgpu.batch.step.report import DONE, FREED, HASHED, NO_HASHES, NO_TOKENS, TOO_LONG, TOO_NARROW, UNHELD, UNPREPARED
from kvgpu.block_tables.store import BEGIN, LENGTH, LIMIT, NUM_CACHED, SERIAL, TOP, segment_class
from kvgpu.blocks.index_meta import EAGER, may_hold
from kvgpu.compiled.jit import inline, leaf, prefetch
from kvgpu.groups.compiled import first_hashed, full_blocks
from kvgpu.hashing.hash_arena import hashes_at
from kvgpu.index.host.table import bucket_of
from kvgpu.index.key import key_at
from kvgpu.index.slot_hash import slot_hash
from kvgpu.integers import MOST_TOKENS
from kvgpu.rules.allocation import blocks_beyond, blocks_of, tokens_to_cache
from kvgpu.rules.plan_words import FULL


@leaf
def is_covered(request: Any, num_main: int, options: Any) -> bool:
    """Return whether a request needs nothing of any group for `num_main` tokens.

    False if the answer depends on the free blocks as well: such a call may fail.
    """
    if options.whole or options.reserved_blocks:
        return False
    return stays_inside(request, num_main, options.num_lookahead)


@leaf
def main_tokens(request: Any, new: int) -> int:
    """Return the tokens that a request has after the step, however long the hit that precedes its new ones."""
    return int(request.num_computed + (new if request.serial != 0 else request.num_tokens))


@leaf
def hashed_tokens(request: Any, options: Any) -> int:
    """Return the tokens whose blocks can have hashes: those of the hashes there are, or any if a missing one is an
    error."""
    return int((request.end - request.begin) * options.hash_block_size) if options.clamps else MOST_TOKENS


@leaf
def slots_of(request: Any, new: int, options: Any) -> int:
    """Return the slots that a request has after the step: drafts get none beyond the length of the model."""
    return int(min(main_tokens(request, new) + options.num_lookahead, options.max_model_len))


@leaf
def request_status(step: Any, place: int) -> int:
    """Return what is wrong with a row by its record, or DONE; counts the rows that need something."""
    batch, options, report = step.batch, step.options, step.report
    status = check_row(batch.requests, batch.rows[place], options.stamp)
    if status != DONE:
        return status
    request, new = batch.requests[batch.rows[place]], given_at(batch, place)
    bound = request.serial != 0
    if new <= 0 or (not bound and request.num_tokens == 0):
        return NO_TOKENS
    if new > MOST_TOKENS:
        return TOO_LONG
    num_main = main_tokens(request, new)
    if num_main > options.max_model_len:
        return TOO_LONG
    if bound and is_covered(request, num_main, options):
        return DONE
    report.num_busy += 1
    num_hashes = request.end - request.begin
    if not bound:
        report.num_waiting += 1
        report.longest = max(report.longest, num_hashes)
    num_cacheable = tokens_to_cache(num_main, request.num_tokens)
    if options.caches and not options.clamps and num_cacheable >= (num_hashes + 1) * options.hash_block_size:
        return NO_HASHES
    return DONE


@leaf
def table_status(step: Any, place: int) -> int:
    """Return what is wrong with a row by its block tables: FREED, TOO_NARROW or DONE."""
    batch, options, tables = step.batch, step.options, step.store.tables
    request, new = batch.requests[batch.rows[place]], given_at(batch, place)
    table_ids = batch.table_ids[batch.rows[place]]
    bound = request.serial != 0
    if bound and not options.trusts and tables[table_ids[0], SERIAL] != request.serial:
        return FREED
    num_slots = slots_of(request, new, options)
    narrow = False
    for g in range(len(batch.widths)):
        held = tables[table_ids[g], LENGTH] if bound else 0
        if max(blocks_of(num_slots, step.groups[g].block_size), held) > batch.widths[g]:
            narrow = True
    return TOO_NARROW if narrow else DONE


@leaf
def add_bounds(step: Any, place: int) -> int:
    """Add what a row that needs something can take to the bounds of the report; HASHED, UNHELD or DONE."""
    batch, options, report, store = step.batch, step.options, step.report, step.store
    request, new = batch.requests[batch.rows[place]], given_at(batch, place)
    table_ids = batch.table_ids[batch.rows[place]]
    bound = request.serial != 0
    num_cacheable = tokens_to_cache(main_tokens(request, new), request.num_tokens)
    num_slots = slots_of(request, new, options)
    for g in range(len(step.groups)):
        group, table = step.groups[g], store.tables[table_ids[g]]
        held = table[LENGTH] if bound else 0
        running = bound and table[NUM_CACHED] >= 0
        unheld = request.num_computed > held * group.block_size
        if unheld and not running and group.kind != FULL:
            return UNHELD
        required = held + blocks_beyond(num_slots, held, group.block_size)
        if not bound or required > table[LIMIT]:
            report.segments += 1 << segment_class(required)
        report.changes += max(required - held, 0)
        if options.caches:
            full = (0, num_cacheable // group.block_size)
            if bound:
                full = full_blocks(table, group, num_cacheable, hashed_tokens(request, options))
                if first_hashed(step.pool, store, table_ids[g], full) >= 0:
                    return HASHED
            report.changes += max(full[1] - full[0], 0)
    return DONE


@leaf
def load_ahead(step: Any, busy: Any) -> None:
    """Load the lines that running requests of a step will touch, one kind after the other.

    Each kind says where the next one lies, so a row alone would wait for one after the other.
    """
    pool, store, groups, batch, options = step.pool, step.store, step.groups, step.batch, step.options
    for place in busy:
        for g in range(len(groups)):
            prefetch(store.tables, batch.table_ids[batch.rows[place], g])
    # Pass 0 loads the ends of the block tables and the hashes of the blocks to be cached; pass 1, with what those
    # say, loads the records of these blocks, and the buckets of their keys if the filter cannot rule them out.
    for kind in range(2):
        for place in busy:
            request = batch.requests[batch.rows[place]]
            if request.serial == 0:
                continue
            num_tokens = tokens_to_cache(request.num_computed + given_at(batch, place), request.num_tokens)
            for g in range(len(groups)):
                table = store.tables[batch.table_ids[batch.rows[place], g]]
                begin, length = table[BEGIN], table[LENGTH]
                if kind == 0:
                    prefetch(store.ids, begin + length)
                first, end = full_blocks(table, groups[g], num_tokens, hashed_tokens(request, options))
                if not options.caches or first >= min(end, length):
                    continue
                hashes = hashes_at(batch.arena, request.borrowed, request.begin, request.end)
                if kind == 0:
                    prefetch(hashes, first)
                    continue
                prefetch(pool.records, store.ids[begin + first])
                if first > 0:
                    prefetch(pool.records, store.ids[begin + first - 1])
                key = key_at(hashes, first, groups[g].group_id)
                if pool.meta[EAGER] > 0 or may_hold(pool.meta, key.k0, key.group):
                    prefetch(pool.table, bucket_of(slot_hash(key, pool.seed), len(pool.table)))


@inline
def check_step(step: Any) -> None:
    """Fill the report of a step with its status, the place of a bad row, and the bounds."""
    batch, options, report = step.batch, step.options, step.report
    busy = np.empty(len(batch.rows), np.int64)
    for place in range(len(batch.rows)):
        before = report.num_busy
        report.status = request_status(step, place)
        report.place = place
        if report.status != DONE:
            return
        if report.num_busy > before:
            busy[before] = place
    if not options.trusts or len(batch.widths) > 0:
        for place in range(len(batch.rows)):
            report.status = table_status(step, place)
            report.place = place
            if report.status != DONE:
                return
    if not options.arrays:
        return
    busy = busy[: report.num_busy]
    load_ahead(step, busy)
    for i in range(len(busy)):
        place = int(busy[i])
        report.status = add_bounds(step, place)
        report.place = place
        if report.status != DONE:
            return
    free_ids = len(step.store.ids) - step.store.free_segments[TOP]
    room = report.segments <= free_ids and report.changes <= options.log_room
    if report.num_waiting > 0 or (report.num_busy > 0 and not room):
        report.status = UNPREPARED
