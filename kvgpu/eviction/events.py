"""Entry points of all policies, by event; see `kvgpu.blocks.eviction_calls`."""

from typing import Any

import numpy as np

from kvgpu.blocks.eviction_calls import FIRST_PLACE
from kvgpu.blocks.free_order import GAP, HEAD, TAIL, make_slots, move, next_member, slot_of
from kvgpu.compiled.handle import IDS
from kvgpu.compiled.jit import AHEAD, carray, inline, jit, leaf, pointer, prefetch
from kvgpu.eviction.policies.arc import choose_arc, enter_arc
from kvgpu.eviction.policies.cost import enter_cost, note_cost
from kvgpu.eviction.policies.lfu import enter_lfu
from kvgpu.eviction.policies.queue_aware import choose_queue_aware, enter_queue_aware, return_spared
from kvgpu.eviction.policies.recency import choose_recency, enter_recency
from kvgpu.eviction.policies.s3fifo import MAIN, choose_s3fifo, enter_s3fifo
from kvgpu.eviction.policies.slru import choose_slru, enter_slru
from kvgpu.eviction.policies.tail_first import choose_tail_first, enter_tail_first, note_place
from kvgpu.eviction.policies.tinylfu import choose_tinylfu, count_key, enter_tinylfu, load_counts
from kvgpu.eviction.state.arrays import KIND, evictable_at
from kvgpu.eviction.state.expected import expect_requests, load_expected
from kvgpu.eviction.state.ghosts import load_ghost
from kvgpu.eviction.state.hints import (
    TAKER,
    choose_high,
    choose_low,
    enter_level,
    enter_share,
    expire,
    forget_hints,
    has_hints,
    hint_block,
    in_lane_of_hints,
    kept_from,
)
from kvgpu.eviction.state.lanes import MOST_HITS, NO_BLOCK, drop, node_of, put_last
from kvgpu.eviction.state.lifetimes import NOW, first_overdue, forget_deadline
from kvgpu.eviction.state.members import PLAIN, first_free, is_cached, is_own, key_of
from kvgpu.eviction.state.ranks import choose_by_rank

SLRU, LFU, S3FIFO, ARC, TINYLFU, TAIL_FIRST, QUEUE_AWARE, COST, RECENCY = range(9)
"""Kinds of policies."""

EARLY, LATE = 6 * AHEAD, 3 * AHEAD
"""Blocks between loading what is known of a block and placing it, and between loading what is known of its key."""


@leaf
def _enter(pool: Any, block_id: int) -> None:
    if has_hints(pool):
        block_id = enter_share(pool, block_id)
        if block_id == NO_BLOCK or enter_level(pool, block_id):
            return
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
    elif kind == TAIL_FIRST:
        enter_tail_first(pool, block_id)
    elif kind == QUEUE_AWARE:
        enter_queue_aware(pool, block_id)
    elif kind == COST:
        enter_cost(pool, block_id)
    else:
        enter_recency(pool, block_id)
    if kind in (SLRU, ARC, TINYLFU):
        node_of(pool.lanes, block_id).notes = 1


@leaf
def _choose_of_policy(pool: Any) -> int:
    kind = pool.numbers[KIND]
    if kind == SLRU:
        return choose_slru(pool)
    if kind in (LFU, COST):
        return choose_by_rank(pool)
    if kind == S3FIFO:
        return choose_s3fifo(pool)
    if kind == ARC:
        return choose_arc(pool)
    if kind == TINYLFU:
        return choose_tinylfu(pool)
    if kind == TAIL_FIRST:
        return choose_tail_first(pool)
    if kind == QUEUE_AWARE:
        return choose_queue_aware(pool)
    return choose_recency(pool)


@leaf
def _choose(pool: Any) -> int:
    block_id = first_free(pool, PLAIN)
    if block_id == NO_BLOCK and has_hints(pool):
        block_id = choose_low(pool)
    if block_id == NO_BLOCK:
        block_id = _choose_of_policy(pool)
    if block_id == NO_BLOCK and has_hints(pool):
        block_id = choose_high(pool)
    return block_id


@leaf
def _forget(pool: Any, block_id: int) -> None:
    drop(pool.lanes, block_id)
    node = node_of(pool.lanes, block_id)
    node.hits = node.notes = 0
    forget_hints(pool, block_id)


@leaf
def _load_victims(pool: Any, place: int) -> None:
    """Start loading what is known of the blocks that go soon after the one in this slot: mostly those behind it."""
    order, kind = pool.free.order, pool.numbers[KIND]
    early = order[slot_of(order, place + EARLY)]
    if early != GAP:
        prefetch(pool.lanes.nodes, early)
        prefetch(pool.records, early)
        prefetch(pool.free.uses, early)
    if kind not in (S3FIFO, ARC, QUEUE_AWARE):
        return
    late = order[slot_of(order, place + LATE)]
    if late == GAP or (kind == S3FIFO and node_of(pool.lanes, late).lane == MAIN):
        return
    if kind == QUEUE_AWARE:
        load_expected(pool.expected, key_of(pool, late))
    else:
        load_ghost(pool.ghosts, key_of(pool, late))


@leaf
def _load_freed(pool: Any, number: int, end: int) -> None:
    """Start loading what is known of the blocks that are placed soon after the one with this number."""
    order, kind = pool.free.order, pool.numbers[KIND]
    early = order[slot_of(order, number + EARLY)] if number + EARLY < end else GAP
    if early != GAP:
        prefetch(pool.lanes.nodes, early)
        prefetch(pool.records, early)
    if kind not in (S3FIFO, ARC, TINYLFU):
        return
    late = order[slot_of(order, number + LATE)] if number + LATE < end else GAP
    if late == GAP or node_of(pool.lanes, late).notes != 0:
        return
    if kind == TINYLFU:
        load_counts(pool.sketch, key_of(pool, late))
    else:
        load_ghost(pool.ghosts, key_of(pool, late))


@leaf
def _load_counted(pool: Any, ids: Any, place: int, count: int) -> None:
    """Start loading what is known of the keys that are counted soon after that of the block at a place."""
    early, late = place + EARLY, place + LATE
    if early < count and is_own(pool, ids[early]):
        prefetch(pool.lanes.nodes, ids[early])
        prefetch(pool.records, ids[early])
    if late < count and is_own(pool, ids[late]):
        load_counts(pool.sketch, key_of(pool, ids[late]))


@inline
def _put_in_front(pool: Any, count: int) -> None:
    """Put the next victims in front of the queue, in order."""
    order, words = pool.free.order, pool.free.queue_words
    # Then gaps in front take no slots, so sweeps are fewer.
    words[HEAD] = next_member(order, words[HEAD], words[TAIL])
    make_slots(pool.free, count)
    head = words[HEAD]
    first = number = head - count
    while number < head:
        block_id = _choose(pool)
        if block_id == NO_BLOCK:
            break
        _load_victims(pool, pool.free.uses[np.uint64(block_id)].place)
        _forget(pool, block_id)
        move(pool.free, block_id, number)
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
        _load_freed(pool, place, number)
        block_id = order[slot_of(order, place)]
        if block_id == GAP:
            continue
        if is_cached(pool, block_id):
            _enter(pool, block_id)
        else:
            _forget(pool, block_id)
            put_last(pool.lanes, PLAIN, block_id)
    return 0


@jit
def on_touched(address: int, ids_at: int, count: int) -> int:
    """Count hits; blocks leave their lists, but for queues in which hits move nothing."""
    pool, ids = evictable_at(address), carray(pointer(ids_at, IDS), (count,))
    kind = pool.numbers[KIND]
    for place in range(count):
        if kind == TINYLFU:
            _load_counted(pool, ids, place, count)
        block_id = ids[place]
        if not is_own(pool, block_id):
            continue
        node = node_of(pool.lanes, block_id)
        node.hits = min(node.hits + 1, MOST_HITS)
        if kind != S3FIFO or in_lane_of_hints(pool, block_id):
            drop(pool.lanes, block_id)
        if kind == TINYLFU and is_cached(pool, block_id):
            count_key(pool, key_of(pool, block_id))
    return 0


@jit
def on_cached(address: int, ids_at: int, counted: int) -> int:
    """Note where blocks lie in their prompts."""
    pool = evictable_at(address)
    kind = pool.numbers[KIND]
    if kind not in (TAIL_FIRST, COST):
        return 0
    count, first = counted % FIRST_PLACE, counted // FIRST_PLACE
    ids = carray(pointer(ids_at, IDS), (count,))
    for place in range(count):
        if not is_own(pool, ids[place]):
            continue
        if kind == COST:
            note_cost(pool, ids[place], first + place)
        else:
            note_place(pool, ids[place], first + place)
    return 0


@jit
def expect(address: int, plan: Any, spans: Any, lengths: Any) -> None:
    """Spare what these requests would hit, and nothing else; see `expect_requests`. O(hits)."""
    pool = evictable_at(address)
    return_spared(pool)
    expect_requests(pool.expected, plan, spans, lengths)


@jit
def begin_taking(address: int, now: int, tenant: int) -> int:
    """Prepare for taking blocks for a tenant's request at a time in ns; return how many the others keep.

    Blocks whose time is over go first from now on. O(tenants), and O(log blocks) for each of these.
    """
    pool = evictable_at(address)
    life = pool.hints.lifetimes
    life.words[NOW] = now
    pool.hints.numbers[TAKER] = tenant
    overdue = first_overdue(life, NO_BLOCK)
    while overdue != NO_BLOCK:
        forget_deadline(life, overdue)
        expire(pool, overdue)
        overdue = first_overdue(life, NO_BLOCK)
    return int(kept_from(pool, tenant))


@jit
def hint_blocks(address: int, ids: Any, priority: int, deadline: int, tenant: int) -> None:
    """Do what `hint_block` does, for blocks of the pool; `ids` are int32 [n]."""
    pool = evictable_at(address)
    for place in range(len(ids)):
        if is_own(pool, ids[place]):
            hint_block(pool, ids[place], priority + 1, deadline, tenant)
