"""The queue of free blocks: an array of ids in eviction order, and compiled operations on its slots.

The member that is number n of all that ever entered lies in slot n modulo the number of slots, and the block knows
which slot that is. A block that leaves before its turn leaves a gap. So a walk knows what comes next and loads it
ahead, however often the order has been shuffled, and a block leaves or enters without its neighbours being touched.

If gaps take up many of the slots, a sweep moves members towards the end, a few for each block that enters.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from kvgpu.compiled.jit import leaf

GAP = -1
"""A slot whose block has left."""

OUTSIDE = -1
"""`place` of a block that is not in the queue."""

SLOTS_PER_BLOCK = 2
"""At least. A sweep begins when three quarters of the slots are in use, and leaves at most half of them in use."""

SWEPT_PER_BLOCK = 8
"""Slots that a sweep looks at for each block that enters."""

HEAD, TAIL, NUM_FREE, SOURCE, TARGET, SWEEPING, POLICY, QUEUE_WORDS = range(8)
"""Words of a queue.

HEAD, TAIL: number of the first slot in use, and the number after the last. NUM_FREE: members. SWEEPING: 1 while a
sweep is under way. SOURCE: number of the slot that the sweep looks at next. TARGET: the one that the next member moves
to; all slots between the two are gaps. POLICY: address of what decides who is evicted next, see
`kvgpu.blocks.eviction_calls`; 0 if it is the order of the queue.
"""

USE = np.dtype([("ref_cnt", "<i4"), ("place", "<i4")])
"""Use of a block. Apart from its record, because releasing blocks touches nothing else.

ref_cnt: number of users. place: slot in the queue of free blocks, or OUTSIDE.
"""

Order = npt.NDArray[np.int32]
QueueWords = npt.NDArray[np.int64]


class FreeQueue(NamedTuple):
    """Arrays of a queue; `PoolArrays` will do as well."""

    uses: Any
    """USE [blocks + 1]: the last is that of the placeholders at both ends."""
    order: Any
    """int32 [slots], a power of two: ids, and GAP."""
    queue_words: Any
    """int64 [QUEUE_WORDS]."""


def make_queue(num_blocks: int) -> FreeQueue:
    """Make an empty queue for blocks that nobody uses. O(num_blocks)."""
    uses = np.zeros(num_blocks + 1, USE)
    uses["place"] = OUTSIDE
    order = np.full(1 << (SLOTS_PER_BLOCK * num_blocks - 1).bit_length(), GAP, np.int32)
    return FreeQueue(uses, order, np.zeros(QUEUE_WORDS, np.int64))


@leaf
def slot_of(order: Order, number: int) -> Any:
    """Return the slot of a number. Unsigned: compiled code then does not test whether an index counts from the end."""
    return np.uint64(number & (len(order) - 1))


@leaf
def next_member(order: Order, number: int, end: int) -> int:
    """Return the number of the first slot from `number` on that is no gap, or `end`. Amortised O(1)."""
    while number < end and order[slot_of(order, number)] == GAP:
        number += 1
    return number


@leaf
def unlink(free: Any, block_id: int) -> None:
    """Remove a block from the queue, if it is there."""
    use = free.uses[np.uint64(block_id)]
    if use.place != OUTSIDE:
        free.order[np.uint64(use.place)] = GAP
        use.place = OUTSIDE
        free.queue_words[NUM_FREE] -= 1


@leaf
def put(free: Any, block_id: int, number: int) -> None:
    """Put a block into the slot of a number; the caller counts it."""
    slot = slot_of(free.order, number)
    free.order[slot] = block_id
    free.uses[np.uint64(block_id)].place = slot


@leaf
def move(free: Any, block_id: int, number: int) -> None:
    """Move a member into the slot of a number."""
    free.order[np.uint64(free.uses[np.uint64(block_id)].place)] = GAP
    put(free, block_id, number)


@leaf
def sweep(free: Any, count: int) -> None:
    """Look at `count` slots of the sweep that is under way."""
    order, words = free.order, free.queue_words
    begin, source, target = words[HEAD], words[SOURCE], words[TARGET]
    for _ in range(count):
        if source < begin:
            break
        block_id = order[slot_of(order, source)]
        if block_id != GAP:
            if source != target:
                put(free, block_id, target)
                order[slot_of(order, source)] = GAP
            target -= 1
        source -= 1
    words[SOURCE], words[TARGET] = source, target
    if source < begin:
        words[HEAD] = max(begin, target + 1)
        words[SWEEPING] = 0


@leaf
def start_sweep(words: QueueWords) -> None:
    """Begin a sweep, unless one is under way."""
    if words[SWEEPING] == 0:
        words[SWEEPING] = 1
        words[SOURCE] = words[TARGET] = words[TAIL] - 1


@leaf
def make_slots(free: Any, count: int) -> None:
    """Sweep, if need be, until `count` further members find slots, which are at most as many as there are blocks.

    O(count), amortised.
    """
    words, num_slots = free.queue_words, len(free.order)
    if words[SWEEPING] == 0 and words[TAIL] - words[HEAD] + count <= num_slots // 4 * 3:
        return
    start_sweep(words)
    sweep(free, SWEPT_PER_BLOCK * count)
    # Only after a few very large calls: the rest of this sweep, then a whole one, which leaves no gap.
    for _ in range(2):
        if words[TAIL] - words[HEAD] + count > num_slots:
            start_sweep(words)
            sweep(free, num_slots)
