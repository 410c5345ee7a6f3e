"""Metadata of the host's index: what compiled code that enters and erases blocks remembers between calls."""

import numpy as np
import numpy.typing as npt

from kvgpu.compiled.jit import AHEAD, leaf
from kvgpu.errors import InvariantError
from kvgpu.layout import HASH_MULTIPLIER

IndexMeta = npt.NDArray[np.int64]

RING = 2 * AHEAD
"""Number of leading words, which form a ring: a loop that looks `AHEAD` rounds ahead stores there what it found."""
RING_MASK = RING - 1

REGIONS = 64
REGION_SHIFT, CELL_MASK, NUM_LED, EAGER, NEXT_EAGER, BROKEN = range(RING, RING + 6)
"""
REGION_SHIFT: the region of a block is its id, shifted right by this number of bits.
CELL_MASK: number of cells of the filter, minus one.
NUM_LED: number of led blocks.
EAGER, NEXT_EAGER: how many further entries get a word in the table at once (see `kvgpu.index.host.insert_runs`).
BROKEN: not 0 if records and table were found to disagree.
"""

DEPARTURES = RING + 6
"""From here on, one word for each region: how often a block of the region has stopped being the first under a key.
While the number stays the same, every block of the region that was first is still first."""

CELLS = DEPARTURES + REGIONS
"""From here on, a filter of the keys in the table: cells of one byte, eight in a word, which count the keys that fall
into them. A count that has reached 255 never changes again."""

BLOCKS_PER_CELL = 4
FULL_CELL = 255
FOR_GOOD = 1 << 61
"""More entries than will ever be made. EAGER holds at least this number if no block is ever to be led."""


def make_meta(num_blocks: int) -> IndexMeta:
    """Make the metadata of a pool of `num_blocks` blocks."""
    cells = max(8, 1 << (num_blocks // BLOCKS_PER_CELL).bit_length())
    meta = np.zeros(CELLS + cells // 8, np.int64)
    meta[REGION_SHIFT] = max(0, (num_blocks - 1).bit_length() - (REGIONS - 1).bit_length())
    meta[CELL_MASK] = cells - 1
    forget_keys(meta)
    return meta


def forget_keys(meta: IndexMeta) -> None:
    """Record that the table is empty, no block is led, and nothing is broken."""
    meta[NUM_LED] = meta[EAGER] = meta[BROKEN] = 0
    meta[NEXT_EAGER] = meta[CELL_MASK] + 1
    meta[CELLS:] = 0


@leaf
def refuse_broken(meta: IndexMeta) -> None:
    """Raise an InvariantError if records and table were found to disagree, now or earlier.

    Every function that Python calls ends with this check. Helpers only set BROKEN, because compiled code tests after
    each call of a function that may raise whether it has raised.
    """
    if meta[BROKEN] != 0:
        raise InvariantError(
            "the records of the blocks and the table of their hashes disagree; the next call makes the table anew, "
            "or forgets all cached blocks if it cannot"
        )


@leaf
def is_settled(meta: IndexMeta) -> bool:
    """Return whether no block is led, now or later."""
    return bool(meta[EAGER] >= FOR_GOOD and meta[NUM_LED] == 0)


@leaf
def region_of(meta: IndexMeta, block_id: int) -> int:
    """Return the region of a block, a number below REGIONS."""
    return int(block_id >> meta[REGION_SHIFT])


@leaf
def cell_of(meta: IndexMeta, k0: int, group: int) -> int:
    """Return the cell of a key. Hashes are evenly distributed, so their first word is enough."""
    return int((((k0 ^ group) * HASH_MULTIPLIER) >> 32) & meta[CELL_MASK])


@leaf
def may_hold(meta: IndexMeta, k0: int, group: int) -> bool:
    """Return False if the table holds no counted key with this first word and group."""
    cell = cell_of(meta, k0, group)
    # Unsigned, so that compiled code does not test whether the index counts from the end.
    return bool((meta[np.uint64(CELLS + (cell >> 3))] >> ((cell & 7) << 3)) & FULL_CELL != 0)


@leaf
def count_key(meta: IndexMeta, k0: int, group: int, change: int) -> None:
    """Count a key that entered the table (1) or left it (-1)."""
    cell = cell_of(meta, k0, group)
    place, shift = CELLS + (cell >> 3), (cell & 7) << 3
    if (meta[place] >> shift) & FULL_CELL != FULL_CELL:
        meta[place] += change << shift
