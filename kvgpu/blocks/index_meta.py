"""Metadata of the host's index: what compiled code that enters and erases blocks keeps from call to call."""

import numpy as np
import numpy.typing as npt

from kvgpu.compiled.jit import AHEAD, leaf
from kvgpu.errors import InvariantError
from kvgpu.layout import HASH_MULTIPLIER

IndexMeta = npt.NDArray[np.int64]

RING = 2 * AHEAD
"""Words in front, a ring: a loop that looks `AHEAD` rounds ahead keeps there what it found."""
RING_MASK = RING - 1

REGIONS = 64
REGION_SHIFT, CELL_MASK, NUM_LED, EAGER, NEXT_EAGER, BROKEN = range(RING, RING + 6)
"""
REGION_SHIFT: the id of a block, shifted right by so many bits, is its region.
CELL_MASK: cells of the filter, less one.
NUM_LED: blocks that are led.
EAGER, NEXT_EAGER: so many further entries get a word in the table at once (see `kvgpu.index.host.insert_runs`).
BROKEN: not 0 if records and table were seen to disagree.
"""

DEPARTURES = RING + 6
"""From here on, one word for each region: how often a block of it has stopped being the first under a key. While the
number stays the same, every block of the region that was first still is."""

CELLS = DEPARTURES + REGIONS
"""From here on, a filter of the keys in the table: cells of one byte, eight in a word, which count the keys that fall
into them. A count that once came to 255 stays."""

BLOCKS_PER_CELL = 4
FULL_CELL = 255
FOR_GOOD = 1 << 61
"""More entries than will ever be made. EAGER holds at least so many if no block is ever to be led."""


def make_meta(num_blocks: int) -> IndexMeta:
    """Make the metadata of a pool of so many blocks."""
    cells = max(8, 1 << (num_blocks // BLOCKS_PER_CELL).bit_length())
    meta = np.zeros(CELLS + cells // 8, np.int64)
    meta[REGION_SHIFT] = max(0, (num_blocks - 1).bit_length() - (REGIONS - 1).bit_length())
    meta[CELL_MASK] = cells - 1
    forget_keys(meta)
    return meta


def forget_keys(meta: IndexMeta) -> None:
    """Note that the table is empty, no block is led, and nothing is broken."""
    meta[NUM_LED] = meta[EAGER] = meta[BROKEN] = 0
    meta[NEXT_EAGER] = meta[CELL_MASK] + 1
    meta[CELLS:] = 0


@leaf
def refuse_broken(meta: IndexMeta) -> None:
    """Raise an InvariantError if records and table were seen to disagree, now or earlier; what Python calls ends with
    this.

    Helpers only set BROKEN: compiled code tests after each call of a function that may raise whether it has raised.
    """
    if meta[BROKEN] != 0:
        raise InvariantError(
            "the records of the blocks and the table of their hashes disagree; the next call makes the table anew, "
            "or forgets all cached blocks if it cannot"
        )


@leaf
def region_of(meta: IndexMeta, block_id: int) -> int:
    """The region of a block, below REGIONS."""
    return int(block_id >> meta[REGION_SHIFT])


@leaf
def cell_of(meta: IndexMeta, k0: int, group: int) -> int:
    """Return the cell of a key: hashes are spread evenly, so their first word is enough."""
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
