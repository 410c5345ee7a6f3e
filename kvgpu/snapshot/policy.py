"""Section `policy` of a snapshot: what a policy of eviction knows of blocks and keys."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from kvgpu.blocks.free_order import POLICY
from kvgpu.coordinators.base import KVCacheCoordinator
from kvgpu.eviction.policies.queue_aware import RECENT, SPARED
from kvgpu.eviction.policies.s3fifo import MAIN
from kvgpu.eviction.policies.tail_first import CLASSES
from kvgpu.eviction.policies.tinylfu import MOST
from kvgpu.eviction.state.arrays import GHOST_KEYS, GHOST_NODES, LEARNED, NODES, NUMBERS, SKETCH
from kvgpu.eviction.state.ghosts import FREE, NONE, NUM_LISTS, Ghosts
from kvgpu.eviction.state.lanes import MOST_HITS, NOWHERE, Lanes, fill
from kvgpu.eviction.state.ranks import RANKS
from kvgpu.snapshot.archive import Arrays
from kvgpu.snapshot.fields import Fields, unique
from kvgpu.snapshot.freed_pool import FreedPool

if TYPE_CHECKING:
    from kvgpu.eviction.policy import Eviction

LARGEST_NOTE = {
    "slru": 1,
    "lfu": 0,
    "s3fifo": MAIN,
    "arc": 1,
    "tinylfu": 1,
    "tail-first": CLASSES - 1,
    "cost": RANKS - 1,
    "queue-aware": 0,
    "lru": 0,
}
"""By policy, what it notes of a block, at most: the number of a list follows from it. The others note nothing."""

MOST_LEARNED = 1 << 60
"""What a policy has learned is at most so much: ranks and counts, which are far below."""


def _lanes(eviction: "Eviction", first: int) -> Lanes:
    """Return the lists whose arrays begin at a place."""
    return Lanes(*(eviction.array(first + i) for i in range(len(Lanes._fields))))


def _ghosts(eviction: "Eviction") -> Ghosts:
    keys, chains, heads = (eviction.array(GHOST_KEYS + i) for i in range(3))
    return Ghosts(keys, chains, heads, _lanes(eviction, GHOST_NODES))


def _members(lanes: Lanes, first: int = 0) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Return the members of all lists from a number on, one list after the other, and the list of each."""
    after, count = lanes.nodes["after"].tolist(), len(lanes.nodes) - len(lanes.counts)
    found: list[int] = []
    for end in range(count + first, len(after)):
        member = after[end]
        while member != end:
            found.append(member)
            member = after[member]
    members = np.array(found, np.int32)
    return members, lanes.nodes["lane"][members].astype(np.int32)


def _link(lanes: Lanes, members: npt.NDArray[np.int32], lists: npt.NDArray[np.int32]) -> None:
    """Make lists hold these members and nothing else, in this order."""
    lanes.nodes["lane"][: len(lanes.nodes) - len(lanes.counts)] = NOWHERE
    for lane in range(len(lanes.counts)):
        fill(lanes, lane, members[lists == lane])


def _remember(ghosts: Ghosts, keys: npt.NDArray[np.int64], lists: npt.NDArray[np.int32]) -> None:
    """Make a memory of keys hold these and nothing else, in this order."""
    count = len(keys)
    places = np.arange(len(ghosts.keys), dtype=np.int32)
    ghosts.keys[:count] = keys
    ghosts.chains[:], ghosts.heads[:] = NONE, NONE
    buckets = keys & (len(ghosts.heads) - 1)
    order = np.argsort(buckets, kind="stable").astype(np.int32)
    same = buckets[order][1:] == buckets[order][:-1]
    ghosts.chains[order[:-1][same]] = order[1:][same]
    begins = np.concatenate([[True], ~same]) if count else np.zeros(0, np.bool_)
    ghosts.heads[buckets[order[begins]]] = order[begins]
    _link(ghosts.lanes, places, np.concatenate([lists, np.full(len(places) - count, FREE, np.int32)]))


def written(coordinator: KVCacheCoordinator, freed: FreedPool) -> Arrays:
    """Return the arrays of the section. O(blocks)."""
    eviction = freed.eviction
    assert eviction is not None
    members, lists = _members(_lanes(eviction, NODES))
    if eviction.expects:  # nobody waits after a restart: what was spared for those who do is the oldest
        order = np.argsort(np.where(lists == SPARED, RECENT - 0.5, lists), kind="stable")
        members, lists = members[order], np.where(lists == SPARED, RECENT, lists)[order]
    ghosts, nodes = _ghosts(eviction), eviction.array(NODES)[: coordinator.block_pool.num_gpu_blocks]
    places, ghost_lists = _members(ghosts.lanes, FREE + 1)
    return {
        "numbers": eviction.array(NUMBERS),
        "hits": nodes["hits"],
        "notes": nodes["notes"],
        "members": members,
        "lists": lists,
        "ghosts": ghosts.keys[places],
        "ghost_lists": ghost_lists,
        "sketch": eviction.array(SKETCH),
    }


def checked(fields: Fields, coordinator: KVCacheCoordinator, now: int) -> Callable[[], None]:
    """Return what makes the policy of an unused pool know the same.

    Raises:
        SnapshotError: A policy cannot know this: compiled code would follow it out of its arrays.

    O(blocks log blocks).
    """
    pool, eviction = coordinator.block_pool, coordinator.block_pool.eviction
    assert eviction is not None
    own: Any = eviction.array(NUMBERS)
    numbers = fields.numbers("numbers", np.int64, 0, MOST_LEARNED, len(own))
    given = np.delete(np.arange(len(own)), LEARNED)
    if not np.array_equal(numbers[given], own[given]):
        raise fields.error("the numbers are those of another policy")
    count = pool.num_gpu_blocks
    hits = fields.numbers("hits", np.uint8, 0, MOST_HITS, count)
    notes = fields.numbers("notes", np.uint8, 0, LARGEST_NOTE.get(eviction.name, 0), count)
    sketch = fields.numbers("sketch", np.uint8, 0, MOST, len(eviction.array(SKETCH)))
    lanes, ghosts = _lanes(eviction, NODES), _ghosts(eviction)
    members = fields.numbers("members", np.int32, 0, count - 1)
    lists = fields.numbers("lists", np.int32, 0, len(lanes.counts) - 1, len(members))
    keys = fields.take("ghosts", np.int64)
    ghost_lists = fields.numbers("ghost_lists", np.int32, FREE + 1, NUM_LISTS - 1, len(keys))
    if not unique(members) or not unique(keys) or len(keys) > len(ghosts.keys):
        raise fields.error("a block or a key is in two lists, or there are too many keys")
    words = pool.state.free.queue_words

    def change() -> None:
        words[POLICY] = 0  # if this is interrupted, the queue decides
        own[LEARNED] = numbers[LEARNED]
        lanes.nodes["hits"][:count], lanes.nodes["notes"][:count] = hits, notes
        eviction.array(SKETCH)[:] = sketch
        _link(lanes, members, lists)
        _remember(ghosts, keys, ghost_lists)
        words[POLICY] = eviction.address

    return change
