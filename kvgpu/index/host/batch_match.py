"""Compiled lookups of prefixes for many requests in one call, which remember what they found."""

from typing import Any, NamedTuple

import numpy as np

from kvgpu.compiled.jit import jit, leaf, lowest_bit, prefetch
from kvgpu.hashing.hash_arena import hashes_at
from kvgpu.index.host.memo import KNOWN, MEMO_LINES, MEMO_WORDS, recall, remember
from kvgpu.index.host.pool_arrays import PoolArrays
from kvgpu.index.host.prefix_match import longest_prefix, lookup_in, num_lines_of
from kvgpu.index.host.table import bucket_of, slots_of_tag
from kvgpu.index.key import key_at
from kvgpu.index.slot_hash import slot_hash
from kvgpu.layout import LOW_32
from kvgpu.rules.hits import FURTHEST, HIT_ROWS, NUM_HIT
from kvgpu.rules.plan_words import PLAN_HEADER, PLAN_NUM_QUERIES, QUERY_NUM_LINES, QUERY_STRIDE, QUERY_WORDS

APART = 4
"""Requests between the lines of a lookup that are loaded one after the other."""


class HashSpans(NamedTuple):
    """Where the hashes of many requests lie: int64 [requests] each, but for the arena."""

    arena: Any
    """int64 [n, KEY_WORDS]."""
    borrowed: Any
    """Address of hashes that belong to the request itself; 0 if they lie in the arena."""
    begins: Any
    ends: Any


@leaf
def load_first(pool: Any, spans: Any, words: Any, r: int) -> None:
    """Load what lookups of requests soon after `r` will begin with, line after line: each says where the next one lies.

    That is the first block in the first group: right for full attention, harmless for others.
    """
    stride = words[PLAN_HEADER + QUERY_STRIDE]
    group = words[PLAN_HEADER + words[PLAN_NUM_QUERIES] * QUERY_WORDS]
    # First the hash, APART requests later its bucket, and APART requests later the record that the bucket names.
    for stage in range(3):
        far = r + (3 - stage) * APART
        if far >= len(spans.begins):
            continue
        hashes = hashes_at(spans.arena, spans.borrowed[far], spans.begins[far], spans.ends[far])
        if len(hashes) < stride:
            continue
        if stage == 0:
            prefetch(hashes, stride - 1)
            continue
        h = slot_hash(key_at(hashes, stride - 1, group), pool.seed)
        bucket = bucket_of(h, len(pool.table))
        if stage == 1:
            prefetch(pool.table, bucket)
            continue
        found = slots_of_tag(pool.table, bucket, h & LOW_32)
        if found:
            prefetch(pool.records, (pool.table[bucket, lowest_bit(found)] & LOW_32) - 1)


@leaf
def match_again(pool: Any, spans: Any, words: Any, r: int, max_length: int, stored: Any, scratch: Any) -> int:
    """Return the length of the hit of request `r` in tokens, beginning with what earlier lookups found.

    Args:
        pool: `PoolArrays`.
        spans: `HashSpans`.
        words: Of the plan.
        r: The request.
        max_length: Longest hit allowed, in tokens.
        stored: int64 [MEMO_WORDS], what earlier lookups found for the first query; brought up to date.
        scratch: Arrays `ids`, `last` and `memo` of a `Lookup`, and `hits` of `common_hit`, all written to.
    """
    ids, last, memo, hits = scratch
    first_lines = words[PLAN_HEADER + QUERY_NUM_LINES]
    hashes = hashes_at(spans.arena, spans.borrowed[r], spans.begins[r], spans.ends[r])
    last[:] = -2
    memo[:] = 0
    if stored[KNOWN] == 0:
        load_first(pool, spans, words, r)
    recall(pool.meta, stored, memo[0], last, first_lines)
    known = memo[0, KNOWN]
    num_tokens = longest_prefix(lookup_in(pool, hashes, words, ids, last, memo), max_length, hits)
    if first_lines <= MEMO_LINES:
        remember(pool.meta, stored, memo[0], ids, known, first_lines)
    return num_tokens


@jit
def match_many(pool: Any, spans: Any, words: Any, max_lengths: Any, memos: Any, places: Any, results: Any) -> None:
    """`BlockIndex.match_batch`.

    Args:
        pool: `PoolArrays` as a tuple.
        spans: `HashSpans` as a tuple.
        words: Of the plan.
        max_lengths: int64 [requests], in tokens.
        memos: int64 [any, MEMO_WORDS], that of request i at places[i]: used if nothing has left its regions, and
            brought up to date.
        places: int64 [requests].
        results: The fields of `BatchHits`, filled.
    """
    num_tokens, lengths, furthest = results
    pool, spans = PoolArrays(*pool), HashSpans(*spans)
    num_queries = words[PLAN_NUM_QUERIES]
    num_lines = num_lines_of(words)
    longest = 0
    for r in range(len(spans.begins)):
        longest = max(longest, spans.ends[r] - spans.begins[r])
    ids = np.empty((num_lines, longest), np.int32)
    last = np.empty((num_lines, 2), np.int64)
    hits = np.empty((HIT_ROWS, num_queries), np.int64)
    memo = np.empty((num_queries, MEMO_WORDS), np.int64)
    for r in range(len(spans.begins)):
        stored = memos[places[r]]
        num_tokens[r] = match_again(pool, spans, words, r, max_lengths[r], stored, (ids, last, memo, hits))
        furthest[r] = hits[FURTHEST, 0]
        for q in range(num_queries):
            lengths[r, q] = hits[NUM_HIT, q]
