"""`BlockList` and `AllBlocks`: sequences of blocks that are kept as ids."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.indexes import ids_of

from kvgpu.block_tables.request_blocks import RequestBlocks
from kvgpu.block_tables.store import BlockTableStore
from kvgpu.blocks.block_list import AllBlocks, BlockList
from kvgpu.blocks.state import BlockState, KVCacheBlock
from kvgpu.errors import BlockIdError

NUM_BLOCKS = 8


@pytest.fixture
def state():
    return BlockState(NUM_BLOCKS)


@pytest.fixture
def blocks(state):
    return BlockList(state, ids_of(5, 0, 5, 2))


def test_a_new_list_is_empty(state):
    assert len(BlockList(state)) == 0
    assert list(BlockList(state)) == []
    assert not BlockList(state)


def test_it_is_a_sequence(blocks):
    assert isinstance(blocks, Sequence)


def test_indexing_gives_the_views_of_the_state(state, blocks):
    assert [blocks[i] for i in range(-4, 4)] == [state.view(i) for i in (5, 0, 5, 2, 5, 0, 5, 2)]
    assert blocks[0] is blocks[2] is state.view(5)


@pytest.mark.parametrize("index", [4, -5])
def test_an_index_out_of_range_is_an_error(blocks, index):
    with pytest.raises(IndexError):
        blocks[index]


def test_iterating_gives_the_views_in_order(state, blocks):
    assert list(blocks) == [state.view(i) for i in (5, 0, 5, 2)]
    assert list(reversed(blocks)) == [state.view(i) for i in (2, 5, 0, 5)]


@pytest.mark.parametrize("cut", [slice(1, 3), slice(None), slice(-2, None), slice(None, None, -2)])
def test_a_slice_is_a_list_with_the_same_blocks(blocks, cut):
    assert isinstance(blocks[cut], BlockList)
    assert blocks[cut].ids.tolist() == [5, 0, 5, 2][cut]


def test_writing_to_a_slice_leaves_the_list_alone(blocks):
    blocks[1:].ids[:] = 7
    assert blocks.ids.tolist() == [5, 0, 5, 2]


def test_writing_to_the_ids_changes_the_list(state, blocks):
    blocks.ids[1] = 7
    assert blocks[1] is state.view(7)


def test_blocks_of_a_request_that_grow_keep_what_they_had(state):
    blocks = RequestBlocks(state, BlockTableStore())
    for i in range(100):
        blocks.extend_ids(ids_of(i % NUM_BLOCKS, 3))
    assert blocks.ids.tolist() == [j for i in range(100) for j in (i % NUM_BLOCKS, 3)]


def test_requests_do_not_share_what_they_hold(state):
    store = BlockTableStore()
    one, two = RequestBlocks(state, store), RequestBlocks(state, store)
    for i in range(50):
        one.extend_ids(ids_of(1))
        two.extend_ids(ids_of(2, i % NUM_BLOCKS))
    assert one.ids.tolist() == [1] * 50
    assert two.ids.tolist() == [j for i in range(50) for j in (2, i % NUM_BLOCKS)]


def test_blocks_that_are_detached_can_still_be_read(state):
    store = BlockTableStore()
    blocks = RequestBlocks(state, store)
    blocks.extend_ids(ids_of(4, 5))
    blocks.detach()
    RequestBlocks(state, store).extend_ids(ids_of(6, 7))
    assert blocks.ids.tolist() == [4, 5]
    assert len(blocks) == 2
    assert (blocks.table_id, blocks.num_cached) == (-1, -1)


def test_it_equals_every_sequence_of_the_same_blocks(state, blocks):
    same = [state.view(i) for i in (5, 0, 5, 2)]
    for other in (same, tuple(same), BlockList(state, ids_of(5, 0, 5, 2))):
        assert blocks == other
        assert other == blocks


@pytest.mark.parametrize("ids", [(5, 0, 5), (5, 0, 5, 3), (5, 0, 5, 2, 2), ()])
def test_it_differs_from_other_blocks(state, blocks, ids):
    assert blocks != [state.view(i) for i in ids]
    assert blocks != BlockList(state, ids_of(*ids))


def test_it_differs_from_equal_ids_of_another_pool(blocks):
    other = BlockState(NUM_BLOCKS)
    assert blocks != BlockList(other, ids_of(5, 0, 5, 2))
    assert blocks != [KVCacheBlock(i) for i in (5, 0, 5, 2)]


def test_it_differs_from_what_is_no_sequence(blocks):
    assert blocks != 5


def test_it_cannot_be_hashed(blocks):
    with pytest.raises(TypeError):
        hash(blocks)


def test_adding_a_sequence_makes_a_new_list(state, blocks):
    for tail in ([state.view(1)], BlockList(state, ids_of(1))):
        assert (blocks + tail).ids.tolist() == [5, 0, 5, 2, 1]
    assert blocks.ids.tolist() == [5, 0, 5, 2]


def test_blocks_of_no_pool_can_be_in_a_list(state, blocks):
    stranger = KVCacheBlock(3)
    tail = [stranger, state.view(1)]
    longer = blocks + tail
    assert longer[4] is stranger
    assert longer == [*blocks, *tail]


def test_counting_and_finding_work_as_in_a_list(state, blocks):
    assert blocks.count(state.view(5)) == 2
    assert blocks.index(state.view(2)) == 3
    assert state.view(0) in blocks
    assert state.view(1) not in blocks


def test_a_mirroring_list_writes_changes_back(state):
    plain = [state.view(1)]
    blocks = RequestBlocks(state, BlockTableStore())
    blocks.mirror(plain)
    blocks.extend_ids(ids_of(4))
    assert plain == [state.view(1), state.view(4)]
    blocks.ids[0] = 6
    blocks.changed()
    assert plain == [state.view(6), state.view(4)]


def test_the_text_of_a_list_shows_its_ids(blocks):
    assert repr(blocks) == "BlockList([5, 0, 5, 2])"


@settings(max_examples=100, deadline=None)
@given(parts=st.lists(st.lists(st.integers(0, NUM_BLOCKS - 1), max_size=6), max_size=8))
def test_extending_in_parts_gives_the_same_as_at_once(parts):
    blocks = RequestBlocks(BlockState(NUM_BLOCKS), BlockTableStore())
    for part in parts:
        blocks.extend_ids(np.array(part, np.int32))
    assert blocks.ids.tolist() == [i for part in parts for i in part]


class TestAllBlocks:
    def test_it_has_every_block_by_id(self, state):
        everything = AllBlocks(state)
        assert len(everything) == NUM_BLOCKS
        assert [block.block_id for block in everything] == list(range(NUM_BLOCKS))

    def test_a_block_is_always_the_same_object(self, state):
        everything = AllBlocks(state)
        assert all(everything[i] is everything[i] is state.view(i) for i in range(NUM_BLOCKS))

    def test_negative_indices_count_from_the_end(self, state):
        everything = AllBlocks(state)
        assert [everything[-1], everything[-NUM_BLOCKS]] == [state.view(7), state.view(0)]

    @pytest.mark.parametrize("cut", [slice(2, 5), slice(-3, None), slice(None, None, 3)])
    def test_a_slice_is_a_list_of_blocks(self, state, cut):
        assert AllBlocks(state)[cut] == [state.view(i) for i in list(range(NUM_BLOCKS))[cut]]

    @pytest.mark.parametrize("index", [NUM_BLOCKS, -NUM_BLOCKS - 1])
    def test_an_id_outside_the_pool_is_an_error(self, state, index):
        with pytest.raises(BlockIdError, match=str(index)):
            AllBlocks(state)[index]
