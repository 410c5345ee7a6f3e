"""What a request holds, needs and gives back in one cache group: functions of positions and counts.

Each rule is stated once, in Python that Numba also compiles. A group is represented by a record.
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
        ("ends", "<i8"),
        ("hit_alignment", "<i8"),
        ("mask_eagle", "<i8"),
        ("splits", "<i8"),
        ("behind", "<i8"),
    ]
)
"""A cache group as compiled code reads it. kind: kind of attention, as in a plan. block_size: tokens of a block
over all ranks. extent: tokens of a window or chunk. cap: largest number of blocks that admission counts, or NO_CAP.
alignment: only whole multiples of this number of tokens are cached; 0 if all tokens are. eagle: whether one block
more is cached. keep_all: whether there is no mask; otherwise the fields up to mask_eagle are the mask: see
`is_reachable`. splits: whether freed blocks without a hash are reused before all others. behind: tokens at the end that
a drafter may compute again, which are not cached."""

NO_CAP = -1


@leaf
def blocks_of(num_tokens: int, block_size: int) -> int:
    """Return the number of blocks that `num_tokens` tokens take."""
    return (num_tokens + block_size - 1) // block_size


@leaf
def blocks_beyond(num_tokens: int, held: int, block_size: int) -> int:
    """Return the number of blocks that `num_tokens` tokens take beyond those held.

    If there are none, this avoids the division, which is the most expensive step.
    """
    return 0 if num_tokens <= held * block_size else blocks_of(num_tokens, block_size) - held


@leaf
def skipped_tokens(kind: int, extent: int, num_computed: int) -> int:
    """Return the number of leading tokens that the next token does not attend to."""
    if kind == FULL:
        return 0
    if kind == SLIDING_WINDOW:
        return max(0, num_computed - extent + 1)
    if kind == CHUNKED_LOCAL:
        return num_computed // extent * extent
    return num_computed - 1  # a recurrent state: only the last token


@leaf
def blocks_missing(required: int, held: int, running: bool, skipped: int, num_hits: int) -> int:
    """Return the number of new blocks that a request takes, not counting hits that leave the free queue (fact 22)."""
    if running:
        return max(required - held, 0)
    return max(required - max(skipped, num_hits + held), 0)


@leaf
def covered_tokens(
    kind: int, extent: int, block_size: int, held: int, num_cached: int, caching: bool, num_computed: int
) -> int:
    """Return the number of tokens up to which a call for the request changes nothing in a group.

    Up to there no block is needed, none becomes full and, from `num_computed` on, none leaves the window.
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
    """Return how many of a request's tokens a call may cache if `num_main` tokens have slots after the call.

    Draft tokens may be rejected, so only the `num_tokens` tokens that the request has are cached.
    """
    return min(num_main, num_tokens)


@leaf
def cacheable_tokens(num_tokens: int, alignment: int, eagle: bool, block_size: int, behind: int) -> int:
    """Return how many of the first `num_tokens` tokens a group may cache.

    Hits of hybrid models end at multiples of an alignment, so nothing after the last multiple is cached except the
    block that EAGLE drops at a lookup (fact 47). The last `behind` tokens, which may be computed again, are not cached
    where the drafter reads them (B67).
    """
    final = max(0, num_tokens - behind)
    if alignment == 0:
        return final
    aligned = num_tokens // alignment * alignment
    if eagle and aligned > 0:
        return min(final, final // alignment * alignment + block_size)
    return aligned
