"""The most that any order of eviction could hit: Belady's MIN over the blocks of the prompts.

L. A. Belady: A Study of Replacement Algorithms for a Virtual-Storage Computer, IBM Systems Journal 5 (2), 1966. Here a
block may also be left out, nobody holds blocks, and each block counts by itself, while a manager hits leading runs: an
upper bound for full attention, which need not be reachable.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from kvgpu.compiled.jit import jit
from kvgpu.replay.traces.keys import prompt_keys
from kvgpu.replay.traces.trace import Trace

NEVER = -1


@jit
def _next_hits(keys: Any, offsets: Any, limits: Any, num_keys: int) -> Any:
    """Return for each block the request that can hit it next, if the next one that has it can; else NEVER."""
    last = np.full(num_keys, NEVER, np.int64)
    found = np.empty(len(keys), np.int64)
    for request in range(len(offsets) - 2, -1, -1):
        for place in range(offsets[request], offsets[request + 1]):
            found[place] = last[keys[place]]
            can_hit = place - offsets[request] < limits[request]
            last[keys[place]] = request if can_hit else NEVER
    return found


@jit
def _hits(offsets: Any, next_hits: Any, capacity: int) -> int:
    """Count the blocks that are hit with room for `capacity` of them.

    Blocks that are hit next by the same request are alike, so it is enough to count them.
    """
    waiting = np.zeros(len(offsets), np.int64)
    total = hits = latest = 0
    for request in range(len(offsets) - 1):
        hits += waiting[request]
        total -= waiting[request]
        for place in range(offsets[request], offsets[request + 1]):
            hit_by = next_hits[place]
            if hit_by != NEVER:
                waiting[hit_by] += 1
                total += 1
                latest = max(latest, hit_by)
        while total > capacity:
            while waiting[latest] == 0:
                latest -= 1
            gone = min(waiting[latest], total - capacity)
            waiting[latest] -= gone
            total -= gone
    return int(hits)


def belady_hit_tokens(trace: Trace, block_size: int, num_blocks: Sequence[int]) -> list[int]:
    """Return the most tokens of prompts that pools of these sizes can hit, for each of them.

    Args:
        trace: The requests, which look their prompts up in this order; at least one token of each is computed.
        block_size: Tokens per block.
        num_blocks: Sizes of pools; one block of each is the null block.

    O(blocks log(blocks)), and O(blocks + requests^2) for each pool.
    """
    numbers, offsets, limits, count = prompt_keys(trace, block_size)
    next_hits = _next_hits(numbers, offsets, limits, count)
    return [block_size * int(_hits(offsets, next_hits, max(0, size - 1))) for size in num_blocks]
