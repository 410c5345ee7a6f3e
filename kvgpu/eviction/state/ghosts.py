"""Keys of blocks that were evicted, in the order in which they were: what a policy remembers of them.

A key is a word of 64 bits, since a wrong answer costs no more than a bad guess. There are two lists, each first in,
first out; a table with chains finds a key in O(1).
"""

from typing import Any, NamedTuple

import numpy as np

from kvgpu.compiled.jit import leaf
from kvgpu.eviction.state.lanes import fill, first_of, make_lanes, put_last

FREE, FIRST_LIST, SECOND_LIST, NUM_LISTS = range(4)
NONE = -1


class Ghosts(NamedTuple):
    """Arrays of a memory of keys."""

    keys: Any
    """int64 [capacity]."""
    chains: Any
    """int32 [capacity], the next place with the same hash, or NONE."""
    heads: Any
    """int32 [a power of two], the first place of each chain, or NONE."""
    lanes: Any
    """`Lanes` of the places: those that are free, and the two lists."""


def make_ghosts(capacity: int) -> Ghosts:
    """Make an empty memory of so many keys. O(capacity)."""
    lanes = make_lanes(capacity, NUM_LISTS)
    fill(lanes, FREE)
    heads = np.full(1 << max(1, capacity - 1).bit_length(), NONE, np.int32)
    return Ghosts(np.zeros(capacity, np.int64), np.full(capacity, NONE, np.int32), heads, lanes)


@leaf
def _chain_of(ghosts: Any, key: int) -> Any:
    """Return the chain of a key, which is random enough already: it is a part of a hash."""
    return np.uint64(key & (len(ghosts.heads) - 1))


@leaf
def find_ghost(ghosts: Any, key: int) -> int:
    """Return the place of a key, or NONE. Expected O(1)."""
    place = ghosts.heads[_chain_of(ghosts, key)]
    while place != NONE and ghosts.keys[place] != key:
        place = ghosts.chains[place]
    return int(place)


@leaf
def forget_ghost(ghosts: Any, place: int) -> None:
    """Forget the key at a place. Expected O(1)."""
    chain = _chain_of(ghosts, ghosts.keys[place])
    before = ghosts.heads[chain]
    if before == place:
        ghosts.heads[chain] = ghosts.chains[place]
    else:
        while ghosts.chains[before] != place:
            before = ghosts.chains[before]
        ghosts.chains[before] = ghosts.chains[place]
    put_last(ghosts.lanes, FREE, place)


@leaf
def forget_oldest(ghosts: Any, which: int) -> None:
    """Forget the oldest key of a list, which is not empty. Expected O(1)."""
    forget_ghost(ghosts, first_of(ghosts.lanes, which))


@leaf
def remember_ghost(ghosts: Any, which: int, key: int) -> None:
    """Put a key at the end of a list; without a place for it the oldest of the list is forgotten, or of the other."""
    known = find_ghost(ghosts, key)
    if known != NONE:
        forget_ghost(ghosts, known)
    if ghosts.lanes.counts[FREE] == 0:
        other = FIRST_LIST + SECOND_LIST - which
        forget_oldest(ghosts, which if ghosts.lanes.counts[which] > 0 else other)
    place = first_of(ghosts.lanes, FREE)
    chain = _chain_of(ghosts, key)
    ghosts.keys[place] = key
    ghosts.chains[place] = ghosts.heads[chain]
    ghosts.heads[chain] = place
    put_last(ghosts.lanes, which, place)


@leaf
def list_of(ghosts: Any, place: int) -> int:
    """Return the list that a key is in."""
    return int(ghosts.lanes.lane_of[place])
