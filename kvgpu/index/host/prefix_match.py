"""Compiled lookups of whole prefixes: the rules of a plan over the table, for one request or many."""

from typing import Any

import numpy as np

from kvgpu.blocks.marks import LEFT, region_of
from kvgpu.blocks.record import FIRST, LEADS
from kvgpu.compiled.jit import inline, jit, leaf, lowest_bit, prefetch
from kvgpu.hashing.arena import hashes_at
from kvgpu.index.host.table import bucket_of, find_first, same_key, slots_of_tag
from kvgpu.index.slot_hash import slot_hash
from kvgpu.layout import LOW_32
from kvgpu.rules.hits import apply_rule, common_hit
from kvgpu.rules.plan_words import (
    PLAN_HEADER,
    PLAN_NUM_QUERIES,
    QUERY_FIRST_LINE,
    QUERY_NUM_LINES,
    QUERY_STRIDE,
    QUERY_WORDS,
)

FAR = 32
"""Blocks of a run between asking for a line and using it: a run is short, and its lines come from memory."""

APART = 4
"""Requests between the lines of a lookup that are asked for one after the other."""

KNOWN, REGIONS_OF, SUM, LAST = 0, 1, 2, 3
MEMO_LINES = 5
MEMO_WORDS = LAST + MEMO_LINES
"""What is known of a request since its last lookup: so many leading blocks are cached in all groups of the first
query of the plan, they lie in these regions (one bit each), the marks of these regions came to this sum, and these
are the last of the blocks, one for each group. Of a query with more groups nothing is remembered."""


@leaf
def probe_line(ctx: Any, line: int, block: int) -> int:
    """Id of `block` of the request in one group, or -1. Notes what was found.

    The block that followed the previous one last time is tried first: one cache line instead of
    two. A successor is a hint, so its key and flags are verified.
    """
    records, table, rows, stride, groups, ids, last, seed, _, _ = ctx
    place = (block + 1) * stride - 1
    k0, k1, k2, k3 = rows[place, 0], rows[place, 1], rows[place, 2], rows[place, 3]
    group = groups[line]
    follows = last[line, 0] == block - 1
    row = -1
    if follows:
        hint = records[last[line, 1]].successor
        if records[hint].flags & FIRST and same_key(records[hint], k0, k1, k2, k3, group):
            row = hint
    if row < 0:
        h = slot_hash(k0, k1, k2, k3, group, seed)
        row = find_first(records, table, k0, k1, k2, k3, group, h)
        if row < 0:
            return -1
        if follows and not records[last[line, 1]].flags & LEADS:
            records[last[line, 1]].successor = row
    ids[line, block] = row
    last[line, 0] = block
    last[line, 1] = row
    return row


@leaf
def probe(ctx: Any, block: int) -> bool:
    """Is `block` of the request cached in every group?"""
    for line in range(len(ctx[4])):  # noqa: SIM110 - Numba knows no generators here
        if probe_line(ctx, line, block) < 0:
            return False
    return True


@leaf
def follow(ctx: Any, line: int, row: int, block: int, end: int) -> int:
    """Blocks [block, end) as far as each is the successor of the one before it, of which `row` is the first.

    Blocks that were handed out together lie side by side, so the record some steps further on is guessed
    and loaded.
    """
    records, _, rows, stride, groups, ids, last, _, marks, run = ctx
    group = groups[line]
    regions = 0
    while block < end:
        hint = records[row].successor
        guess = hint + FAR * (hint - row)
        if 0 <= guess < len(records):
            prefetch(records, guess)
        place = (block + 1) * stride - 1
        prefetch(rows, place + FAR)
        k0, k1, k2, k3 = rows[place, 0], rows[place, 1], rows[place, 2], rows[place, 3]
        if not (records[hint].flags & FIRST and same_key(records[hint], k0, k1, k2, k3, group)):
            break
        ids[line, block] = hint
        regions |= 1 << region_of(marks, hint)
        row = hint
        block += 1
    run[REGIONS_OF] |= regions
    last[line, 0] = block - 1
    last[line, 1] = row
    return block


@leaf
def probe_run(ctx: Any, block: int, end: int) -> int:
    """The first block of [block, end) that is not cached in every group, else `end`.

    Blocks before `run[KNOWN]` are cached and not looked at; `run` learns how far they are, and in which regions.
    """
    marks, run = ctx[8], ctx[9]
    end = max(end, block)
    known = min(run[KNOWN], end)
    for line in range(len(ctx[4])):
        place = max(block, known)
        while place < end:
            row = probe_line(ctx, line, place)
            if row < 0:
                end = place
            else:
                run[REGIONS_OF] |= 1 << region_of(marks, row)
                place = follow(ctx, line, row, place + 1, end)
    if block == 0:
        run[KNOWN] = max(run[KNOWN], end)
    return end


@inline
def bind_query(ctx: Any, query: int) -> Any:
    """What `probe` takes for one query of a plan."""
    records, table, rows, words, ids, last, seed, marks, run = ctx
    base = PLAN_HEADER + query * QUERY_WORDS
    begin = words[base + QUERY_FIRST_LINE]
    end = begin + words[base + QUERY_NUM_LINES]
    groups = words[PLAN_HEADER + words[PLAN_NUM_QUERIES] * QUERY_WORDS :]
    return (
        records,
        table,
        rows,
        words[base + QUERY_STRIDE],
        groups[begin:end],
        ids[begin:end],
        last[begin:end],
        seed,
        marks,
        run[query],
    )


@leaf
def load_first(
    records: Any, table: Any, rows: Any, lent: Any, begins: Any, ends: Any, words: Any, seed: int, r: int
) -> None:
    """Ask for what lookups some requests behind r will begin with, one line after the other: each tells where the next
    lies.

    That is the first block in the first group: right for full attention, no harm for others.
    """
    stride = words[PLAN_HEADER + QUERY_STRIDE]
    group = words[PLAN_HEADER + words[PLAN_NUM_QUERIES] * QUERY_WORDS]
    for stage in range(3):
        far = r + (3 - stage) * APART
        if far >= len(begins):
            continue
        mine = hashes_at(rows, lent[far], begins[far], ends[far])
        if len(mine) < stride:
            continue
        if stage == 0:
            prefetch(mine, stride - 1)
            continue
        place = stride - 1
        h = slot_hash(mine[place, 0], mine[place, 1], mine[place, 2], mine[place, 3], group, seed)
        bucket = bucket_of(h, len(table))
        if stage == 1:
            prefetch(table, bucket)
            continue
        found = slots_of_tag(table, bucket, h & LOW_32)
        if found:
            prefetch(records, (table[bucket, lowest_bit(found)] & LOW_32) - 1)


@leaf
def sum_of_regions(marks: Any, regions: int) -> int:
    """Sum of what has left some regions."""
    total = 0
    while regions:
        total += marks[LEFT + lowest_bit(regions)]
        regions &= regions - 1
    return total


@jit
def match_rows(
    records: Any, table: Any, rows: Any, words: Any, max_length: int, null_id: int, seed: int, marks: Any
) -> Any:
    """`BlockIndex.match`; `words` are those of the plan.

    Returns int32: length in tokens, blocks hit per query, then the ids of each line, one after the
    other: a copy, since a request may be long and its hit short.
    """
    num_queries = words[PLAN_NUM_QUERIES]
    num_lines = len(words) - PLAN_HEADER - num_queries * QUERY_WORDS
    ids = np.empty((num_lines, len(rows)), np.int32)
    # One allocation for what is small: each costs as much as ten hits.
    scratch = np.empty(2 * (num_queries + num_lines) + num_queries * MEMO_WORDS, np.int64)
    firsts, lengths = scratch[:num_queries], scratch[num_queries : 2 * num_queries]
    last = scratch[2 * num_queries : 2 * (num_queries + num_lines)].reshape((num_lines, 2))
    last[:] = -2
    run = scratch[2 * (num_queries + num_lines) :].reshape((num_queries, MEMO_WORDS))
    run[:] = 0
    ctx = (records, table, rows, words, ids, last, seed, marks, run)
    num_tokens = common_hit(
        apply_rule, bind_query, probe, probe_run, ctx, words, len(rows), max_length, firsts, lengths
    )
    size = 1 + num_queries
    for q in range(num_queries):
        size += lengths[q] * words[PLAN_HEADER + q * QUERY_WORDS + QUERY_NUM_LINES]
    found = np.empty(size, np.int32)
    found[0] = num_tokens
    place = 1 + num_queries
    for q in range(num_queries):
        found[1 + q] = lengths[q]
        base = PLAN_HEADER + q * QUERY_WORDS
        begin = words[base + QUERY_FIRST_LINE]
        for line in range(begin, begin + words[base + QUERY_NUM_LINES]):
            for i in range(lengths[q]):
                found[place + i] = null_id if i < firsts[q] else ids[line, i]
            place += lengths[q]
    return found


@jit
def match_batch_rows(
    records: Any,
    table: Any,
    rows: Any,
    lent: Any,
    begins: Any,
    ends: Any,
    words: Any,
    max_lengths: Any,
    seed: int,
    marks: Any,
    memo: Any,
    places: Any,
    num_tokens: Any,
    lengths: Any,
) -> None:
    """`BlockIndex.match_batch`; fills `num_tokens` and `lengths`.

    memo: int64 [any, MEMO_WORDS], that of request i at places[i]; taken where nothing has left its regions, and
    brought up to date.
    """
    num_queries = words[PLAN_NUM_QUERIES]
    num_lines = len(words) - PLAN_HEADER - num_queries * QUERY_WORDS
    longest = 0
    for r in range(len(begins)):
        longest = max(longest, ends[r] - begins[r])
    ids = np.empty((num_lines, longest), np.int32)
    last = np.empty((num_lines, 2), np.int64)
    firsts = np.empty(num_queries, np.int64)
    found = np.empty(num_queries, np.int64)
    run = np.empty((num_queries, MEMO_WORDS), np.int64)
    first_lines = words[PLAN_HEADER + QUERY_NUM_LINES]
    for r in range(len(begins)):
        mine = hashes_at(rows, lent[r], begins[r], ends[r])
        last[:] = -2
        run[:] = 0
        kept = memo[places[r]]
        if kept[KNOWN] == 0:
            load_first(records, table, rows, lent, begins, ends, words, seed, r)
        elif sum_of_regions(marks, kept[REGIONS_OF]) == kept[SUM]:
            run[0, KNOWN], run[0, REGIONS_OF] = kept[KNOWN], kept[REGIONS_OF]
            for line in range(first_lines):
                last[line, 0], last[line, 1] = kept[KNOWN] - 1, kept[LAST + line]
        known = run[0, KNOWN]
        ctx = (records, table, mine, words, ids, last, seed, marks, run)
        num_tokens[r] = common_hit(
            apply_rule, bind_query, probe, probe_run, ctx, words, len(mine), max_lengths[r], firsts, found
        )
        for q in range(num_queries):
            lengths[r, q] = found[q]
        if first_lines > MEMO_LINES:
            continue
        kept[KNOWN], kept[REGIONS_OF] = run[0, KNOWN], run[0, REGIONS_OF]
        kept[SUM] = sum_of_regions(marks, run[0, REGIONS_OF])
        if run[0, KNOWN] > known:
            for line in range(first_lines):
                kept[LAST + line] = ids[line, run[0, KNOWN] - 1]
