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
from kvgpu.eviction.state.arrays import GHOST_LINES, LEARNED, NODES, NUMBERS, SKETCH
from kvgpu.eviction.state.ghosts import CAPACITY, Ghosts, counts_agree
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
"""What a policy has learned is at most so much: ranks and counts, which are far below. `tail-first` learns a list."""


def _lanes(eviction: "Eviction", first: int) -> Lanes:
    """Return the lists whose arrays begin at a place."""
    return Lanes(*(eviction.array(first + i) for i in range(len(Lanes._fields))))


def _ghosts(eviction: "Eviction") -> Ghosts:
    return Ghosts(*(eviction.array(GHOST_LINES + i) for i in range(len(Ghosts._fields))))


def _members(lanes: Lanes) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Return the members of all lists, one list after the other, and the list of each."""
    after, count = lanes.nodes["after"].tolist(), len(lanes.nodes) - len(lanes.counts)
    found: list[int] = []
    for end in range(count, len(after)):
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


def written(coordinator: KVCacheCoordinator, freed: FreedPool) -> Arrays:
    """Return the arrays of the section. O(blocks)."""
    eviction = freed.eviction
    assert eviction is not None
    members, lists = _members(_lanes(eviction, NODES))
    if eviction.expects:  # nobody waits after a restart: what was spared for those who do is the oldest
        order = np.argsort(np.where(lists == SPARED, RECENT - 0.5, lists), kind="stable")
        members, lists = members[order], np.where(lists == SPARED, RECENT, lists)[order]
    ghosts, nodes = _ghosts(eviction), eviction.array(NODES)[: coordinator.block_pool.num_gpu_blocks]
    return {
        "numbers": eviction.array(NUMBERS),
        "hits": nodes["hits"],
        "notes": nodes["notes"],
        "members": members,
        "lists": lists,
        "ghosts": ghosts.lines,
        "ghost_log": ghosts.log,
        "ghost_numbers": ghosts.words,
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
    if not unique(members):
        raise fields.error("a block is in two lists")
    if eviction.name == "tail-first" and not lists[lists <= CLASSES].max(initial=0) <= numbers[LEARNED] <= CLASSES:
        raise fields.error("the highest list is another one")
    given_ghosts = Ghosts(
        fields.take("ghosts", np.int32, ghosts.lines.shape),
        fields.take("ghost_log", np.int32, ghosts.log.shape),
        fields.numbers("ghost_numbers", np.int64, 0, MOST_LEARNED, len(ghosts.words)),
    )
    if given_ghosts.words[CAPACITY] != ghosts.words[CAPACITY] or not counts_agree(given_ghosts):
        raise fields.error("the keys of evicted blocks and their number disagree")
    words = pool.state.free.queue_words

    def change() -> None:
        words[POLICY] = 0  # if this is interrupted, the queue decides
        own[LEARNED] = numbers[LEARNED]
        lanes.nodes["hits"][:count], lanes.nodes["notes"][:count] = hits, notes
        eviction.array(SKETCH)[:] = sketch
        _link(lanes, members, lists)
        for array, words_given in zip(ghosts, given_ghosts, strict=True):
            array[:] = words_given
        words[POLICY] = eviction.address

    return change
