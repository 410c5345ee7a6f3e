"""TinyLFU in front of LRU: a new block that was asked for less often than the next victim is evicted before it.

G. Einziger, R. Friedman, B. Manes: TinyLFU: A Highly Efficient Cache Admission Policy, ACM TOS 13 (4), 2017. How often
keys were asked for, also those of blocks that are gone, is estimated by a count-min sketch that is halved now and then.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from kvgpu.compiled.jit import leaf
from kvgpu.eviction.state.arrays import LEARNED, NUM_BLOCKS
from kvgpu.eviction.state.lanes import NO_BLOCK, put_last
from kvgpu.eviction.state.members import PLAIN, first_free, key_of
from kvgpu.layout import HASH_MULTIPLIER

REJECTED, ADMITTED, NUM_LANES = 1, 2, 3
ROWS, COLUMNS = 4, 4
"""Rows of the sketch, and columns of a row for each block of the pool, at least."""
MOST = 15
"""Largest count of the sketch."""
SAMPLE = 32
"""Times the blocks of the pool: after so many keys all counts are halved. LEARNED is how many were counted since."""


def make_sketch(num_blocks: int) -> npt.NDArray[np.uint8]:
    """Make an empty sketch for so many blocks, uint8 [a power of two]. O(num_blocks)."""
    return np.zeros(ROWS << max(4, (COLUMNS * num_blocks - 1).bit_length()) if num_blocks else 1, np.uint8)


@leaf
def _place_of(sketch: Any, row: int, key: int) -> int:
    """Return where a row of the sketch counts a key."""
    width = len(sketch) // ROWS
    mixed = (key ^ (key >> 29)) * (HASH_MULTIPLIER + 2 * row)
    return int(row * width + ((mixed >> 31) & (width - 1)))


@leaf
def estimate(sketch: Any, key: int) -> int:
    """Return how often a key was counted, or more."""
    least = MOST
    for row in range(ROWS):
        least = min(least, sketch[_place_of(sketch, row, key)])
    return int(least)


@leaf
def count_key(pool: Any, key: int) -> None:
    """Count a key. Amortised O(1)."""
    sketch = pool.sketch
    for row in range(ROWS):
        place = _place_of(sketch, row, key)
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
