"""TinyLFU in front of LRU: a new block that was asked for less often than the next victim is evicted before it.

G. Einziger, R. Friedman, B. Manes: TinyLFU: A Highly Efficient Cache Admission Policy, ACM TOS 13 (4), 2017. How often
keys were asked for, also those of blocks that are gone, is estimated by a count-min sketch that is halved now and then.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from kvgpu.compiled.cache_lines import CACHE_LINE, make_lines
from kvgpu.compiled.jit import leaf, prefetch
from kvgpu.eviction.state.arrays import LEARNED, NUM_BLOCKS
from kvgpu.eviction.state.lanes import NO_BLOCK, put_last
from kvgpu.eviction.state.members import PLAIN, first_free, key_of
from kvgpu.layout import HASH_MULTIPLIER

REJECTED, ADMITTED, NUM_LANES = 1, 2, 3
ROWS, COLUMNS = 4, 16
"""Rows and columns of the counts in a line of the sketch: a key has one in each row of the line that it chooses."""
COUNTS_PER_BLOCK = 16
"""Bytes of the sketch for each block of the pool, about."""
MOST = 15
"""Largest count of the sketch."""
SAMPLE = 32
"""Times the blocks of the pool: after so many keys all counts are halved. LEARNED is how many were counted since."""


def make_sketch(num_blocks: int) -> npt.NDArray[np.uint8]:
    """Make an empty sketch for so many blocks, uint8 [a power of two], in cache lines. O(num_blocks)."""
    return (
        make_lines(1 << (max(1, COUNTS_PER_BLOCK * num_blocks // CACHE_LINE) - 1).bit_length()).view(np.uint8).ravel()
    )


@leaf
def _line_of(sketch: Any, key: int) -> int:
    """Return where the line of a key begins."""
    return int((((key ^ (key >> 29)) * HASH_MULTIPLIER) >> 31) & (len(sketch) - CACHE_LINE))


@leaf
def _place_of(line: int, row: int, key: int) -> Any:
    """Return where a row of a line counts a key."""
    column = (key * (HASH_MULTIPLIER + 2) >> (48 + 4 * row)) & (COLUMNS - 1)
    return np.uint64(line + row * COLUMNS + column)


@leaf
def load_counts(sketch: Any, key: int) -> None:
    """Start loading the counts of a key."""
    prefetch(sketch, _line_of(sketch, key))


@leaf
def estimate(sketch: Any, key: int) -> int:
    """Return how often a key was counted, or more."""
    least, line = MOST, _line_of(sketch, key)
    for row in range(ROWS):
        least = min(least, sketch[_place_of(line, row, key)])
    return int(least)


@leaf
def count_key(pool: Any, key: int) -> None:
    """Count a key. Amortised O(1)."""
    sketch = pool.sketch
    line = _line_of(sketch, key)
    for row in range(ROWS):
        place = _place_of(line, row, key)
        if sketch[place] < MOST:
            sketch[place] += 1
    pool.numbers[LEARNED] += 1
    if pool.numbers[LEARNED] >= SAMPLE * pool.numbers[NUM_BLOCKS]:
        for place in range(len(sketch)):
            sketch[place] >>= 1
        pool.numbers[LEARNED] //= 2


@leaf
def enter_tinylfu(pool: Any, block_id: int) -> None:
    """Place a cached block that has become free."""
    is_new = pool.nodes[block_id].notes == 0 and pool.nodes[block_id].hits == 0
    key = key_of(pool, block_id)
    if is_new:
        count_key(pool, key)
    lane = ADMITTED
    if is_new and first_free(pool, PLAIN) == NO_BLOCK:
        victim = first_free(pool, ADMITTED)
        if victim != NO_BLOCK and estimate(pool.sketch, key) <= estimate(pool.sketch, key_of(pool, victim)):
            lane = REJECTED
    put_last(pool.lanes, lane, block_id)


@leaf
def choose_tinylfu(pool: Any) -> int:
    """Return the block to evict next, or NO_BLOCK."""
    block_id = first_free(pool, REJECTED)
    return first_free(pool, ADMITTED) if block_id == NO_BLOCK else block_id
