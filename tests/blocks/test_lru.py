"""Compiled operations on the queue of free blocks: taking, touching and releasing, and counting those in no use."""

import numpy as np
import pytest
from support.indexes import ids_of
from support.pools import queue_order

from kvgpu.blocks.free_queue import FreeKVCacheBlockQueue
from kvgpu.blocks.lru import count_unused, pop_free, touch
from kvgpu.blocks.lru_release import release
from kvgpu.blocks.state import BlockState

NUM_BLOCKS = 8


@pytest.fixture
def state():
    return BlockState(NUM_BLOCKS)


@pytest.fixture
def queue(state):
    return FreeKVCacheBlockQueue.of_state(state)


class TestCompiledOperations:
    NO_NULL = -1

    def test_popping_gives_the_count_of_users_asked_for(self, state, queue):
        ids = pop_free(*state.free, 3, 1)
        assert ids.tolist() == [0, 1, 2]
        assert state.free.uses["ref_cnt"][:4].tolist() == [1, 1, 1, 0]

    def test_touching_takes_free_blocks_out_and_counts_users(self, state, queue):
        touch(*state.free, ids_of(2, 5, 2), self.NO_NULL)
        assert queue_order(queue) == [0, 1, 3, 4, 6, 7]
        assert state.free.uses["ref_cnt"][[2, 5]].tolist() == [2, 1]

    def test_a_released_block_goes_to_the_tail_when_nobody_uses_it(self, state, queue):
        touch(*state.free, ids_of(2, 5, 2), self.NO_NULL)
        release(*state.free, ids_of(2, 5), self.NO_NULL, False, False)
        assert queue_order(queue) == [0, 1, 3, 4, 6, 7, 5]
        release(*state.free, ids_of(2), self.NO_NULL, False, False)
        assert queue_order(queue) == [0, 1, 3, 4, 6, 7, 5, 2]

    @pytest.mark.parametrize(
        ("reverse", "prepend", "expected"),
        [
            (False, False, [3, 4, 5, 6, 7, 1, 0, 2]),
            (True, False, [3, 4, 5, 6, 7, 2, 0, 1]),
            (False, True, [1, 0, 2, 3, 4, 5, 6, 7]),
            (True, True, [2, 0, 1, 3, 4, 5, 6, 7]),
        ],
    )
    def test_released_blocks_keep_the_order_given(self, state, queue, reverse, prepend, expected):
        pop_free(*state.free, 3, 1)
        release(*state.free, ids_of(1, 0, 2), self.NO_NULL, reverse, prepend)
        assert queue_order(queue) == expected

    @pytest.mark.parametrize("prepend", [False, True])
    def test_the_null_block_never_enters_or_leaves_the_queue(self, state, queue, prepend):
        queue.popleft()
        touch(*state.free, ids_of(0, 0), 0)
        release(*state.free, ids_of(0, 0, 0), 0, False, prepend)
        assert queue_order(queue) == [1, 2, 3, 4, 5, 6, 7]
        assert queue.num_free_blocks == 7

    def test_blocks_that_a_touch_would_take_are_counted(self, state, queue):
        pop_free(*state.free, 2, 1)
        assert count_unused(state.free.uses, ids_of(0, 1, 2, 3), 3) == 1
        assert count_unused(state.free.uses, np.empty(0, np.int32), 3) == 0
