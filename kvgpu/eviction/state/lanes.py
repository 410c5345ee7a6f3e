"""Lists of free blocks: a block is in one of a few lists at a time, and enters or leaves it in O(1)."""

from typing import Any, NamedTuple

import numpy as np

from kvgpu.compiled.jit import leaf

BEFORE, AFTER = 0, 1
NOWHERE = -1
NO_BLOCK = -1


class Lanes(NamedTuple):
    """Arrays of all lists."""

    links: Any
    """int32 [blocks + lanes, 2], the neighbours BEFORE and AFTER; after those of blocks come the ends of the lists."""
    lane_of: Any
    """int16 [blocks], the list of each block, or NOWHERE."""
    counts: Any
    """int64 [lanes], members."""


def make_lanes(num_blocks: int, num_lanes: int) -> Lanes:
    """Make empty lists. O(blocks + lanes)."""
    links = np.zeros((num_blocks + num_lanes, 2), np.int32)
    links[num_blocks:] = np.arange(num_blocks, num_blocks + num_lanes)[:, None]
    return Lanes(links, np.full(num_blocks, NOWHERE, np.int16), np.zeros(num_lanes, np.int64))


def fill(lanes: Lanes, lane: int) -> None:
    """Put all blocks, which are in no list, into one. O(blocks)."""
    count = len(lanes.lane_of)
    end = count + lane
    order = np.array([end, *range(count), end], np.int32)
    lanes.links[:count, BEFORE], lanes.links[:count, AFTER] = order[:-2], order[2:]
    lanes.links[end, BEFORE], lanes.links[end, AFTER] = order[-2], order[1]
    lanes.lane_of[:] = lane
    lanes.counts[lane] = count


@leaf
def end_of(lanes: Any, lane: int) -> int:
    """Return what stands for both ends of a list."""
    return int(len(lanes.lane_of) + lane)


@leaf
def first_of(lanes: Any, lane: int) -> int:
    """Return the first block of a list, or NO_BLOCK."""
    end = end_of(lanes, lane)
    block_id = lanes.links[end, AFTER]
    return int(block_id) if block_id != end else NO_BLOCK


@leaf
def last_of(lanes: Any, lane: int) -> int:
    """Return the last block of a list, or NO_BLOCK."""
    end = end_of(lanes, lane)
    block_id = lanes.links[end, BEFORE]
    return int(block_id) if block_id != end else NO_BLOCK


@leaf
def drop(lanes: Any, block_id: int) -> None:
    """Take a block out of its list, if it is in one."""
    lane = lanes.lane_of[block_id]
    if lane == NOWHERE:
        return
    before, after = lanes.links[block_id, BEFORE], lanes.links[block_id, AFTER]
    lanes.links[before, AFTER] = after
    lanes.links[after, BEFORE] = before
    lanes.lane_of[block_id] = NOWHERE
    lanes.counts[lane] -= 1


@leaf
def _put(lanes: Any, lane: int, block_id: int, before: int, after: int) -> None:
    lanes.links[block_id, BEFORE], lanes.links[block_id, AFTER] = before, after
    lanes.links[before, AFTER] = block_id
    lanes.links[after, BEFORE] = block_id
    lanes.lane_of[block_id] = lane
    lanes.counts[lane] += 1


@leaf
def put_last(lanes: Any, lane: int, block_id: int) -> None:
    """Put a block at the end of a list, whichever list it was in."""
    drop(lanes, block_id)
    end = end_of(lanes, lane)
    _put(lanes, lane, block_id, lanes.links[end, BEFORE], end)


@leaf
def put_first(lanes: Any, lane: int, block_id: int) -> None:
    """Put a block at the beginning of a list, whichever list it was in."""
    drop(lanes, block_id)
    end = end_of(lanes, lane)
    _put(lanes, lane, block_id, end, lanes.links[end, AFTER])
