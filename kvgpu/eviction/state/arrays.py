"""`Evictable`: what a policy knows of the blocks of a pool, behind one address."""

from typing import Any, NamedTuple

import numpy as np

from kvgpu.blocks.free_order import USE, FreeQueue
from kvgpu.blocks.record import BLOCK_RECORD
from kvgpu.compiled.handle import IDS, WORDS, array_at, handle_at, lines_at
from kvgpu.compiled.jit import inline
from kvgpu.eviction.state.expected import Expected
from kvgpu.eviction.state.ghosts import LINE, Ghosts
from kvgpu.eviction.state.hints import Hints
from kvgpu.eviction.state.lanes import NODE, Lanes
from kvgpu.eviction.state.lifetimes import Lifetimes

KIND, NUM_BLOCKS, GOAL, LEARNED, NUM_NUMBERS = range(5)
"""Numbers of a policy. KIND: which it is. NUM_BLOCKS: those of the pool. GOAL: of a list, in blocks.
LEARNED: what the policy has learned, see there."""

(
    USES,
    ORDER,
    QUEUE_WORDS,
    RECORDS,
    NUMBERS,
    NODES,
    _COUNTS,
    GHOST_LINES,
    GHOST_LOG,
    GHOST_NUMBERS,
    SKETCH,
    EXPECTED_KEYS,
    EXPECTED_STAMPS,
    EXPECTED_WORDS,
    SHARES,
    HINT_NUMBERS,
    DEADLINES,
    HEAP,
    HEAP_PLACES,
    LIFETIME_WORDS,
    NUM_ARRAYS,
) = range(21)
"""Arrays of the handle, in order, in front of the words that name code. NODES and the next one are `Lanes`."""

_USE, _RECORD = np.empty(0, USE), np.empty(0, BLOCK_RECORD)
_BYTES, _NODE = np.empty(0, np.uint8), np.empty(0, NODE)


class Evictable(NamedTuple):
    """All that a policy reads and writes."""

    free: Any
    """`FreeQueue`."""
    records: Any
    """BLOCK_RECORD [rows]."""
    numbers: Any
    """int64 [NUM_NUMBERS]."""
    lanes: Any
    """`Lanes` of the blocks."""
    ghosts: Any
    """`Ghosts`; for one key where the policy has none."""
    sketch: Any
    """uint8 [a power of two], counts of a sketch; one line where the policy has none."""
    expected: Any
    """`Expected`; for one key where the policy does not look at what waits."""
    hints: Any
    """`Hints`; for one block where requests give none."""


@inline
def _lanes_at(words: Any, first: int) -> Any:
    """Return the `Lanes` whose arrays begin at a place of a handle."""
    return Lanes(array_at(words, 2 * first, _NODE), array_at(words, 2 * (first + 1), WORDS))


@inline
def evictable_at(address: int) -> Any:
    """Return what a policy reads and writes, from the address behind its arrays."""
    words = handle_at(address - 16 * NUM_ARRAYS, 2 * NUM_ARRAYS)
    uses, order = array_at(words, 2 * USES, _USE), array_at(words, 2 * ORDER, IDS)
    return Evictable(
        FreeQueue(uses, order, array_at(words, 2 * QUEUE_WORDS, WORDS)),
        array_at(words, 2 * RECORDS, _RECORD),
        array_at(words, 2 * NUMBERS, WORDS),
        _lanes_at(words, NODES),
        Ghosts(
            lines_at(words, 2 * GHOST_LINES, IDS, LINE),
            array_at(words, 2 * GHOST_LOG, IDS),
            array_at(words, 2 * GHOST_NUMBERS, WORDS),
        ),
        array_at(words, 2 * SKETCH, _BYTES),
        Expected(
            array_at(words, 2 * EXPECTED_KEYS, WORDS),
            array_at(words, 2 * EXPECTED_STAMPS, WORDS),
            array_at(words, 2 * EXPECTED_WORDS, WORDS),
        ),
        Hints(
            array_at(words, 2 * SHARES, WORDS),
            array_at(words, 2 * HINT_NUMBERS, WORDS),
            Lifetimes(
                array_at(words, 2 * DEADLINES, WORDS),
                array_at(words, 2 * HEAP, IDS),
                array_at(words, 2 * HEAP_PLACES, IDS),
                array_at(words, 2 * LIFETIME_WORDS, WORDS),
            ),
        ),
    )
