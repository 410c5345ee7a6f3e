"""Tools of a scheduler that knows the hits of its whole queue: order it, hold requests back, count what fits."""

from typing import Any

import numpy as np
import numpy.typing as npt

from kvgpu.arguments import integers, numbers, truths
from kvgpu.batch.rows.record import RowIds
from kvgpu.batch.rows.requests import RequestRows
from kvgpu.compiled.jit import jit
from kvgpu.errors import ArgumentError, ArgumentTypeError
from kvgpu.hashing.hash_arena import hashes_at
from kvgpu.integers import as_integer, as_number
from kvgpu.layout import KEY_WORDS

Order = npt.NDArray[np.int64]
"""Places of a queue, int64 [n], the first to be served first."""


def longest_prefix_first(hit_tokens: npt.ArrayLike, waited: npt.ArrayLike, age_limit: float) -> Order:
    """Order a queue by cached prefix, longest first, so that nothing starves.

    Args:
        hit_tokens: [n], from `BatchQueries.match`.
        waited: [n], how long each request has waited, in any unit.
        age_limit: Requests that have waited longer than this go before all others, the longest wait first.

    Returns:
        int64 [n]: places of the queue, the first to be served first; equal prefixes keep their order.

    Raises:
        ArgumentTypeError: Anything but numbers [n].

    O(n log n).
    """
    hits = numbers("hit_tokens", hit_tokens)
    age = numbers("waited", waited, len(hits))
    old = age > as_number("age_limit", age_limit)
    keys = np.where(old, -age, -hits)
    return np.lexsort((np.arange(len(hits)), keys, ~old)).astype(np.int64)


def num_that_fit(needed_blocks: npt.ArrayLike, free_blocks: int) -> int:
    """Return how many requests at the front of a queue fit together.

    Args:
        needed_blocks: [n], blocks that each request would take, without its hits.
        free_blocks: Blocks that are free.

    Raises:
        ArgumentError, ArgumentTypeError: Anything but integers [n], and a number of 0 or more.

    An estimate: requests may share the blocks that they fill, and hits without users leave the free queue. O(n).
    """
    needed = integers("needed_blocks", needed_blocks)
    free = as_integer("free_blocks", free_blocks)
    return int(np.searchsorted(np.cumsum(needed), free, side="right"))


@jit
def _about_to_be_filled(arena: Any, spans: Any, missing: Any, may_wait: Any) -> Any:
    """Return, for each request, whether an earlier one is about to fill the first block that it misses."""
    begins, ends, borrowed = spans
    held = np.zeros(len(begins), np.bool_)
    for i in range(len(begins)):
        at = missing[i]
        if not may_wait[i] or at >= ends[i] - begins[i]:
            continue
        keys = hashes_at(arena, borrowed[i], begins[i], ends[i])
        for j in range(i):
            # A request past this place will not fill it again: waiting for a block that left a window would be in vain.
            if held[j] or missing[j] > at or at >= ends[j] - begins[j]:
                continue
            other_keys = hashes_at(arena, borrowed[j], begins[j], ends[j])
            same = True
            for word in range(KEY_WORDS):
                same = same and keys[at, word] == other_keys[at, word]
            if same:
                held[i] = True
                break
    return held


def held_back(
    rows: RequestRows, queue: RowIds, hit_hashes: npt.ArrayLike, may_wait: npt.ArrayLike | None = None
) -> npt.NDArray[np.bool_]:
    """Tell which requests should wait a step because an earlier one is about to fill what they miss.

    The first hash that a request misses stands for its whole prefix. An earlier request of the queue that has
    the same hash, is not past it, and is not held back itself will compute those blocks.

    Args:
        rows: Where the requests are tracked.
        queue: int64 [n], their rows, the first to be served first; requests that run and still compute their
            prompt go before those that wait.
        hit_hashes: [n], number of hashes of each request that are cached (hit tokens / tokens per hash); for one that
            runs, the hashes of its computed tokens.
        may_wait: bool [n], which requests may be held back at all; all if None.

    Returns:
        bool [n].

    Raises:
        ArgumentError: A row that is not tracked, or comes twice; numbers below 0.
        ArgumentTypeError: Anything but integers [n], and truth values [n].

    O(n**2) comparisons of one hash; 1,024 requests take a millisecond or two.
    """
    if not isinstance(rows, RequestRows):
        raise ArgumentTypeError(f"rows: RequestRows are expected, got {type(rows).__name__}")
    spans = rows.spans(queue)
    missing = integers("hit_hashes", hit_hashes, spans.count)
    if (missing < 0).any():
        raise ArgumentError("hit_hashes: numbers of 0 or more are expected")
    may = np.ones(len(missing), np.bool_)
    if may_wait is not None:
        may[:] = truths("may_wait", may_wait, len(missing))
    held: npt.NDArray[np.bool_] = _about_to_be_filled(
        rows.hashes.arena.words, (spans.begins, spans.ends, spans.borrowed), missing, may
    )
    return held
