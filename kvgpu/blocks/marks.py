"""Marks of a pool: what compiled code that enters and erases blocks keeps from call to call."""

import numpy as np
import numpy.typing as npt

from kvgpu.compiled.jit import AHEAD, leaf
from kvgpu.errors import InvariantError
from kvgpu.layout import HASH_MULTIPLIER

Marks = npt.NDArray[np.int64]

RING = 2 * AHEAD
RING_MASK = RING - 1
REGIONS = 64
REGION_SHIFT, CELL_MASK, NUM_LED, EAGER, NEXT_EAGER, BROKEN = range(RING, RING + 6)
LEFT = RING + 6
CELLS = LEFT + REGIONS
"""Marks are int64: first the ring in which a loop that looks `AHEAD` rounds ahead keeps what it found. REGION_SHIFT:
by how many bits to shift the id of a block to have its region. LEFT on: how often a block of each region has stopped
being the first under a key. A block that was first is still, if nothing has left its region. NUM_LED, EAGER,
NEXT_EAGER: see `kvgpu.index.host.led_runs`. BROKEN: not 0 if records and table were seen to disagree. CELLS on: a
filter of the keys in the table, eight counts of a byte in a word, so many as CELL_MASK and one; a count that once
came to 255 stays."""

BLOCKS_PER_CELL = 4
FULL_CELL = 255
FOR_GOOD = 1 << 61
"""More entries than will ever be made: what EAGER holds at least, when no block is ever to be led."""


def make_marks(num_blocks: int) -> Marks:
    """Marks of a pool of so many blocks."""
    cells = max(8, 1 << (num_blocks // BLOCKS_PER_CELL).bit_length())
    marks = np.zeros(CELLS + cells // 8, np.int64)
    marks[REGION_SHIFT] = max(0, (num_blocks - 1).bit_length() - (REGIONS - 1).bit_length())
    marks[CELL_MASK] = cells - 1
    forget_keys(marks)
    return marks


def forget_keys(marks: Marks) -> None:
    """Nothing is in the table, nothing is led, and nothing is broken."""
    marks[NUM_LED] = marks[EAGER] = marks[BROKEN] = 0
    marks[NEXT_EAGER] = marks[CELL_MASK] + 1
    marks[CELLS:] = 0


@leaf
def refuse_broken(marks: Marks) -> None:
    """Raise if records and table were seen to disagree, now or earlier: for the end of what Python calls.

    What compiled code calls only notes it, since a function that may raise is asked after each call whether it has.
    """
    if marks[BROKEN] != 0:
        raise InvariantError(
            "the records of the blocks and the table of their hashes disagree; the next call makes the table anew, "
            "or forgets all cached blocks if it cannot"
        )


@leaf
def region_of(marks: Marks, row: int) -> int:
    """The region of a block, below REGIONS."""
    return int(row >> marks[REGION_SHIFT])


@leaf
def cell_of(marks: Marks, k0: int, group: int) -> int:
    """The cell of a key: hashes are spread evenly, so that their first word says enough."""
    return int((((k0 ^ group) * HASH_MULTIPLIER) >> 32) & marks[CELL_MASK])


@leaf
def may_hold(marks: Marks, k0: int, group: int) -> bool:
    """False if the table holds no key of this first word that was counted."""
    cell = cell_of(marks, k0, group)
    # Unsigned: compiled code does not ask whether an index counts from the end.
    return bool((marks[np.uint64(CELLS + (cell >> 3))] >> ((cell & 7) << 3)) & FULL_CELL != 0)


@leaf
def count_key(marks: Marks, k0: int, group: int, change: int) -> None:
    """Count a key that came to the table (1) or left it (-1)."""
    cell = cell_of(marks, k0, group)
    place, shift = CELLS + (cell >> 3), (cell & 7) << 3
    if (marks[place] >> shift) & FULL_CELL != FULL_CELL:
        marks[place] += change << shift
