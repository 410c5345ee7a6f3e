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
from kvgpu.eviction.state.members import PLAIN, first_free, is_new, key_of

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
    """Return where the line of a key begins. A key is random enough already: it is a part of a hash."""
    return int((key * CACHE_LINE) & (len(sketch) - CACHE_LINE))


@leaf
def _place_of(line: int, row: int, key: int) -> Any:
    """Return where a row of a line counts a key."""
    return np.uint64(line + row * COLUMNS + ((key >> (48 + 4 * row)) & (COLUMNS - 1)))


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
def count_key(pool: Any, key: int) -> int:
    """Count a key, and return what `estimate` returns then. Amortised O(1)."""
    sketch = pool.sketch
    least, line = MOST, _line_of(sketch, key)
    for row in range(ROWS):
        place = _place_of(line, row, key)
        count = min(sketch[place] + 1, MOST)
        sketch[place] = count
        least = min(least, count)
    pool.numbers[LEARNED] += 1
    if pool.numbers[LEARNED] >= SAMPLE * pool.numbers[NUM_BLOCKS]:
        for place in range(len(sketch)):
            sketch[place] >>= 1
        pool.numbers[LEARNED] //= 2
        least >>= 1
    return int(least)


@leaf
def enter_tinylfu(pool: Any, block_id: int) -> None:
    """Place a cached block that has become free."""
    lane = ADMITTED
    if is_new(pool, block_id):
        worth = count_key(pool, key_of(pool, block_id))
        if first_free(pool, PLAIN) == NO_BLOCK:
            victim = first_free(pool, ADMITTED)
            if victim != NO_BLOCK and worth <= estimate(pool.sketch, key_of(pool, victim)):
                lane = REJECTED
    put_last(pool.lanes, lane, block_id)


@leaf
def choose_tinylfu(pool: Any) -> int:
    """Return the block to evict next, or NO_BLOCK."""
    block_id = first_free(pool, REJECTED)
    return first_free(pool, ADMITTED) if block_id == NO_BLOCK else block_id
