"""Deadlines of blocks: a heap, so that those whose time is over are found without looking at others."""

from typing import Any, NamedTuple

import numpy as np

from kvgpu.compiled.jit import leaf

NOW, COUNT, LIFETIME_WORDS = range(3)
"""Words: the time, and how many blocks have a deadline."""
UNDATED = -1
NEVER = 0
"""Deadline of a block that has none."""


class Lifetimes(NamedTuple):
    """Arrays of a binary heap with the earliest deadline on top."""

    deadlines: Any
    """int64 [blocks], in nanoseconds, or NEVER."""
    heap: Any
    """int32 [blocks], block ids."""
    places: Any
    """int32 [blocks], place of each block in the heap, or UNDATED."""
    words: Any
    """int64 [LIFETIME_WORDS]."""


def make_lifetimes(num_blocks: int) -> Lifetimes:
    """Make what knows no deadline. O(num_blocks)."""
    count = num_blocks
    return Lifetimes(
        np.full(count, NEVER, np.int64),
        np.zeros(count, np.int32),
        np.full(count, UNDATED, np.int32),
        np.zeros(LIFETIME_WORDS, np.int64),
    )


@leaf
def _set(life: Any, place: int, block_id: int) -> None:
    life.heap[place] = block_id
    life.places[block_id] = place


@leaf
def _rise(life: Any, place: int, block_id: int) -> None:
    """Move a block from a place towards the top, as far as it belongs."""
    while place > 0:
        above = (place - 1) // 2
        other = life.heap[above]
        if life.deadlines[other] <= life.deadlines[block_id]:
            break
        _set(life, place, other)
        place = above
    _set(life, place, block_id)


@leaf
def _sink(life: Any, place: int, block_id: int) -> None:
    """Move a block from a place downwards, as far as it belongs."""
    count = life.words[COUNT]
    while 2 * place + 1 < count:
        below = 2 * place + 1
        if below + 1 < count and life.deadlines[life.heap[below + 1]] < life.deadlines[life.heap[below]]:
            below += 1
        other = life.heap[below]
        if life.deadlines[other] >= life.deadlines[block_id]:
            break
        _set(life, place, other)
        place = below
    _set(life, place, block_id)


@leaf
def forget_deadline(life: Any, block_id: int) -> None:
    """Take a block's deadline away, if it has one. O(log of the blocks that have one)."""
    place = life.places[block_id]
    if place == UNDATED:
        return
    life.places[block_id] = UNDATED
    life.deadlines[block_id] = NEVER
    life.words[COUNT] -= 1
    last = life.heap[life.words[COUNT]]
    if last != block_id:
        _sink(life, place, last)
        _rise(life, life.places[last], last)


@leaf
def set_deadline(life: Any, block_id: int, deadline: int) -> None:
    """Give a block a deadline in the place of the one that it has, or NEVER. O(log of the blocks that have one)."""
    if life.deadlines[block_id] == deadline:
        return
    forget_deadline(life, block_id)
    if deadline != NEVER:
        life.deadlines[block_id] = deadline
        life.words[COUNT] += 1
        _rise(life, life.words[COUNT] - 1, block_id)


@leaf
def first_overdue(life: Any, nobody: int) -> int:
    """Return a block whose deadline is over, or `nobody`. O(1)."""
    if life.words[COUNT] == 0 or life.deadlines[life.heap[0]] > life.words[NOW]:
        return nobody
    return int(life.heap[0])
