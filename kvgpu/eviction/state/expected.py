"""Keys that waiting requests are expected to hit: those of the last batched match."""

from typing import Any, NamedTuple

import numpy as np

from kvgpu.compiled.jit import leaf, prefetch
from kvgpu.hashing.hash_arena import hashes_at
from kvgpu.rules.plan_words import (
    CHUNKED_LOCAL,
    FULL,
    MAMBA,
    PLAN_HEADER,
    PLAN_NUM_QUERIES,
    QUERY_BLOCK_SIZE,
    QUERY_DROP,
    QUERY_EXTENT,
    QUERY_FIRST_LINE,
    QUERY_KIND,
    QUERY_NUM_LINES,
    QUERY_STRIDE,
    QUERY_WORDS,
)

STAMP, COUNT, EXPECTED_WORDS = range(3)
"""Words: STAMP of the keys that are expected now, and how many they are."""


class Expected(NamedTuple):
    """A set of keys, emptied in O(1)."""

    keys: Any
    """int64 [a power of two]."""
    stamps: Any
    """int64 [the same]: a slot with another stamp than that of the set is empty."""
    words: Any
    """int64 [EXPECTED_WORDS]."""


def make_expected(num_blocks: int) -> Expected:
    """Make an empty set for the keys of so many blocks. O(num_blocks)."""
    slots = 1 << (2 * num_blocks - 1).bit_length()
    words = np.zeros(EXPECTED_WORDS, np.int64)
    words[STAMP] = 1
    return Expected(np.zeros(slots, np.int64), np.zeros(slots, np.int64), words)


@leaf
def load_expected(expected: Any, key: int) -> None:
    """Start loading the slot of a key, unless the set is empty."""
    if expected.words[COUNT] > 0:
        prefetch(expected.keys, key & (len(expected.keys) - 1))
        prefetch(expected.stamps, key & (len(expected.keys) - 1))


@leaf
def is_expected(expected: Any, key: int) -> bool:
    """Return whether a key is in the set. Expected O(1): a key is a part of a hash."""
    if expected.words[COUNT] == 0:
        return False
    mask = len(expected.keys) - 1
    slot = key & mask
    while expected.stamps[slot] == expected.words[STAMP]:
        if expected.keys[slot] == key:
            return True
        slot = (slot + 1) & mask
    return False


@leaf
def expect_key(expected: Any, key: int) -> None:
    """Add a key; further ones than there are blocks are left out. Expected O(1)."""
    words, mask = expected.words, len(expected.keys) - 1
    if words[COUNT] > mask // 2:
        return
    slot = key & mask
    while expected.stamps[slot] == words[STAMP]:
        if expected.keys[slot] == key:
            return
        slot = (slot + 1) & mask
    expected.keys[slot], expected.stamps[slot] = key, words[STAMP]
    words[COUNT] += 1


@leaf
def _first_needed(query: Any, length: int) -> int:
    """Return the first of the blocks of a hit that a request with it reads: those before it are outside its mask."""
    kind, extent, size = query[QUERY_KIND], query[QUERY_EXTENT], query[QUERY_BLOCK_SIZE]
    if kind == FULL:
        return 0
    if kind == MAMBA:
        return int(length - 1)
    if kind == CHUNKED_LOCAL:
        return int(length * size // extent * extent // size)
    return int(length - extent - query[QUERY_DROP])


@leaf
def expect_request(expected: Any, plan: Any, hashes: Any, lengths: Any) -> None:
    """Add the keys of the blocks that a request would hit. O(hits).

    Args:
        expected: `Expected`.
        plan: Words of the plan that it was looked up with.
        hashes: int64 [n, KEY_WORDS], those of the request.
        lengths: int [queries], lengths of its hits, in blocks.
    """
    for q in range(plan[PLAN_NUM_QUERIES]):
        query = plan[PLAN_HEADER + q * QUERY_WORDS : PLAN_HEADER + (q + 1) * QUERY_WORDS]
        stride = query[QUERY_STRIDE]
        first_line = PLAN_HEADER + plan[PLAN_NUM_QUERIES] * QUERY_WORDS + query[QUERY_FIRST_LINE]
        # A hit that ends inside a block has no hash for the end of it.
        length = min(lengths[q], len(hashes) // stride)
        for i in range(max(0, _first_needed(query, lengths[q])), length):
            words = hashes[(i + 1) * stride - 1]
            for line in range(query[QUERY_NUM_LINES]):
                expect_key(expected, words[0] ^ words[1] ^ plan[first_line + line])


@leaf
def expect_requests(expected: Any, plan: Any, spans: Any, lengths: Any) -> None:
    """Have the set hold the keys of the blocks that these requests would hit, and nothing else. O(hits).

    Args:
        expected: `Expected`.
        plan: Words of the plan that they were looked up with.
        spans: Fields of `HashSpans`.
        lengths: int32 [requests, queries], lengths of their hits, in blocks.
    """
    arena, borrowed, begins, ends = spans
    expected.words[STAMP] += 1
    expected.words[COUNT] = 0
    for r in range(len(begins)):
        expect_request(expected, plan, hashes_at(arena, borrowed[r], begins[r], ends[r]), lengths[r])
