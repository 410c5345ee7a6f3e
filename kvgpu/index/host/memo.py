"""Memos: what a lookup has found of a request, so that the next lookup of the same request can go on from there."""

from typing import Any

from kvgpu.blocks.index_meta import DEPARTURES
from kvgpu.compiled.jit import leaf, lowest_bit

KNOWN, REGIONS_OF, SUM, LAST = 0, 1, 2, 3
"""Words of a memo, which says what a request's last lookup found for the first query of the plan.

KNOWN: how many leading blocks are cached in all its groups. REGIONS_OF: the regions of the pool they lie in, one bit
each. SUM: departures from these regions, added up; while the sum is the same, the blocks are still cached. From LAST
on: the last of these blocks in each group. Nothing is kept for a query with more groups than MEMO_LINES.
"""
MEMO_LINES = 5
MEMO_WORDS = LAST + MEMO_LINES


@leaf
def departures_from(meta: Any, regions: int) -> int:
    """Add up the departures from some regions, one bit each."""
    total = 0
    while regions:
        total += meta[DEPARTURES + lowest_bit(regions)]
        regions &= regions - 1
    return total


@leaf
def recall(meta: Any, stored: Any, memo: Any, last: Any, num_lines: int) -> None:
    """Begin a lookup with a stored memo, if the blocks that it speaks of are still cached.

    Args:
        meta: As in `PoolArrays`.
        stored: int64 [MEMO_WORDS].
        memo: int64 [MEMO_WORDS], of the lookup; all zeros.
        last: See `Lookup`.
        num_lines: Lines of the first query of the plan.
    """
    if stored[KNOWN] == 0 or departures_from(meta, stored[REGIONS_OF]) != stored[SUM]:
        return
    memo[KNOWN], memo[REGIONS_OF] = stored[KNOWN], stored[REGIONS_OF]
    for line in range(num_lines):
        last[line, 0], last[line, 1] = stored[KNOWN] - 1, stored[LAST + line]


@leaf
def remember(meta: Any, stored: Any, memo: Any, ids: Any, known: int, num_lines: int) -> None:
    """Store the memo of a lookup that began with `known` blocks; `ids` as in `Lookup`, the rest as in `recall`."""
    stored[KNOWN], stored[REGIONS_OF] = memo[KNOWN], memo[REGIONS_OF]
    stored[SUM] = departures_from(meta, memo[REGIONS_OF])
    if memo[KNOWN] > known:
        for line in range(num_lines):
            stored[LAST + line] = ids[line, memo[KNOWN] - 1]
