"""Lists of free blocks: a block is in one of a few lists at a time, and enters or leaves it in O(1)."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from kvgpu.compiled.jit import leaf

NOWHERE = -1
NO_BLOCK = -1

NODE = np.dtype(
    [
        ("before", "<i4"),
        ("after", "<i4"),
        ("lane", "<i2"),
        ("tenant", "<i2"),
        ("hits", "u1"),
        ("notes", "u1"),
        ("level", "u1"),
        ("expired", "u1"),
    ]
)
"""What is known of a block: 16 bytes, since a block costs about as much as the cache lines that it takes.

before, after: its neighbours in a list. lane: the list, or NOWHERE. hits: how often it was hit since it was cached, at
most `MOST_HITS`. notes: what the policy notes of it; 0 for a block that has not been free since it was cached.
level, tenant, expired: see `kvgpu.eviction.state.hints`.
"""
MOST_HITS = 127


class Lanes(NamedTuple):
    """Arrays of all lists."""

    nodes: Any
    """NODE [blocks + lanes]; after those of blocks come the ends of the lists."""
    counts: Any
    """int64 [lanes], members."""


def make_lanes(num_blocks: int, num_lanes: int) -> Lanes:
    """Make empty lists. O(blocks + lanes)."""
    nodes = np.zeros(num_blocks + num_lanes, NODE)
    nodes["lane"] = NOWHERE
    nodes["before"][num_blocks:] = nodes["after"][num_blocks:] = np.arange(num_blocks, num_blocks + num_lanes)
    return Lanes(nodes, np.zeros(num_lanes, np.int64))


def fill(lanes: Lanes, lane: int, members: npt.NDArray[np.int32]) -> None:
    """Make a list hold these members, which are in none, in this order, and nothing else. O(members)."""
    nodes = lanes.nodes
    end = len(nodes) - len(lanes.counts) + lane
    order = np.concatenate([[end], members, [end]]).astype(np.int32)
    nodes["before"][members], nodes["after"][members] = order[:-2], order[2:]
    nodes["before"][end], nodes["after"][end] = order[-2], order[1]
    nodes["lane"][members] = lane
    lanes.counts[lane] = len(members)


@leaf
def num_nodes(lanes: Any) -> int:
    """Return how many blocks, or other things, may be in the lists."""
    return int(len(lanes.nodes) - len(lanes.counts))


@leaf
def node_of(lanes: Any, block_id: int) -> Any:
    """Return the node of a block. Unsigned: compiled code then does not test whether an index counts from the end."""
    return lanes.nodes[np.uint64(block_id)]


@leaf
def end_of(lanes: Any, lane: int) -> int:
    """Return what stands for both ends of a list."""
    return int(num_nodes(lanes) + lane)


@leaf
def first_of(lanes: Any, lane: int) -> int:
    """Return the first block of a list, or NO_BLOCK."""
    end = end_of(lanes, lane)
    block_id = node_of(lanes, end).after
    return int(block_id) if block_id != end else NO_BLOCK


@leaf
def last_of(lanes: Any, lane: int) -> int:
    """Return the last block of a list, or NO_BLOCK."""
    end = end_of(lanes, lane)
    block_id = node_of(lanes, end).before
    return int(block_id) if block_id != end else NO_BLOCK


@leaf
def drop(lanes: Any, block_id: int) -> None:
    """Take a block out of its list, if it is in one."""
    node = node_of(lanes, block_id)
    lane = node.lane
    if lane == NOWHERE:
        return
    before, after = node.before, node.after
    node_of(lanes, before).after = after
    node_of(lanes, after).before = before
    node.lane = NOWHERE
    lanes.counts[np.uint64(lane)] -= 1


@leaf
def _put(lanes: Any, lane: int, block_id: int, before: int, after: int) -> None:
    node = node_of(lanes, block_id)
    node.before, node.after, node.lane = before, after, lane
    node_of(lanes, before).after = block_id
    node_of(lanes, after).before = block_id
    lanes.counts[np.uint64(lane)] += 1


@leaf
def put_last(lanes: Any, lane: int, block_id: int) -> None:
    """Put a block at the end of a list, whichever list it was in."""
    drop(lanes, block_id)
    end = end_of(lanes, lane)
    _put(lanes, lane, block_id, node_of(lanes, end).before, end)


@leaf
def put_first(lanes: Any, lane: int, block_id: int) -> None:
    """Put a block at the beginning of a list, whichever list it was in."""
    drop(lanes, block_id)
    end = end_of(lanes, lane)
    _put(lanes, lane, block_id, end, node_of(lanes, end).after)
