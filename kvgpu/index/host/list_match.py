"""Compiled lookup of the longest prefix of one request whose hashes are a list: it reads as few of them as it can.

Names are those of `kvgpu.index.host.prefix_match`.
"""

from typing import Any

import numpy as np

from kvgpu.compiled.jit import inline, jit, leaf
from kvgpu.compiled.list_items import copy_bytes, length_of
from kvgpu.index.host.memo import MEMO_WORDS
from kvgpu.index.host.pool_arrays import pool_at
from kvgpu.index.host.prefix_match import Lookup, bind_query, match_one, num_lines_of, probe_run
from kvgpu.layout import KEY_WORDS
from kvgpu.rules.plan_words import FULL, PLAN_HEADER, PLAN_NUM_QUERIES, QUERY_KIND, QUERY_STRIDE, QUERY_WORDS

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


@inline
def keys_that_matter(handle: Any, listed: int, count: int, kind: int, width: int, words: Any) -> Any:
    """Read those hashes of a list that decide a lookup: where the plan begins with full attention, no block after the
    first that is not cached can be hit, and only the one after it may be looked at.

    Args:
        handle: For `pool_at`.
        listed: Address of the list.
        count: Its length as the caller knows it, or less.
        kind: Address of the type `bytes`.
        width: Bytes of a hash.
        words: Of the plan.

    Returns:
        int64 [n, KEY_WORDS] and True; or anything and False if the list is shorter, or a hash that was read has another
        type or width.
    """
    pool = pool_at(handle)
    keys = np.zeros((min(count, PIECE), KEY_WORDS), np.int64)
    if length_of(listed) < count:
        return keys, False
    begins_full = words[PLAN_HEADER + QUERY_KIND] == FULL
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
        if begins_full:
            scratch = np.zeros(2 * num_lines + MEMO_WORDS * words[PLAN_NUM_QUERIES], np.int64)
            last = scratch[: 2 * num_lines].reshape((num_lines, 2))
            last[:] = -2
            memo = scratch[2 * num_lines :].reshape((words[PLAN_NUM_QUERIES], MEMO_WORDS))
            ids = np.empty((num_lines, num_keys), np.int32)
            lookup = Lookup(pool.records, pool.table, pool.seed, pool.meta, keys, words, ids, last, memo)
            if leading_run(lookup, num_keys // stride) * stride + margin <= num_keys:
                return keys, True
        done = num_keys
        longer = np.zeros((min(count, PIECE * num_keys) if begins_full else count, KEY_WORDS), np.int64)
        longer[:done] = keys
        keys = longer


@jit
def match_list(handle: Any, listed: int, count: int, kind: int, width: int, words: Any, max_length: int) -> Any:
    """`match_one` for the hashes of a list; see `keys_that_matter`. The length is -1 if they cannot be read."""
    keys, are_read = keys_that_matter(handle, listed, count, kind, width, words)
    if not are_read:
        return np.full(1, -1, np.int32)
    return match_one(handle, keys, words, max_length)
