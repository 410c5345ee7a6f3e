"""`Eviction`: a policy for the blocks of one pool."""

from copy import deepcopy
from typing import Any, NamedTuple

import numpy as np

from kvgpu.blocks.eviction_calls import CACHED, FREED, NUM_EVENTS, TAKEN, TOUCHED
from kvgpu.blocks.free_order import POLICY
from kvgpu.blocks.state import BlockState
from kvgpu.compiled.addresses import address_of_code
from kvgpu.compiled.handle import Handle
from kvgpu.eviction import arc, events, lfu, s3fifo, slru, tail_first, tinylfu
from kvgpu.eviction.arrays import GOAL, KIND, NUM_ARRAYS, NUM_BLOCKS, NUM_NUMBERS, NUMBERS
from kvgpu.eviction.ghosts import make_ghosts
from kvgpu.eviction.lanes import fill, make_lanes
from kvgpu.eviction.members import PLAIN


class _Kind(NamedTuple):
    number: int
    num_lanes: int
    goal: float = 0.0
    """Of a list, as a share of the pool."""
    ghosts: float = 0.0
    """Keys that are remembered, as a share of the pool."""
    sketch: bool = False


KINDS = {
    "slru": _Kind(events.SLRU, slru.NUM_LANES, goal=slru.PROTECTED_SHARE),
    "lfu": _Kind(events.LFU, lfu.NUM_LANES),
    "s3fifo": _Kind(events.S3FIFO, s3fifo.NUM_LANES, goal=s3fifo.SMALL_SHARE, ghosts=1 - s3fifo.SMALL_SHARE),
    "arc": _Kind(events.ARC, arc.NUM_LANES, ghosts=1.0),
    "tinylfu": _Kind(events.TINYLFU, tinylfu.NUM_LANES, sketch=True),
    "tail-first": _Kind(events.TAIL_FIRST, tail_first.NUM_LANES),
}


class Eviction:
    """Decides which free blocks of a pool are taken next; made for an unused pool.

    Args:
        name: One of KINDS.
        state: Of the pool.

    Construction is O(blocks), and compiles code or loads it from disk.
    """

    def __init__(self, name: str, state: BlockState) -> None:
        self.name, kind, count = name, KINDS[name], state.num_blocks
        numbers = np.zeros(NUM_NUMBERS, np.int64)
        numbers[KIND], numbers[NUM_BLOCKS], numbers[GOAL] = kind.number, count, int(kind.goal * count)
        lanes = make_lanes(count, kind.num_lanes)
        fill(lanes, PLAIN)
        keys, chains, heads, of_ghosts = make_ghosts(max(1, int(kind.ghosts * count)))
        sketch = np.zeros(tinylfu.ROWS << max(4, (count - 1).bit_length()) if kind.sketch else 1, np.uint8)
        bytes_of_blocks = np.zeros((2, count), np.uint8)
        self._queue_words = state.free.queue_words
        self._handle = Handle(
            (*state.free, state.records, numbers, *bytes_of_blocks, *lanes, keys, chains, heads, *of_ghosts, sketch),
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
        made.name = self.name
        made._queue_words, made._handle = deepcopy(self._queue_words, memo), deepcopy(self._handle, memo)
        if self._queue_words[POLICY] == self.address:
            made._queue_words[POLICY] = made.address
        return made

    @property
    def nbytes(self) -> int:
        """Bytes of what it keeps of blocks and keys. O(1)."""
        return sum(self._handle.array(place).nbytes for place in range(NUMBERS, NUM_ARRAYS))
