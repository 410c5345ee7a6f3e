"""What a request holds, needs and gives back in one cache group: functions of positions and counts.

Each rule is stated once, as Python that Numba also compiles. A group is a record.
"""

import numpy as np

from kvgpu.compiled.jit import leaf
from kvgpu.rules.plan_words import CHUNKED_LOCAL, FULL, SLIDING_WINDOW

GROUP_RECORD = np.dtype(
    [
        ("kind", "<i8"),
        ("block_size", "<i8"),
        ("extent", "<i8"),
        ("group_id", "<i8"),
        ("cap", "<i8"),
        ("alignment", "<i8"),
        ("eagle", "<i8"),
        ("keep_all", "<i8"),
        ("shift", "<i8"),
        ("need", "<i8"),
        ("period", "<i8"),
        ("prompt_ends", "<i8"),
        ("hit_alignment", "<i8"),
    ]
)
"""A cache group as compiled code reads it. kind: of attention, as in a plan. block_size: tokens of a block
over all ranks. extent: tokens of a window or chunk. cap: most blocks that admission counts, NO_CAP for any
number. alignment: only whole multiples of so many tokens are cached; 0 for all. eagle: one block more is.
keep_all: no mask; else the other fields are one: see `is_reachable`."""

NO_CAP = -1


@leaf
def blocks_of(num_tokens: int, block_size: int) -> int:
    """Blocks that so many tokens take."""
    return (num_tokens + block_size - 1) // block_size


@leaf
def blocks_beyond(num_tokens: int, held: int, block_size: int) -> int:
    """Blocks that so many tokens take beyond those held; without a division, the dearest step here, where none do."""
    return 0 if num_tokens <= held * block_size else blocks_of(num_tokens, block_size) - held


@leaf
def skipped_tokens(kind: int, extent: int, num_computed: int) -> int:
    """Tokens at the front that the next token does not attend to."""
    if kind == FULL:
        return 0
    if kind == SLIDING_WINDOW:
        return max(0, num_computed - extent + 1)
    if kind == CHUNKED_LOCAL:
        return num_computed // extent * extent
    return num_computed - 1  # a recurrent state: only the last token


@leaf
def blocks_missing(required: int, held: int, running: bool, skipped: int, num_hits: int) -> int:
    """New blocks that a request takes from the pool, the hits that leave the free queue aside (fact 22)."""
    if running:
        return max(required - held, 0)
    return max(required - max(skipped, num_hits + held), 0)


@leaf
def covered_tokens(
    kind: int, extent: int, block_size: int, held: int, num_cached: int, caching: bool, num_computed: int
) -> int:
    """Tokens up to which a call for the request would change nothing in a group.

    Within them no block is needed, none becomes full and, from `num_computed` on, none leaves the window.
    """
    covered = held * block_size
    if caching:
        covered = min(covered, (max(num_cached, 0) + 1) * block_size - 1)
    skipped = skipped_tokens(kind, extent, num_computed)
    if kind == SLIDING_WINDOW:
        covered = min(covered, (skipped // block_size + 1) * block_size + extent - 1)
    elif kind == CHUNKED_LOCAL:
        covered = min(covered, skipped + extent)
    elif kind != FULL:
        covered = 0
    return covered


@leaf
def tokens_to_cache(num_main: int, num_tokens: int) -> int:
    """Return how many of a request's tokens a call may cache, if it has `num_main` with slots after it.

    Draft tokens may be rejected, so only the `num_tokens` that the request has are cached.
    """
    return min(num_main, num_tokens)


@leaf
def cacheable_tokens(num_tokens: int, alignment: int, eagle: bool, block_size: int) -> int:
    """How many of the first `num_tokens` tokens a group may cache.

    Hits of hybrid models end at multiples of an alignment, so nothing behind the last one is kept but the
    block that EAGLE drops when it looks up (fact 47).
    """
    if alignment == 0:
        return num_tokens
    aligned = num_tokens // alignment * alignment
    if eagle and aligned > 0:
        return min(num_tokens, aligned + block_size)
    return aligned
