"""Compiled checks of a step over many rows, before anything is changed; the words that go in and out of a step.

Arguments are named as in `kvgpu.batch.step.allocate`.
"""

from typing import Any

import numpy as np

from kvgpu.batch.rows.record import check_row
from kvgpu.block_tables.store import BEGIN, LENGTH, LIMIT, NUM_CACHED, SERIAL, TOP, segment_class
from kvgpu.blocks.marks import EAGER, may_hold
from kvgpu.compiled.jit import inline, leaf, prefetch
from kvgpu.groups.compiled import TALLY_WORDS, first_hashed, full_blocks
from kvgpu.hashing.arena import hashes_at
from kvgpu.index.host.table import bucket_of
from kvgpu.index.slot_hash import slot_hash
from kvgpu.integers import MOST_TOKENS
from kvgpu.rules.allocation import blocks_beyond, blocks_of
from kvgpu.rules.plan_words import FULL

DONE, FREED, NO_TOKENS, NO_HASHES, HASHED, NARROW, TOO_MANY, UNPREPARED, UNHELD = (0, 3, 4, 5, 6, 7, 8, 9, 10)
"""Ends of a step, beside those of `check_row`: what is wrong with a row, or that room has to be made before
(`BatchManager._prepare`)."""

(
    NULL_ID,
    SEED,
    LOOKAHEAD,
    MAX_MODEL_LEN,
    RESERVED,
    HASH_SIZE,
    WHOLE,
    CACHES,
    CACHING,
    STOPS,
    STAMP,
    ARRAYS,
    CHECKED,
    LOG_ROOM,
    TRUSTS,
    ADMITS,
    OPTION_WORDS,
) = range(17)
"""Words of the options of a step. ARRAYS: whether compiled code serves it, or is asked for a check only. CHECKED:
all was checked and prepared before. LOG_ROOM: notes that the journal has room for; below 0, something else has
to be prepared if any block changes. TRUSTS: nobody else has freed blocks of any row. ADMITS: lookups count when the
request is given its slots."""

STATUS, PLACE, TRIED, CHANGED, KEPT, SEGMENTS, CHANGES, WAITING, LONGEST, BUSY = range(10)
"""Words of the head of a step: how it ended, and the place of the first bad row; rows that were tried, whose
blocks changed, and those of them that got slots; bounds: ids of the store and notes of the journal that it can
take, requests that hold nothing yet, hashes of the longest of those, rows that need something."""
TALLY = 10
"""Here begins the tally."""
REQUESTS, QUERIES, HITS, STATISTICS = 0, 1, 2, 3
"""Counts of lookups, as in `PrefixCacheStats`."""
FIRST_ATTEMPTS = TALLY + TALLY_WORDS
AFTER_PREEMPTION = FIRST_ATTEMPTS + STATISTICS
HEAD_WORDS = AFTER_PREEMPTION + STATISTICS
"""Here begin the counts of first attempts, and of those after a preemption."""


@leaf
def is_quiet(record: Any, num_main: int, options: Any) -> bool:
    """Whether a request needs nothing of any group for so many tokens.

    Not asked where the answer depends on the free blocks, too: those calls may fail.
    """
    if options[WHOLE] or options[RESERVED]:
        return False
    return bool(num_main + options[LOOKAHEAD] <= record.quiet)


@leaf
def tokens_of(record: Any, new: int) -> int:
    """Tokens that a request has in the end, however long the hit in front of its new ones."""
    return int(record.num_computed + (new if record.serial != 0 else record.num_tokens))


@leaf
def slots_of(record: Any, new: int, options: Any) -> int:
    """Slots that a request has in the end: drafts get none beyond the length of the model."""
    return int(min(tokens_of(record, new) + options[LOOKAHEAD], options[MAX_MODEL_LEN]))


@leaf
def status_of(table: Any, row: int, new: int, options: Any, head: Any) -> int:
    """What its record tells about a row: what is wrong with it, or DONE; counts those that need something."""
    status = check_row(table, row, options[STAMP])
    if status != DONE:
        return status
    record = table[row]
    bound = record.serial != 0
    if new <= 0 or (not bound and record.num_tokens == 0):
        return NO_TOKENS
    if new > MOST_TOKENS:
        return TOO_MANY
    num_main = tokens_of(record, new)
    if num_main > options[MAX_MODEL_LEN]:
        return TOO_MANY
    if bound and is_quiet(record, num_main, options):
        return DONE
    head[BUSY] += 1
    if not bound:
        head[WAITING] += 1
        head[LONGEST] = max(head[LONGEST], record.end - record.begin)
    num_cacheable = min(num_main, record.num_tokens)
    if options[CACHES] and num_cacheable >= (record.end - record.begin + 1) * options[HASH_SIZE]:
        return NO_HASHES
    return DONE


@leaf
def table_status(store: Any, groups: Any, record: Any, mine: Any, new: int, widths: Any, options: Any) -> int:
    """What the block tables tell about a row: FREED, NARROW or DONE."""
    rows = store[0]
    bound = record.serial != 0
    if bound and not options[TRUSTS] and rows[mine[0], SERIAL] != record.serial:
        return FREED
    num_slots = slots_of(record, new, options)
    narrow = False
    for g in range(len(widths)):
        held = rows[mine[g], LENGTH] if bound else 0
        if max(blocks_of(num_slots, groups[g].block_size), held) > widths[g]:
            narrow = True
    return NARROW if narrow else DONE


@leaf
def add_bounds(records: Any, store: Any, groups: Any, record: Any, mine: Any, new: int, options: Any, head: Any) -> int:
    """Add what a row that needs something can take to the bounds; HASHED, UNHELD or DONE."""
    rows = store[0]
    bound = record.serial != 0
    num_main = tokens_of(record, new)
    num_cacheable = min(num_main, record.num_tokens)
    pool = (records, rows, 0, rows, options[NULL_ID], rows)
    for g in range(len(groups)):
        held = rows[mine[g], LENGTH] if bound else 0
        running = bound and rows[mine[g], NUM_CACHED] >= 0
        unheld = record.num_computed > held * groups[g].block_size
        if unheld and not running and groups[g].kind != FULL:
            return UNHELD
        num_slots = slots_of(record, new, options)
        required = held + blocks_beyond(num_slots, held, groups[g].block_size)
        if not bound or required > rows[mine[g], LIMIT]:
            head[SEGMENTS] += 1 << segment_class(required)
        head[CHANGES] += max(required - held, 0)
        if options[CACHES]:
            first, full = 0, num_cacheable // groups[g].block_size
            if bound:
                first, full = full_blocks(store, groups[g], mine[g], num_cacheable)
                if first_hashed(pool, store, groups[g], mine[g], first, full) >= 0:
                    return HASHED
            head[CHANGES] += max(full - first, 0)
    return DONE


@leaf
def load_ahead(
    records: Any,
    index: Any,
    marks: Any,
    store: Any,
    groups: Any,
    table: Any,
    rows: Any,
    tables: Any,
    arena: Any,
    given: Any,
    busy: Any,
    options: Any,
) -> None:
    """Ask for the lines that running requests of a step will touch, one kind after the other.

    Each kind tells where the next one lies, so that a row alone would wait for one after the other.
    """
    store_rows, store_ids, _ = store
    next_given = 0 if len(given) == 1 else 1
    for place in busy:
        for g in range(len(groups)):
            prefetch(store_rows, tables[rows[place], g])
    for kind in range(2):
        for place in busy:
            record = table[rows[place]]
            if record.serial == 0:
                continue
            num_tokens = min(record.num_computed + given[place * next_given], record.num_tokens)
            for g in range(len(groups)):
                mine = tables[rows[place], g]
                begin, length = store_rows[mine, BEGIN], store_rows[mine, LENGTH]
                if kind == 0:
                    prefetch(store_ids, begin + length)
                first, full = full_blocks(store, groups[g], mine, num_tokens)
                if not options[CACHES] or first >= min(full, length):
                    continue
                hashes = hashes_at(arena, record.lent, record.begin, record.end)
                if kind == 0:
                    prefetch(hashes, first)
                    continue
                prefetch(records, store_ids[begin + first])
                if first > 0:
                    prefetch(records, store_ids[begin + first - 1])
                k0, k1, k2, k3 = hashes[first]
                if marks[EAGER] > 0 or may_hold(marks, k0, groups[g].group_id):
                    h = slot_hash(k0, k1, k2, k3, groups[g].group_id, options[SEED])
                    prefetch(index, bucket_of(h, len(index)))


@inline
def check_step(
    records: Any,
    index: Any,
    marks: Any,
    store: Any,
    groups: Any,
    table: Any,
    rows: Any,
    tables: Any,
    arena: Any,
    given: Any,
    widths: Any,
    options: Any,
    head: Any,
) -> None:
    """Fill a head with status, place of a bad row, and bounds."""
    head[:] = 0
    busy = np.empty(len(rows), np.int64)
    next_given = 0 if len(given) == 1 else 1
    for i in range(len(rows)):
        before = head[BUSY]
        head[STATUS] = status_of(table, rows[i], given[i * next_given], options, head)
        head[PLACE] = i
        if head[STATUS] != DONE:
            return
        if head[BUSY] > before:
            busy[before] = i
    if not options[TRUSTS] or len(widths) > 0:
        for i in range(len(rows)):
            record, mine, new = table[rows[i]], tables[rows[i]], given[i * next_given]
            head[STATUS] = table_status(store, groups, record, mine, new, widths, options)
            head[PLACE] = i
            if head[STATUS] != DONE:
                return
    if not options[ARRAYS]:
        return
    busy = busy[: head[BUSY]]
    load_ahead(records, index, marks, store, groups, table, rows, tables, arena, given, busy, options)
    for place in busy:
        record, mine, new = table[rows[place]], tables[rows[place]], given[place * next_given]
        head[STATUS] = add_bounds(records, store, groups, record, mine, new, options, head)
        head[PLACE] = place
        if head[STATUS] != DONE:
            return
    store_ids, heads = store[1], store[2]
    room = head[SEGMENTS] <= len(store_ids) - heads[TOP] and head[CHANGES] <= options[LOG_ROOM]
    if head[WAITING] > 0 or (head[BUSY] > 0 and not room):
        head[STATUS] = UNPREPARED
