"""`NewBlockIds`: ids of blocks that may need zeroing, until somebody takes them."""

import numpy as np

from kvgpu.groups.new_ids import NewBlockIds


def test_ids_that_nobody_asks_for_are_forgotten():
    ids = NewBlockIds(num_blocks=10)
    for i in range(1000):
        ids.note(np.array([i % 10], np.int32))
        assert len(ids) <= 41
    assert ids.take() == []
    ids.note(np.array([3, 4], np.int32))
    assert ids.take() == [3, 4]


def test_ids_of_many_calls_come_in_order():
    ids = NewBlockIds(num_blocks=10_000)
    for i in range(1000):
        ids.note(np.array([2 * i, 2 * i + 1], np.int32))
    assert ids.take() == list(range(2000))
