"""Entry points of all policies, by event; see `kvgpu.blocks.eviction_calls`."""

from typing import Any

from kvgpu.blocks.eviction_calls import FIRST_PLACE
from kvgpu.blocks.free_order import GAP, HEAD, NUM_FREE, make_slots, put, slot_of, unlink
from kvgpu.compiled.handle import IDS
from kvgpu.compiled.jit import carray, inline, jit, leaf, pointer
from kvgpu.eviction.arc import choose_arc, enter_arc
from kvgpu.eviction.arrays import KIND, MOST_HITS, evictable_at
from kvgpu.eviction.lanes import NO_BLOCK, drop, put_last
from kvgpu.eviction.lfu import choose_lfu, enter_lfu
from kvgpu.eviction.members import PLAIN, first_free, is_cached, is_own, key_of
from kvgpu.eviction.s3fifo import choose_s3fifo, enter_s3fifo
from kvgpu.eviction.slru import choose_slru, enter_slru
from kvgpu.eviction.tail_first import choose_tail_first, enter_tail_first, note_place
from kvgpu.eviction.tinylfu import choose_tinylfu, count_key, enter_tinylfu

SLRU, LFU, S3FIFO, ARC, TINYLFU, TAIL_FIRST = range(6)
"""Kinds of policies."""


@leaf
def _enter(pool: Any, block_id: int) -> None:
    kind = pool.numbers[KIND]
    if kind == SLRU:
        enter_slru(pool, block_id)
    elif kind == LFU:
        enter_lfu(pool, block_id)
    elif kind == S3FIFO:
        enter_s3fifo(pool, block_id)
    elif kind == ARC:
        enter_arc(pool, block_id)
    elif kind == TINYLFU:
        enter_tinylfu(pool, block_id)
    else:
        enter_tail_first(pool, block_id)
    if kind in (SLRU, ARC, TINYLFU):
        pool.notes[block_id] = 1


@leaf
def _choose(pool: Any) -> int:
    block_id = first_free(pool, PLAIN)
    if block_id != NO_BLOCK:
        return block_id
    kind = pool.numbers[KIND]
    if kind == SLRU:
        return choose_slru(pool)
    if kind == LFU:
        return choose_lfu(pool)
    if kind == S3FIFO:
        return choose_s3fifo(pool)
    if kind == ARC:
        return choose_arc(pool)
    if kind == TINYLFU:
        return choose_tinylfu(pool)
    return choose_tail_first(pool)


@leaf
def _forget(pool: Any, block_id: int) -> None:
    drop(pool.lanes, block_id)
    pool.hits[block_id] = pool.notes[block_id] = 0


@inline
def _put_in_front(pool: Any, count: int) -> None:
    """Put the next victims in front of the queue, in order."""
    order, words = pool.free.order, pool.free.queue_words
    make_slots(pool.free, count)
    head = words[HEAD]
    first = number = head - count
    while number < head:
        block_id = _choose(pool)
        if block_id == NO_BLOCK:
            break
        _forget(pool, block_id)
        unlink(pool.free, block_id)
        put(pool.free, block_id, number)
        words[NUM_FREE] += 1
        number += 1
    for rest in range(number, head):
        order[slot_of(order, rest)] = GAP
    words[HEAD] = first


@jit
def on_taken(address: int, count: int, _: int) -> int:
    """Put in front what is to be evicted for so many blocks. O(count), amortised.

    Blocks that no list holds are taken as the queue has them: after an interrupted call there may be some.
    """
    _put_in_front(evictable_at(address), count)
    return 0


@jit
def on_freed(address: int, first: int, number: int) -> int:
    """Place blocks that have become free."""
    pool = evictable_at(address)
    order = pool.free.order
    for place in range(first, number):
        block_id = order[slot_of(order, place)]
        if block_id == GAP:
            continue
        if is_cached(pool, block_id):
            _enter(pool, block_id)
        else:
            pool.hits[block_id] = pool.notes[block_id] = 0
            put_last(pool.lanes, PLAIN, block_id)
    return 0


@jit
def on_touched(address: int, ids_at: int, count: int) -> int:
    """Count hits; blocks leave their lists, but for queues in which hits move nothing."""
    pool, ids = evictable_at(address), carray(pointer(ids_at, IDS), (count,))
    kind = pool.numbers[KIND]
    for place in range(count):
        block_id = ids[place]
        if not is_own(pool, block_id):
            continue
        pool.hits[block_id] = min(pool.hits[block_id] + 1, MOST_HITS)
        if kind != S3FIFO:
            drop(pool.lanes, block_id)
        if kind == TINYLFU and is_cached(pool, block_id):
            count_key(pool, key_of(pool, block_id))
    return 0


@jit
def on_cached(address: int, ids_at: int, counted: int) -> int:
    """Note where blocks lie in their prompts."""
    pool = evictable_at(address)
    if pool.numbers[KIND] != TAIL_FIRST:
        return 0
    count, first = counted % FIRST_PLACE, counted // FIRST_PLACE
    ids = carray(pointer(ids_at, IDS), (count,))
    for place in range(count):
        if is_own(pool, ids[place]):
            note_place(pool, ids[place], first + place)
    return 0
