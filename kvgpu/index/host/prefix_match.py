"""Compiled lookup of the longest prefix of one request.

`words` are those of a `PrefixPlan`; `hashes` are int64 [n, KEY_WORDS].
"""

from typing import Any, NamedTuple

import numpy as np

from kvgpu.blocks.index_meta import region_of
from kvgpu.blocks.record import FIRST, FURTHER, LEADS
from kvgpu.compiled.jit import inline, jit, leaf, prefetch
from kvgpu.index.host.memo import KNOWN, MEMO_WORDS, REGIONS_OF
from kvgpu.index.host.pool_arrays import pool_at
from kvgpu.index.host.table import find_first
from kvgpu.index.key import has_key, key_at
from kvgpu.index.slot_hash import slot_hash
from kvgpu.rules.hits import FIRST_NEEDED, FURTHEST, HIT_ROWS, NUM_HIT, Probes, apply_rule, common_hit
from kvgpu.rules.plan_words import (
    PLAN_HEADER,
    PLAN_NUM_QUERIES,
    QUERY_FIRST_LINE,
    QUERY_NUM_LINES,
    QUERY_STRIDE,
    QUERY_WORDS,
)

FAR = 32
"""Blocks of a run between loading a line and using it: a run is short, and its lines come from memory."""


class Lookup(NamedTuple):
    """A request that is looked up, and what the lookup writes."""

    records: Any
    table: Any
    seed: int
    meta: Any
    """As in `PoolArrays`."""
    hashes: Any
    words: Any
    ids: Any
    """int32 [lines, blocks], receives the cached blocks of each line: of each group of the plan."""
    last: Any
    """int64 [lines, 2]: the last block that was found in each line, as its place in the request and its id."""
    memo: Any
    """int64 [queries, MEMO_WORDS]."""


class QueryLookup(NamedTuple):
    """The part of a `Lookup` that one query of the plan is about."""

    records: Any
    table: Any
    seed: int
    meta: Any
    """As in `PoolArrays`."""
    hashes: Any
    stride: int
    """Hashes of one block."""
    groups: Any
    ids: Any
    last: Any
    memo: Any


@leaf
def lookup_in(pool: Any, hashes: Any, words: Any, ids: Any, last: Any, memo: Any) -> Any:
    """Make a `Lookup` from `PoolArrays`, for callers that are leaves: nobody counts references to its arrays."""
    return Lookup(pool.records, pool.table, pool.seed, pool.meta, hashes, words, ids, last, memo)


@leaf
def probe_key(query: Any, line: int, block: int, place: int) -> int:
    """Return the id of `block` of the request in one group under the hash at `place`, or -1; notes what was found.

    The block that followed the previous one last time is tried first: one cache line instead of
    two. A successor is a hint, so its key and flags are verified.
    """
    records, last = query.records, query.last
    key = key_at(query.hashes, place, query.groups[line])
    follows = last[line, 0] == block - 1
    block_id = -1
    if follows:
        hint = records[last[line, 1]].successor
        if records[hint].flags & FIRST and has_key(records[hint], key):
            block_id = hint
    if block_id < 0:
        block_id = find_first(records, query.table, key, slot_hash(key, query.seed))
        if block_id < 0:
            return -1
        if follows and not records[last[line, 1]].flags & LEADS:
            records[last[line, 1]].successor = block_id
    query.ids[line, block] = block_id
    last[line, 0] = block
    last[line, 1] = block_id
    return block_id


@leaf
def probe_line(query: Any, line: int, block: int) -> int:
    """`probe_key` for the hash of the whole block."""
    return int(probe_key(query, line, block, (block + 1) * query.stride - 1))


@leaf
def probe_part(query: Any, unit: int) -> bool:
    """Return whether a block is cached in every group of the query up to the end of a unit of the request."""
    for line in range(len(query.groups)):  # noqa: SIM110 - Numba knows no generators here
        if probe_key(query, line, unit // query.stride, unit) < 0:
            return False
    return True


@leaf
def probe(query: Any, block: int) -> bool:
    """Return whether `block` of the request is cached in every group of the query."""
    for line in range(len(query.groups)):  # noqa: SIM110 - Numba knows no generators here
        if probe_line(query, line, block) < 0:
            return False
    return True


@leaf
def follow(query: Any, line: int, block_id: int, block: int, end: int) -> int:
    """Follow successors from `block_id`, which precedes `block`; return the first of [block, end) that is not one.

    A walk from one to the next would wait for each record, so the one that was found some blocks further on the last
    time is loaded.
    """
    records, hashes, stride = query.records, query.hashes, query.stride
    group = query.groups[line]
    regions, first = 0, block
    while block < end:
        hint = records[block_id].successor
        prefetch(records, records[hint].further)
        place = (block + 1) * stride - 1
        prefetch(hashes, place + FAR)
        if not (records[hint].flags & FIRST and has_key(records[hint], key_at(hashes, place, group))):
            break
        query.ids[line, block] = hint
        if block - first >= FURTHER:
            records[query.ids[line, block - FURTHER]].further = hint
        regions |= 1 << region_of(query.meta, hint)
        block_id = hint
        block += 1
    query.memo[REGIONS_OF] |= regions
    query.last[line, 0] = block - 1
    query.last[line, 1] = block_id
    return block


@leaf
def probe_run(query: Any, block: int, end: int) -> int:
    """Return the first block of [block, end) that is not cached in every group of the query, else `end`.

    Blocks before `memo[KNOWN]` are cached and not looked at. The memo learns how far blocks are cached, and in which
    regions.
    """
    memo = query.memo
    end = max(end, block)
    known = min(memo[KNOWN], end)
    for line in range(len(query.groups)):
        place = max(block, known)
        while place < end:
            block_id = probe_line(query, line, place)
            if block_id < 0:
                end = place
            else:
                memo[REGIONS_OF] |= 1 << region_of(query.meta, block_id)
                place = follow(query, line, block_id, place + 1, end)
    if block == 0:
        memo[KNOWN] = max(memo[KNOWN], end)
    return end


@leaf
def num_lines_of(words: Any) -> int:
    """Lines of a plan: groups of all its queries."""
    return int(len(words) - PLAN_HEADER - words[PLAN_NUM_QUERIES] * QUERY_WORDS)


@leaf
def bind_query(lookup: Any, q: int) -> Any:
    """Make the `QueryLookup` of query `q`, for callers that are leaves."""
    words = lookup.words
    base = PLAN_HEADER + q * QUERY_WORDS
    begin = words[base + QUERY_FIRST_LINE]
    end = begin + words[base + QUERY_NUM_LINES]
    groups = words[PLAN_HEADER + words[PLAN_NUM_QUERIES] * QUERY_WORDS :]
    return QueryLookup(
        lookup.records,
        lookup.table,
        lookup.seed,
        lookup.meta,
        lookup.hashes,
        words[base + QUERY_STRIDE],
        groups[begin:end],
        lookup.ids[begin:end],
        lookup.last[begin:end],
        lookup.memo[q],
    )


@leaf
def longest_prefix(lookup: Any, max_length: int, hits: Any) -> int:
    """`common_hit` of a `Lookup`."""
    probes = Probes(apply_rule, bind_query, probe, probe_run, probe_part)
    return int(common_hit(probes, lookup, lookup.words, len(lookup.hashes), max_length, hits))


@inline
def find_prefix(pool: Any, hashes: Any, words: Any, max_length: int) -> tuple[Any, Any]:
    """Look up one request.

    Returns:
        int64 [2 + HIT_ROWS * queries]: the length of the hit in tokens, the number of ids that `write_hits` needs room
        for, then `hits` of `common_hit`; and the ids of each line, int32 [lines, blocks], of which those that a hit
        needs are set.
    """
    num_queries = words[PLAN_NUM_QUERIES]
    num_lines = num_lines_of(words)
    ids = np.empty((num_lines, len(hashes)), np.int32)
    # One allocation for all small arrays: each costs as much as ten hits.
    scratch = np.empty(2 + HIT_ROWS * num_queries + 2 * num_lines + num_queries * MEMO_WORDS, np.int64)
    answer, rest = scratch[: 2 + HIT_ROWS * num_queries], scratch[2 + HIT_ROWS * num_queries :]
    hits = answer[2:].reshape((HIT_ROWS, num_queries))
    last = rest[: 2 * num_lines].reshape((num_lines, 2))
    last[:] = -2
    memo = rest[2 * num_lines :].reshape((num_queries, MEMO_WORDS))
    memo[:] = 0
    lookup = Lookup(pool.records, pool.table, pool.seed, pool.meta, hashes, words, ids, last, memo)
    answer[0] = longest_prefix(lookup, max_length, hits)
    answer[1] = 2 + num_queries
    for q in range(num_queries):
        answer[1] += hits[NUM_HIT, q] * words[PLAN_HEADER + q * QUERY_WORDS + QUERY_NUM_LINES]
    return answer, ids


@leaf
def write_hits(null_id: int, words: Any, answer: Any, ids: Any, found: Any) -> None:
    """Write what `find_prefix` found to int32 [`answer[1]`]: the length in tokens, the longest of some groups, the
    blocks hit per query, then the ids of each line, one after the other."""
    num_queries = words[PLAN_NUM_QUERIES]
    hits = answer[2:].reshape((HIT_ROWS, num_queries))
    found[0], found[1] = answer[0], hits[FURTHEST, 0]
    place = 2 + num_queries
    for q in range(num_queries):
        first, length = hits[FIRST_NEEDED, q], hits[NUM_HIT, q]
        found[2 + q] = length
        base = PLAN_HEADER + q * QUERY_WORDS
        begin = words[base + QUERY_FIRST_LINE]
        for line in range(begin, begin + words[base + QUERY_NUM_LINES]):
            for i in range(length):
                found[place + i] = null_id if i < first else ids[line, i]
            place += length


@jit
def match_one(handle: Any, hashes: Any, words: Any, max_length: int) -> Any:
    """`BlockIndex.match`; `handle` is one for `pool_at`. Returns what `write_hits` writes: a copy, since a request may
    be long and its hit short."""
    pool = pool_at(handle)
    answer, ids = find_prefix(pool, hashes, words, max_length)
    found = np.empty(answer[1], np.int32)
    write_hits(pool.null_id, words, answer, ids, found)
    return found
