"""The queue of free blocks: order, membership, errors, and blocks made by hand."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.pools import queue_order

from kvgpu.block_pool import BlockPool
from kvgpu.blocks.free_queue import FreeKVCacheBlockQueue
from kvgpu.blocks.state import BlockState, KVCacheBlock
from kvgpu.errors import ArgumentError, ArgumentTypeError, FreeQueueError, NotEnoughBlocksError
from kvgpu.hashing.map_keys import make_block_hash_with_group_id

NUM_BLOCKS = 8


def backwards(queue):
    """Ids from the tail to the head, by the links."""
    found, block = [], queue.fake_free_list_tail.prev_free_block
    while block is not queue.fake_free_list_head:
        found.append(block.block_id)
        block = block.prev_free_block
    return found


@pytest.fixture(params=["of a pool", "made by hand"])
def any_queue(request):
    if request.param == "of a pool":
        return FreeKVCacheBlockQueue.of_state(BlockState(NUM_BLOCKS))
    return FreeKVCacheBlockQueue([KVCacheBlock(i) for i in range(NUM_BLOCKS)])


def test_all_blocks_start_in_id_order(any_queue):
    assert queue_order(any_queue) == list(range(NUM_BLOCKS))
    assert any_queue.num_free_blocks == NUM_BLOCKS


def test_links_lead_from_end_to_end_in_both_directions(any_queue):
    blocks = [any_queue.fake_free_list_head, *any_queue.get_all_free_blocks(), any_queue.fake_free_list_tail]
    for before, after in pairwise(blocks):
        assert before.next_free_block is after
        assert after.prev_free_block is before


def test_the_first_is_taken_first(any_queue):
    assert [any_queue.popleft().block_id for _ in range(3)] == [0, 1, 2]
    assert queue_order(any_queue) == [3, 4, 5, 6, 7]
    assert any_queue.num_free_blocks == 5


def test_fewer_may_be_said_to_be_free(any_queue):
    any_queue.num_free_blocks = np.int64(2)
    assert any_queue.num_free_blocks == 2
    with pytest.raises(NotEnoughBlocksError, match="3 blocks were requested, but 2 are free"):
        any_queue.popleft_n(3)
    any_queue.num_free_blocks = NUM_BLOCKS
    assert queue_order(any_queue) == list(range(NUM_BLOCKS))


@pytest.mark.parametrize("count", [NUM_BLOCKS, -1, 2**31, 2**64])
def test_more_than_are_in_the_queue_cannot_be_free(any_queue, count):
    any_queue.popleft()
    with pytest.raises(ArgumentError, match=f"0 to 7, got {count}"):
        any_queue.num_free_blocks = count
    assert any_queue.num_free_blocks == NUM_BLOCKS - 1


@pytest.mark.parametrize("count", [None, 2.0, "2"])
def test_a_number_of_free_blocks_is_an_integer(any_queue, count):
    with pytest.raises(ArgumentTypeError, match="integer"):
        any_queue.num_free_blocks = count
    assert any_queue.num_free_blocks == NUM_BLOCKS


def test_several_are_taken_in_order(any_queue):
    assert [block.block_id for block in any_queue.popleft_n(3)] == [0, 1, 2]
    assert any_queue.popleft_n(0) == []
    assert queue_order(any_queue) == [3, 4, 5, 6, 7]


def test_a_taken_block_has_no_neighbours(any_queue):
    block = any_queue.popleft()
    assert block.prev_free_block is None
    assert block.next_free_block is None


def test_taking_from_an_empty_queue_is_an_error(any_queue):
    any_queue.popleft_n(NUM_BLOCKS)
    with pytest.raises(NotEnoughBlocksError):
        any_queue.popleft()
    assert any_queue.num_free_blocks == 0


def test_taking_too_many_takes_none(any_queue):
    with pytest.raises(ValueError, match="9"):
        any_queue.popleft_n(NUM_BLOCKS + 1)
    assert queue_order(any_queue) == list(range(NUM_BLOCKS))


@pytest.mark.parametrize("place", [0, 3, 7])
def test_any_member_can_be_removed(any_queue, place):
    block = any_queue.get_all_free_blocks()[place]
    any_queue.remove(block)
    assert queue_order(any_queue) == [i for i in range(NUM_BLOCKS) if i != place]
    assert backwards(any_queue) == queue_order(any_queue)[::-1]
    assert any_queue.num_free_blocks == NUM_BLOCKS - 1


def test_removing_what_is_not_in_the_queue_is_an_error(any_queue):
    block = any_queue.popleft()
    for stranger in (block, KVCacheBlock(3)):
        with pytest.raises(FreeQueueError, match=str(stranger.block_id)):
            any_queue.remove(stranger)
    assert queue_order(any_queue) == list(range(1, NUM_BLOCKS))


def test_removing_a_member_of_another_queue_is_an_error(any_queue):
    other = FreeKVCacheBlockQueue([KVCacheBlock(i) for i in range(3)])
    with pytest.raises(FreeQueueError):
        any_queue.remove(other.get_all_free_blocks()[1])
    assert any_queue.num_free_blocks == NUM_BLOCKS


def test_blocks_are_appended_behind_and_prepended_before(any_queue):
    a, b, c, d = any_queue.popleft_n(4)
    any_queue.append(c)
    any_queue.append_n([a, b])
    any_queue.prepend_n([d])
    assert queue_order(any_queue) == [3, 4, 5, 6, 7, 2, 0, 1]


def test_several_are_prepended_in_the_order_given(any_queue):
    a, b, c = any_queue.popleft_n(3)
    any_queue.prepend_n([c, a, b])
    assert queue_order(any_queue) == [2, 0, 1, 3, 4, 5, 6, 7]
    assert backwards(any_queue) == queue_order(any_queue)[::-1]


@pytest.mark.parametrize("put", ["append_n", "prepend_n"])
def test_an_emptied_queue_can_be_filled_again(any_queue, put):
    blocks = any_queue.popleft_n(NUM_BLOCKS)
    getattr(any_queue, put)(blocks[2:5])
    assert queue_order(any_queue) == [2, 3, 4]
    getattr(any_queue, put)([])
    assert any_queue.num_free_blocks == 3


operations = st.lists(
    st.tuples(st.sampled_from(["pop", "remove", "append", "prepend"]), st.lists(st.integers(0, 7))), max_size=25
)


@settings(max_examples=150, deadline=None)
@given(operations=operations, by_hand=st.booleans())
def test_random_changes_give_the_order_of_a_plain_list(operations, by_hand):
    blocks = [KVCacheBlock(i) for i in range(NUM_BLOCKS)]
    if by_hand:
        queue = FreeKVCacheBlockQueue(blocks)
    else:
        state = BlockState(NUM_BLOCKS)
        queue, blocks = FreeKVCacheBlockQueue.of_state(state), list(map(state.view, range(8)))
    model = list(range(NUM_BLOCKS))
    for name, numbers in operations:
        if name == "pop":
            taken = queue.popleft_n(min(len(numbers), len(model)))
            assert [block.block_id for block in taken] == model[: len(taken)]
            del model[: len(taken)]
        elif name == "remove":
            for number in set(numbers) & set(model):
                queue.remove(blocks[number])
                model.remove(number)
        else:
            outside = [n for n in dict.fromkeys(numbers) if n not in model]
            put = queue.append_n if name == "append" else queue.prepend_n
            put([blocks[number] for number in outside])
            model = model + outside if name == "append" else outside + model
        assert queue_order(queue) == model
        assert backwards(queue) == model[::-1]
        assert queue.num_free_blocks == len(model)


class TestBlocksMadeByHand:
    def test_they_stay_the_same_objects(self):
        blocks = [KVCacheBlock(i) for i in (40, 30, 20)]
        queue = FreeKVCacheBlockQueue(blocks)
        assert all(a is b for a, b in zip(queue.get_all_free_blocks(), blocks, strict=True))
        assert queue.popleft() is blocks[0]

    @pytest.mark.parametrize("key", [None, b"hash0", make_block_hash_with_group_id(b"7" * 32, 5)])
    def test_they_keep_id_users_and_hash(self, key):
        block = KVCacheBlock(40, ref_cnt=3)
        if key:
            block.block_hash = key
        FreeKVCacheBlockQueue([KVCacheBlock(1), block])
        assert (block.block_id, block.ref_cnt, block.block_hash) == (40, 3, key)

    def test_a_null_block_stays_null(self):
        block = KVCacheBlock(0)
        block.is_null = True
        FreeKVCacheBlockQueue([block, KVCacheBlock(1)])
        assert block.is_null

    def test_a_queue_of_none_is_empty(self):
        queue = FreeKVCacheBlockQueue([])
        assert queue_order(queue) == []
        assert queue.fake_free_list_head.next_free_block is queue.fake_free_list_tail

    @pytest.mark.parametrize("put", ["append_n", "prepend_n"])
    @pytest.mark.parametrize("members", [0, 1, 3])
    def test_strangers_join_a_queue_that_has_members(self, members, put):
        queue = FreeKVCacheBlockQueue([KVCacheBlock(i) for i in range(members)])
        getattr(queue, put)([KVCacheBlock(70), KVCacheBlock(60)])
        old = list(range(members))
        assert queue_order(queue) == ([*old, 70, 60] if put == "append_n" else [70, 60, *old])
        assert backwards(queue) == queue_order(queue)[::-1]

    def test_strangers_join_a_queue_that_pretends_to_have_fewer(self):
        queue = FreeKVCacheBlockQueue([KVCacheBlock(i) for i in range(4)])
        queue.num_free_blocks = 1
        queue.append(KVCacheBlock(9))
        assert queue.num_free_blocks == 2
        queue.num_free_blocks = 5
        assert queue_order(queue) == [0, 1, 2, 3, 9]

    def test_strangers_join_while_members_are_out(self):
        queue = FreeKVCacheBlockQueue([KVCacheBlock(i) for i in range(4)])
        taken = queue.popleft_n(2)
        queue.append(KVCacheBlock(9))
        queue.append_n(taken)
        assert queue_order(queue) == [2, 3, 9, 0, 1]

    def test_blocks_of_a_pool_are_refused_and_stay_there(self):
        pool = BlockPool(NUM_BLOCKS, True, 16)
        blocks = pool.get_new_blocks(2)
        with pytest.raises(ArgumentError, match="belongs to a pool"):
            FreeKVCacheBlockQueue(blocks)
        pool.touch(blocks)
        assert pool.state.free.uses["ref_cnt"][1:3].tolist() == [2, 2]


@pytest.mark.parametrize("stride", [1, 3, 9, 64, 0], ids=str)
def test_blocks_are_taken_in_order_however_far_apart_they_lie(stride):
    """Guesses of what comes next, which may lie outside the pool, change nothing."""
    state = BlockState(200)
    queue = FreeKVCacheBlockQueue.of_state(state)
    order = np.random.default_rng(0).permutation(200)
    if stride:
        order = np.concatenate([np.arange(200)[start::stride][::-1] for start in range(stride)])
    blocks = queue.popleft_n(200)
    queue.append_n([blocks[i] for i in order])
    taken = [queue.popleft_n(count) for count in (1, 2, 60, 137)]
    assert [block.block_id for part in taken for block in part] == order.tolist()
