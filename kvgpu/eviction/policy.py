"""`Eviction`: a policy for the blocks of one pool."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from kvgpu.blocks.eviction_calls import CACHED, FREED, NUM_EVENTS, TAKEN, TOUCHED
from kvgpu.blocks.free_order import HEAD, OUTSIDE, POLICY, TAIL
from kvgpu.blocks.state import BlockState
from kvgpu.compiled.addresses import address_of_code
from kvgpu.compiled.handle import Handle
from kvgpu.eviction import events
from kvgpu.eviction.names import LRU
from kvgpu.eviction.policies import arc, queue_aware, recency, s3fifo, slru, tail_first, tinylfu
from kvgpu.eviction.state import ranks
from kvgpu.eviction.state.arrays import (
    EXPECTED_WORDS,
    GOAL,
    HINT_NUMBERS,
    KIND,
    NUM_ARRAYS,
    NUM_BLOCKS,
    NUM_NUMBERS,
    NUMBERS,
    USES,
)
from kvgpu.eviction.state.expected import COUNT, make_expected
from kvgpu.eviction.state.ghosts import make_ghosts
from kvgpu.eviction.state.hints import NUM_EXPIRED, PRIORITIES, make_hints
from kvgpu.eviction.state.lanes import fill, make_lanes
from kvgpu.eviction.state.members import PLAIN
from kvgpu.rules.plan import PrefixPlan

Words = npt.NDArray[np.int64]


class _Kind(NamedTuple):
    number: int
    num_lanes: int
    goal: float = 0.0
    """Of a list, as a share of the pool."""
    ghosts: float = 0.0
    """Keys that are remembered, as a share of the pool."""
    sketch: bool = False
    expects: bool = False
    """Whether it is told what waiting requests would hit."""


KINDS = {
    "slru": _Kind(events.SLRU, slru.NUM_LANES, goal=slru.PROTECTED_SHARE),
    "lfu": _Kind(events.LFU, ranks.NUM_LANES),
    "s3fifo": _Kind(events.S3FIFO, s3fifo.NUM_LANES, goal=s3fifo.SMALL_SHARE, ghosts=1 - s3fifo.SMALL_SHARE),
    "arc": _Kind(events.ARC, arc.NUM_LANES, ghosts=1.0),
    "tinylfu": _Kind(events.TINYLFU, tinylfu.NUM_LANES, sketch=True),
    "tail-first": _Kind(events.TAIL_FIRST, tail_first.NUM_LANES),
    "queue-aware": _Kind(events.QUEUE_AWARE, queue_aware.NUM_LANES, expects=True),
    "cost": _Kind(events.COST, ranks.NUM_LANES),
    LRU: _Kind(events.RECENCY, recency.NUM_LANES),
}
"""`lru` is needed beside hints only."""


class Eviction:
    """Decides which free blocks of a pool are taken next; made for an unused pool.

    Args:
        name: One of KINDS.
        state: Of the pool.
        shares: Blocks that each tenant keeps, whose numbers are 1, 2, ...; None if requests give no hints.

    Attributes:
        name, shares: The same.
        expects: Whether it is to be told what waiting requests would hit.

    Construction is O(blocks), and compiles code or loads it from disk.
    """

    def __init__(self, name: str, state: BlockState, shares: Mapping[str, int] | None = None) -> None:
        self.name, kind, count = name, KINDS[name], state.num_blocks
        self.expects, self.shares = kind.expects, None if shares is None else dict(shares)
        numbers = np.zeros(NUM_NUMBERS, np.int64)
        numbers[KIND], numbers[NUM_BLOCKS], numbers[GOAL] = kind.number, count, int(kind.goal * count)
        lanes = make_lanes(count, kind.num_lanes + (0 if shares is None else PRIORITIES + 1 + len(shares)))
        fill(lanes, PLAIN, np.arange(count, dtype=np.int32))
        ghosts = make_ghosts(max(1, int(kind.ghosts * count)))
        sketch = tinylfu.make_sketch(count if kind.sketch else 0)
        expected = make_expected(count if kind.expects else 1)
        *of_hints, lifetimes = make_hints(count, kind.num_lanes, None if shares is None else list(shares.values()))
        self._queue_words = state.free.queue_words
        self._handle = Handle(
            [*(*state.free, state.records, numbers, *lanes), *(*ghosts, sketch), *(*expected, *of_hints, *lifetimes)],
            more=NUM_EVENTS,
        )
        code = {TAKEN: events.on_taken, FREED: events.on_freed, TOUCHED: events.on_touched, CACHED: events.on_cached}
        for event, function in code.items():
            self._handle.words[2 * NUM_ARRAYS + event] = address_of_code(function, 3)

    @property
    def address(self) -> int:
        """What the queue of free blocks names it by. O(1)."""
        return self._handle.address + 16 * NUM_ARRAYS

    def __deepcopy__(self, memo: dict[int, Any]) -> "Eviction":
        """Return the policy of a copy of the pool."""
        made = Eviction.__new__(Eviction)
        memo[id(self)] = made
        made.name, made.expects, made.shares = self.name, self.expects, self.shares
        made._queue_words, made._handle = deepcopy(self._queue_words, memo), deepcopy(self._handle, memo)
        if self._queue_words[POLICY] == self.address:
            made._queue_words[POLICY] = made.address
        return made

    def array(self, place: int) -> npt.NDArray[Any]:
        """Return an array that it works on, by its place in `kvgpu.eviction.state.arrays`. O(1)."""
        return self._handle.array(place)

    def expect(
        self, plan: PrefixPlan, spans: tuple[npt.NDArray[np.int64], ...], lengths: npt.NDArray[np.int32]
    ) -> None:
        """Spare the blocks that requests would hit, and no others any more. O(hits).

        Args:
            plan: What they were looked up with.
            spans: Fields of `HashSpans`, where their hashes lie.
            lengths: int32 [requests, queries], lengths of their hits, in blocks.
        """
        events.expect(self.address, plan.words, spans, lengths)

    @property
    def num_expired(self) -> int:
        """Number of blocks that were evicted after their time was over. O(1)."""
        return int(self.array(HINT_NUMBERS)[NUM_EXPIRED])

    @property
    def num_expected(self) -> int:
        """Number of keys that waiting requests would hit, as `expect` was last told. O(1)."""
        return int(self.array(EXPECTED_WORDS)[COUNT])

    def place_again(self, ids: Sequence[int]) -> None:
        """Put free blocks of these that are not cached any more with those that go first. O(ids)."""
        uses = self.array(USES)
        for block_id in ids:
            place = int(uses["place"][block_id])
            if place != OUTSIDE:
                events.on_freed(self.address, place, place + 1)

    def place_all_again(self) -> None:
        """Do what `place_again` does, for all free blocks. O(blocks)."""
        events.on_freed(self.address, int(self._queue_words[HEAD]), int(self._queue_words[TAIL]))

    def begin(self, now: int, tenant: int) -> int:
        """Prepare for taking blocks for a tenant's request at a time in ns; return how many the others keep.

        Blocks whose time is over go first from now on. O(tenants), and O(log blocks) for each of these.
        """
        return int(events.begin_taking(self.address, now, tenant))

    def hint(self, ids: npt.NDArray[np.int32], priority: int, deadline: int, tenant: int) -> None:
        """Note what a request that used blocks says of them. O(ids), and O(log blocks) for each with a deadline.

        Args:
            ids: int32 [n], with null blocks.
            priority: 0 to 100.
            deadline: In ns; 0 for none.
            tenant: Which; 0 for none that has a share.
        """
        events.hint_blocks(self.address, ids, priority, deadline, tenant)

    @property
    def nbytes(self) -> int:
        """Bytes of what it keeps of blocks and keys. O(1)."""
        return sum(self._handle.array(place).nbytes for place in range(NUMBERS, NUM_ARRAYS))
