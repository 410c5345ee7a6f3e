"""What `allocate_batch` returns: new blocks by row, and the slots of new tokens."""

import numpy as np
import pytest
from support.batches import make_batch, track
from support.managers import full, make_manager, per_backend, window

from kvgpu.batch.manager import BatchManager
from kvgpu.errors import ArgumentError

SHARED = list(range(16))


def plain_slots(batch, rows, firsts, counts, group=0):
    """Slots by the definition, from the block ids that the manager tells."""
    size = batch.manager.coordinator.single_type_managers[group].block_size
    slots = []
    for row, first, count in zip(rows.tolist(), firsts, counts, strict=True):
        ids = batch.manager.get_block_ids(batch.rows.requests[row].request_id)[group]
        slots += [ids[p // size] * size + p % size for p in range(first, first + count)]
    return slots


@per_backend
class TestNewBlocks:
    def test_each_row_is_told_its_new_blocks(self, backend):
        batch = make_batch(full(4), backend=backend)
        got = batch.allocate_batch(track(batch, 9, 4, 5), 9)
        assert [got.get_block_ids(i) for i in range(3)] == [([1, 2, 3],), ([4],), ([5, 6],)]

    def test_hits_are_not_among_the_new_blocks(self, backend):
        batch = make_batch(full(4), backend=backend)
        got = batch.allocate_batch(track(batch, [*SHARED, 1], [*SHARED, 2]), 17)
        assert got.get_block_ids(1) == ([6],)

    def test_all_new_blocks_lie_group_by_group_and_row_by_row(self, backend):
        batch = make_batch(full(4), window(4, 5), backend=backend)
        got = batch.allocate_batch(track(batch, 8, 4), 8)
        assert got.block_ids.dtype == np.int32
        assert got.block_ids.tolist() == [1, 2, 5, 3, 4, 6]

    def test_a_row_that_did_not_fit_has_none(self, backend):
        batch = make_batch(full(4), num_blocks=4, backend=backend)
        got = batch.allocate_batch(track(batch, 4, 30, 4), 30)
        assert [got.get_block_ids(i) for i in range(3)] == [([1],), ([],), ([2],)]

    def test_a_row_inside_its_block_has_none(self, backend):
        batch = make_batch(full(4), backend=backend)
        rows = track(batch, 5, 8)
        batch.allocate_batch(rows, 8)
        batch.append_batch(rows, [1, 1])
        got = batch.allocate_batch(rows, 1)
        assert [got.get_block_ids(i) for i in range(2)] == [([],), ([5],)]

    def test_new_blocks_are_noted_for_an_engine_that_zeroes_them(self, backend):
        batch = make_batch(full(4), window(4, 5), backend=backend)
        batch.allocate_batch(track(batch, 8, 4), 8)
        assert batch.manager.take_new_block_ids() == [1, 2, 5]


@per_backend
class TestSlots:
    @pytest.mark.parametrize("group", [0, 1])
    def test_new_tokens_have_the_slots_of_their_places(self, backend, group):
        batch = make_batch(full(4), window(4, 5), backend=backend)
        rows = track(batch, [*SHARED, 1, 2], [*SHARED, 3], 7)
        got = batch.allocate_batch(rows, [11, 20, 3])
        counts, hits = got.num_new_tokens.tolist(), got.num_hit_tokens.tolist()
        assert got.slot_mapping(group).tolist() == plain_slots(batch, rows, hits, counts, group)

    def test_a_decode_step_has_one_slot_a_row(self, backend):
        batch = make_batch(full(4), backend=backend)
        rows = track(batch, 5, 8)
        batch.allocate_batch(rows, 8)
        batch.append_batch(rows, [1, 1])
        assert batch.allocate_batch(rows, 1).slot_mapping().tolist() == [2 * 4 + 1, 5 * 4]

    def test_tokens_taken_back_give_their_slots_to_the_next(self, backend):
        batch = make_batch(full(4), backend=backend)
        rows = track(batch, 6)
        batch.allocate_batch(rows, 6)
        batch.append_batch(rows, [1, 1, 1], [3])
        batch.allocate_batch(rows, 3)
        batch.rewind(rows, 2)
        assert batch.allocate_batch(rows, 2).slot_mapping().tolist() == [2 * 4 + 3, 3 * 4]

    def test_rows_that_did_not_fit_have_no_slots(self, backend):
        batch = make_batch(full(4), num_blocks=4, backend=backend)
        got = batch.allocate_batch(track(batch, 3, 30, 2), 30)
        assert got.slot_mapping().tolist() == [4, 5, 6, 8, 9]

    def test_an_array_of_the_caller_is_filled(self, backend):
        batch = make_batch(full(4), backend=backend)
        got = batch.allocate_batch(track(batch, 3), 3)
        out = np.zeros(3, np.int64)
        assert got.slot_mapping(out=out) is out
        assert out.tolist() == [4, 5, 6]

    @pytest.mark.parametrize("out", [np.zeros(2, np.int64), np.zeros((3, 1), np.int64), np.zeros(3)])
    def test_an_array_of_another_shape_or_dtype_is_refused(self, backend, out):
        batch = make_batch(full(4), backend=backend)
        got = batch.allocate_batch(track(batch, 3), 3)
        with pytest.raises(ArgumentError, match=r"int64 \[3\] that is contiguous and writeable"):
            got.slot_mapping(out=out)

    @pytest.mark.parametrize("group", [-1, 2])
    def test_a_group_that_does_not_exist_is_refused(self, backend, group):
        batch = make_batch(full(4), window(4, 5), backend=backend)
        got = batch.allocate_batch(track(batch, 3), 3)
        with pytest.raises(ArgumentError, match="group must be 0 to 1"):
            got.slot_mapping(group)

    def test_blocks_of_several_ranks_are_refused(self, backend):
        manager = make_manager(full(4), dcp_world_size=2, hash_block_size=8, scheduler_block_size=8, backend=backend)
        batch = BatchManager(manager, 2, 20)
        got = batch.allocate_batch(track(batch, 3), 3)
        with pytest.raises(ArgumentError, match="several ranks"):
            got.slot_mapping()
