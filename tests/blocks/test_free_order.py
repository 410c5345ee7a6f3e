"""The slots of the queue of free blocks: gaps, sweeps, and the order that they must not change."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.indexes import ids_of
from support.pools import queue_order

from kvgpu.blocks.free_order import HEAD, SLOTS_PER_BLOCK, SWEEPING, TAIL
from kvgpu.blocks.free_queue import FreeKVCacheBlockQueue
from kvgpu.blocks.invariants import queue_violations
from kvgpu.blocks.lru import pop_free, recount, touch
from kvgpu.blocks.lru_release import release, release_by_hash
from kvgpu.blocks.record import HAS_HASH
from kvgpu.blocks.state import BlockState

NUM_BLOCKS, NULL = 6, 0


@pytest.fixture
def state():
    return in_use(BlockState(NUM_BLOCKS))


def in_use(state):
    """A pool whose null block has left the queue."""
    state.null_id = NULL
    FreeKVCacheBlockQueue.of_state(state)
    pop_free(*state.free, 1, 1)
    return state


def slots_in_use(state):
    return int(state.free.queue_words[TAIL] - state.free.queue_words[HEAD])


class Model:
    """A queue as a list, and the users of each block."""

    def __init__(self):
        self.queue = list(range(1, NUM_BLOCKS))
        self.users = [0] * NUM_BLOCKS

    def pop(self, count):
        taken, self.queue = self.queue[:count], self.queue[count:]
        for block in taken:
            self.users[block] = 1
        return taken

    def touch(self, ids):
        for block in ids:
            self.users[block] += 1
            if block in self.queue:
                self.queue.remove(block)

    def release(self, ids, prepend):
        freed = []
        for block in ids:
            self.users[block] -= 1
            if self.users[block] == 0 and block != NULL:
                freed.append(block)
        self.queue = freed + self.queue if prepend else self.queue + freed


some_blocks = st.lists(st.integers(0, NUM_BLOCKS - 1), max_size=4, unique=True)
operations = st.one_of(
    st.tuples(st.just("pop"), st.integers(0, NUM_BLOCKS)),
    st.tuples(st.just("touch"), some_blocks),
    st.tuples(st.just("release"), some_blocks, st.booleans(), st.booleans()),
    st.tuples(st.just("release by hash"), some_blocks, some_blocks),
    st.tuples(st.just("recount"), st.lists(st.integers(0, 1), min_size=NUM_BLOCKS, max_size=NUM_BLOCKS)),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(operations, max_size=60))
def test_the_queue_is_a_list(steps):
    """Long enough that numbers go round the slots several times, and sweeps begin and end."""
    state, model = in_use(BlockState(NUM_BLOCKS)), Model()
    for name, *arguments in steps:
        if name == "pop":
            count = min(arguments[0], len(model.queue))
            assert pop_free(*state.free, count, 1).tolist() == model.pop(count)
        elif name == "touch":
            touch(*state.free, ids_of(*arguments[0]), NULL)
            model.touch(arguments[0])
        elif name == "release":
            ids, backwards, prepend = arguments
            ids = [block for block in ids if block == NULL or model.users[block] > 0]
            release(*state.free, ids_of(*ids), NULL, backwards, prepend)
            model.release(ids[::-1] if backwards else ids, prepend)
        elif name == "release by hash":
            ids = [block for block in arguments[0] if block == NULL or model.users[block] > 0]
            state.records["flags"][arguments[1]] = HAS_HASH
            release_by_hash(*state.free, state.records, ids_of(*ids), NULL)
            hashed, others = (
                [b for b in ids[::-1] if b in arguments[1]],
                [b for b in ids[::-1] if b not in arguments[1]],
            )
            model.release(hashed, False)
            model.release(others, True)
            state.records["flags"] = 0
        else:
            users = np.array(arguments[0])
            recount(*state.free, users, NULL)
            model.queue = [b for b in model.queue if users[b] == 0]
            model.queue += [b for b in range(1, NUM_BLOCKS) if users[b] == 0 and b not in model.queue]
            model.users = users.tolist()
        assert queue_order(state.queue) == model.queue
        assert state.queue.num_free_blocks == len(model.queue)
        assert queue_violations(state) == []


@pytest.mark.parametrize("prepend", [False, True])
def test_blocks_that_come_and_go_never_use_more_slots_than_there_are(state, prepend):
    """Blocks 2 to 5 are hit and freed again and again, while block 1, which is evicted first, waits."""
    order = [1, 2, 3, 4, 5]
    for turn in range(500):
        block = 2 + turn % 4
        touch(*state.free, ids_of(block), NULL)
        release(*state.free, ids_of(block), NULL, False, prepend)
        order.remove(block)
        order = [block, *order] if prepend else [*order, block]
        assert slots_in_use(state) <= len(state.free.order)
        assert queue_order(state.queue) == order
    assert queue_violations(state) == []


def test_a_sweep_looks_at_a_few_slots_for_each_block_that_enters():
    """So that no call takes long: in between, the queue can be used as ever."""
    state = in_use(BlockState(1000))
    num_swept = 0
    for turn in range(4 * SLOTS_PER_BLOCK * 1000):
        block = 1 + turn % 999
        before = state.free.uses["place"].copy()
        touch(*state.free, ids_of(block), NULL)
        release(*state.free, ids_of(block), NULL, False, False)
        if turn % 97 == 0:
            moved = np.flatnonzero(before != state.free.uses["place"])
            assert len(moved) <= 10
        num_swept += int(state.free.queue_words[SWEEPING])
    assert num_swept > 100
    assert queue_violations(state) == []
    assert queue_order(state.queue) == [1 + (turn + 1) % 999 for turn in range(turn, turn + 999)]


def test_places_of_null_blocks_take_no_slots(state):
    """A block table may have more null blocks than the pool has blocks."""
    ids = pop_free(*state.free, 1, 1)
    table = np.concatenate([np.full(1000, NULL, np.int32), ids])
    for prepend in (True, False):
        release(*state.free, table, NULL, False, prepend)
        assert queue_violations(state) == []
        touch(*state.free, ids, NULL)
    assert slots_in_use(state) <= len(state.free.order)


def test_a_block_without_users_that_is_not_in_the_queue_changes_nothing_there(state):
    state.free.uses["ref_cnt"][2] = 0
    first = queue_order(state.queue)
    ids = pop_free(*state.free, 2, 0)
    touch(*state.free, ids, NULL)
    assert queue_order(state.queue) == first[2:]
