"""Marks of a pool: what compiled code that enters and erases blocks keeps from call to call."""

import numpy as np
import numpy.typing as npt

from kvgpu._jit import AHEAD, leaf

RING = 2 * AHEAD
RING_MASK = RING - 1
REGIONS = 64
REGION_SHIFT = RING
LEFT = RING + 1
MARK_WORDS = LEFT + REGIONS
"""Marks are int64 [MARK_WORDS]: the ring in which a loop that looks `AHEAD` rounds ahead keeps what it found; by how
many bits to shift the id of a block to have its region; and, from LEFT on, how often a block of each region has
stopped being the first under a key. A block that was first is still, if nothing has left its region."""


def make_marks(num_blocks: int) -> npt.NDArray[np.int64]:
    """Marks of a pool of so many blocks."""
    marks = np.zeros(MARK_WORDS, np.int64)
    marks[REGION_SHIFT] = max(0, (num_blocks - 1).bit_length() - (REGIONS - 1).bit_length())
    return marks


@leaf
def region_of(marks: npt.NDArray[np.int64], row: int) -> int:
    """The region of a block, below REGIONS."""
    return int(row >> marks[REGION_SHIFT])
