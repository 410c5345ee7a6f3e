"""Compiled lookup of the longest prefix of one request whose hashes are a list: it reads as few of them as it can.

Names are those of `kvgpu.index.host.prefix_match`.
"""

from typing import Any

import numpy as np

from kvgpu.blocks.index_meta import is_settled
from kvgpu.compiled.handle import IDS, WORDS, array_at, handle_at
from kvgpu.compiled.jit import inline, jit, leaf
from kvgpu.compiled.list_items import copy_bytes, length_of
from kvgpu.index.host.memo import MEMO_WORDS
from kvgpu.index.host.pool_arrays import pool_at
from kvgpu.index.host.prefix_match import Lookup, bind_query, find_prefix, num_lines_of, probe_run, write_hits
from kvgpu.index.host.table import find_first
from kvgpu.index.key import key_at
from kvgpu.index.slot_hash import slot_hash
from kvgpu.layout import KEY_WORDS
from kvgpu.rules.plan_words import (
    FULL,
    PLAN_HEADER,
    PLAN_NUM_QUERIES,
    QUERY_BLOCK_SIZE,
    QUERY_DROP,
    QUERY_FIRST_LINE,
    QUERY_KIND,
    QUERY_STRIDE,
    QUERY_UNIT,
    QUERY_WORDS,
)

POOL, PLAN, QUESTION, FOUND, NUM_ARRAYS = range(5)
"""Arrays of the handle of a lookup, in order.

POOL: the words of the handle of the pool. PLAN: `PrefixPlan.words`. QUESTION: int64 [QUESTION_WORDS]. FOUND: int32, see
`write_hits`.
"""

LISTED, NUM_HASHES, KIND, WIDTH, MAX_LENGTH, QUESTION_WORDS = range(6)
"""LISTED: address of a list. NUM_HASHES: those of its hashes that count. KIND: address of the type `bytes`. WIDTH:
bytes of a hash. MAX_LENGTH: tokens of the longest hit allowed."""

PIECE = 16
"""Hashes of a list that a lookup reads first, and by which factor it reads more."""


@leaf
def longest_stride(words: Any) -> int:
    """Hashes of the largest block of a plan."""
    longest = 1
    for q in range(words[PLAN_NUM_QUERIES]):
        longest = max(longest, words[PLAN_HEADER + q * QUERY_WORDS + QUERY_STRIDE])
    return int(longest)


@leaf
def leading_run(lookup: Any, num_blocks: int) -> int:
    """Return how many leading blocks of [0, num_blocks) are cached in all groups of the first query."""
    return int(probe_run(bind_query(lookup, 0), 0, num_blocks))


@leaf
def is_decided_by_first(words: Any) -> bool:
    """Return whether nothing is hit unless the first block of the first query is: that query is full attention with
    hits that end with a block, and no query looks beyond a hit of the others."""
    ends_inside = words[PLAN_HEADER + QUERY_UNIT] != words[PLAN_HEADER + QUERY_BLOCK_SIZE]
    if words[PLAN_HEADER + QUERY_KIND] != FULL or ends_inside:
        return False
    looks_beyond = False
    for q in range(words[PLAN_NUM_QUERIES]):
        looks_beyond |= words[PLAN_HEADER + q * QUERY_WORDS + QUERY_DROP] != 0
    return bool(words[PLAN_NUM_QUERIES] == 1 or not looks_beyond)


@inline
def is_first_missing(pool: Any, asked: Any, words: Any) -> bool:
    """Return whether it is certain that nothing is hit, since the first block of full attention is not cached.

    Most lookups that hit nothing end here, before they touch much else: what they touch is in no cache of the
    processor.
    """
    stride = words[PLAN_HEADER + QUERY_STRIDE]
    if not is_decided_by_first(words) or asked[NUM_HASHES] < stride or length_of(asked[LISTED]) < stride:
        return False
    keys = np.zeros((1, KEY_WORDS), np.int64)
    if copy_bytes(asked[LISTED], stride - 1, 1, asked[KIND], asked[WIDTH] // 8, keys) < 1:
        return False
    group = words[PLAN_HEADER + words[PLAN_NUM_QUERIES] * QUERY_WORDS + words[PLAN_HEADER + QUERY_FIRST_LINE]]
    key = key_at(keys, 0, group)
    return bool(find_first(pool.records, pool.table, key, slot_hash(key, pool.seed)) < 0)


@inline
def keys_that_matter(pool: Any, listed: int, count: int, kind: int, width: int, words: Any) -> Any:
    """Read those hashes of a list that decide a lookup: where the plan begins with full attention, no block after the
    first that is not cached can be hit, and only the one after it may be looked at.

    Args:
        pool: `PoolArrays`.
        listed: Address of the list.
        count: Its length as the caller knows it, or less.
        kind: Address of the type `bytes`.
        width: Bytes of a hash.
        words: Of the plan.

    Returns:
        int64 [n, KEY_WORDS] and True; or anything and False if the list is shorter, or a hash that was read has another
        type or width.
    """
    keys = np.zeros((min(count, PIECE), KEY_WORDS), np.int64)
    if length_of(listed) < count:
        return keys, False
    is_full = words[PLAN_HEADER + QUERY_KIND] == FULL
    stride = words[PLAN_HEADER + QUERY_STRIDE]
    margin = 1 + longest_stride(words)
    num_lines = num_lines_of(words)
    done = 0
    while True:
        num_keys = len(keys)
        if copy_bytes(listed, done, num_keys - done, kind, width // 8, keys[done:]) < num_keys - done:
            return keys, False
        if num_keys == count:
            return keys, True
        if is_full:
            scratch = np.zeros(2 * num_lines + MEMO_WORDS * words[PLAN_NUM_QUERIES], np.int64)
            last = scratch[: 2 * num_lines].reshape((num_lines, 2))
            last[:] = -2
            memo = scratch[2 * num_lines :].reshape((words[PLAN_NUM_QUERIES], MEMO_WORDS))
            ids = np.empty((num_lines, num_keys), np.int32)
            lookup = Lookup(pool.records, pool.table, pool.seed, pool.meta, keys, words, ids, last, memo)
            if leading_run(lookup, num_keys // stride) * stride + margin <= num_keys:
                return keys, True
        done = num_keys
        longer = np.zeros((min(count, PIECE * num_keys) if is_full else count, KEY_WORDS), np.int64)
        for place in range(done):  # an assignment of arrays can fail, and its message takes seconds to compile
            for word in range(KEY_WORDS):
                longer[place, word] = keys[place, word]
        keys = longer


@jit
def match_list(address: int) -> int:
    """`match_one` for the hashes of a list, for Python and C; see `keys_that_matter`.

    Args:
        address: Of the words of a handle with `POOL` to `FOUND`. FOUND is written if it is long enough.

    Returns:
        How long FOUND must be; -1 if the hashes cannot be read, or blocks are led.
    """
    handle = handle_at(address, 2 * NUM_ARRAYS)
    pool_words, words = array_at(handle, 2 * POOL, WORDS), array_at(handle, 2 * PLAN, WORDS)
    asked, found = array_at(handle, 2 * QUESTION, WORDS), array_at(handle, 2 * FOUND, IDS)
    pool = pool_at(pool_words)
    if not is_settled(pool.meta):
        return -1
    if is_first_missing(pool, asked, words):
        size = 2 + words[PLAN_NUM_QUERIES]
        found[: min(size, len(found))] = 0
        return int(size)
    keys, are_read = keys_that_matter(pool, asked[LISTED], asked[NUM_HASHES], asked[KIND], asked[WIDTH], words)
    if not are_read:
        return -1
    answer, ids = find_prefix(pool, keys, words, asked[MAX_LENGTH])
    if answer[1] <= len(found):
        write_hits(pool.null_id, words, answer, ids, found)
    return int(answer[1])
