"""The queue of free blocks: order, membership, errors, and blocks made by hand."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.indexes import ids_of

from kvgpu.block_pool import BlockPool
from kvgpu.blocks.free_queue import FreeKVCacheBlockQueue
from kvgpu.blocks.lru import count_unused, pop_free, touch
from kvgpu.blocks.lru_release import release
from kvgpu.blocks.state import BlockState, KVCacheBlock
from kvgpu.errors import ArgumentError, ArgumentTypeError, FreeQueueError, NotEnoughBlocksError
from kvgpu.hashing.functions import make_block_hash_with_group_id

NUM_BLOCKS = 8


def order(queue):
    return [block.block_id for block in queue.get_all_free_blocks()]


def backwards(queue):
    """Ids from the tail to the head, by the links."""
    found, block = [], queue.fake_free_list_tail.prev_free_block
    while block is not queue.fake_free_list_head:
        found.append(block.block_id)
        block = block.prev_free_block
    return found


@pytest.fixture
def state():
    return BlockState(NUM_BLOCKS)


@pytest.fixture
def queue(state):
    return FreeKVCacheBlockQueue.of_state(state)


@pytest.fixture(params=["of a pool", "made by hand"])
def any_queue(request):
    if request.param == "of a pool":
        return FreeKVCacheBlockQueue.of_state(BlockState(NUM_BLOCKS))
    return FreeKVCacheBlockQueue([KVCacheBlock(i) for i in range(NUM_BLOCKS)])


def test_all_blocks_start_in_id_order(any_queue):
    assert order(any_queue) == list(range(NUM_BLOCKS))
    assert any_queue.num_free_blocks == NUM_BLOCKS


def test_links_lead_from_end_to_end_in_both_directions(any_queue):
    blocks = [any_queue.fake_free_list_head, *any_queue.get_all_free_blocks(), any_queue.fake_free_list_tail]
    for before, after in pairwise(blocks):
        assert before.next_free_block is after
        assert after.prev_free_block is before


def test_the_first_is_taken_first(any_queue):
    assert [any_queue.popleft().block_id for _ in range(3)] == [0, 1, 2]
    assert order(any_queue) == [3, 4, 5, 6, 7]
    assert any_queue.num_free_blocks == 5


def test_fewer_may_be_said_to_be_free(any_queue):
    any_queue.num_free_blocks = np.int64(2)
    assert any_queue.num_free_blocks == 2
    with pytest.raises(NotEnoughBlocksError, match="3 blocks were requested, but 2 are free"):
        any_queue.popleft_n(3)
    any_queue.num_free_blocks = NUM_BLOCKS
    assert order(any_queue) == list(range(NUM_BLOCKS))


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
    assert order(any_queue) == [3, 4, 5, 6, 7]


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
    assert order(any_queue) == list(range(NUM_BLOCKS))


@pytest.mark.parametrize("place", [0, 3, 7])
def test_any_member_can_be_removed(any_queue, place):
    block = any_queue.get_all_free_blocks()[place]
    any_queue.remove(block)
    assert order(any_queue) == [i for i in range(NUM_BLOCKS) if i != place]
    assert backwards(any_queue) == order(any_queue)[::-1]
    assert any_queue.num_free_blocks == NUM_BLOCKS - 1


def test_removing_what_is_not_in_the_queue_is_an_error(any_queue):
    block = any_queue.popleft()
    for stranger in (block, KVCacheBlock(3)):
        with pytest.raises(FreeQueueError, match=str(stranger.block_id)):
            any_queue.remove(stranger)
    assert order(any_queue) == list(range(1, NUM_BLOCKS))


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
    assert order(any_queue) == [3, 4, 5, 6, 7, 2, 0, 1]


def test_several_are_prepended_in_the_order_given(any_queue):
    a, b, c = any_queue.popleft_n(3)
    any_queue.prepend_n([c, a, b])
    assert order(any_queue) == [2, 0, 1, 3, 4, 5, 6, 7]
    assert backwards(any_queue) == order(any_queue)[::-1]


@pytest.mark.parametrize("put", ["append_n", "prepend_n"])
def test_an_emptied_queue_can_be_filled_again(any_queue, put):
    blocks = any_queue.popleft_n(NUM_BLOCKS)
    getattr(any_queue, put)(blocks[2:5])
    assert order(any_queue) == [2, 3, 4]
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
        assert order(queue) == model
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
        assert order(queue) == []
        assert queue.fake_free_list_head.next_free_block is queue.fake_free_list_tail

    @pytest.mark.parametrize("put", ["append_n", "prepend_n"])
    @pytest.mark.parametrize("members", [0, 1, 3])
    def test_strangers_join_a_queue_that_has_members(self, members, put):
        queue = FreeKVCacheBlockQueue([KVCacheBlock(i) for i in range(members)])
        getattr(queue, put)([KVCacheBlock(70), KVCacheBlock(60)])
        old = list(range(members))
        assert order(queue) == ([*old, 70, 60] if put == "append_n" else [70, 60, *old])
        assert backwards(queue) == order(queue)[::-1]

    def test_strangers_join_while_members_are_out(self):
        queue = FreeKVCacheBlockQueue([KVCacheBlock(i) for i in range(4)])
        taken = queue.popleft_n(2)
        queue.append(KVCacheBlock(9))
        queue.append_n(taken)
        assert order(queue) == [2, 3, 9, 0, 1]

    def test_blocks_of_a_pool_are_refused_and_stay_there(self):
        pool = BlockPool(NUM_BLOCKS, True, 16)
        blocks = pool.get_new_blocks(2)
        with pytest.raises(ArgumentError, match="belongs to a pool"):
            FreeKVCacheBlockQueue(blocks)
        pool.touch(blocks)
        assert pool.state.records["ref_cnt"][1:3].tolist() == [2, 2]


class TestCompiledOperations:
    NO_NULL = -1

    def test_popping_gives_the_count_of_users_asked_for(self, state, queue):
        ids, cached = pop_free(state.records, 3, 1)
        assert ids.tolist() == [0, 1, 2]
        assert cached == 0
        assert state.records["ref_cnt"][:4].tolist() == [1, 1, 1, 0]

    def test_touching_takes_free_blocks_out_and_counts_users(self, state, queue):
        touch(state.records, ids_of(2, 5, 2), self.NO_NULL)
        assert order(queue) == [0, 1, 3, 4, 6, 7]
        assert state.records["ref_cnt"][[2, 5]].tolist() == [2, 1]

    def test_a_released_block_goes_to_the_tail_when_nobody_uses_it(self, state, queue):
        touch(state.records, ids_of(2, 5, 2), self.NO_NULL)
        release(state.records, ids_of(2, 5), self.NO_NULL, False, False)
        assert order(queue) == [0, 1, 3, 4, 6, 7, 5]
        release(state.records, ids_of(2), self.NO_NULL, False, False)
        assert order(queue) == [0, 1, 3, 4, 6, 7, 5, 2]

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
        pop_free(state.records, 3, 1)
        release(state.records, ids_of(1, 0, 2), self.NO_NULL, reverse, prepend)
        assert order(queue) == expected

    @pytest.mark.parametrize("prepend", [False, True])
    def test_the_null_block_never_enters_or_leaves_the_queue(self, state, queue, prepend):
        queue.popleft()
        touch(state.records, ids_of(0, 0), 0)
        release(state.records, ids_of(0, 0, 0), 0, False, prepend)
        assert order(queue) == [1, 2, 3, 4, 5, 6, 7]
        assert queue.num_free_blocks == 7

    def test_blocks_that_a_touch_would_take_are_counted(self, state, queue):
        pop_free(state.records, 2, 1)
        assert count_unused(state.records, ids_of(0, 1, 2, 3), 3) == 1
        assert count_unused(state.records, np.empty(0, np.int32), 3) == 0


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


class TestWhatIsRefused:
    @pytest.fixture(params=["a queue of a pool", "a queue of its own"])
    def any_queue(self, request):
        if request.param == "a queue of a pool":
            return BlockPool(NUM_BLOCKS, True, 4).free_block_queue
        return FreeKVCacheBlockQueue([KVCacheBlock(i) for i in range(1, NUM_BLOCKS)])

    @pytest.mark.parametrize("put", ["append", "append_n", "prepend_n"])
    def test_a_block_that_is_in_a_queue(self, any_queue, put):
        before = order(any_queue)
        block = any_queue.get_all_free_blocks()[2]
        with pytest.raises(FreeQueueError, match="block 3"):
            getattr(any_queue, put)(block if put == "append" else [block])
        assert order(any_queue) == before

    @pytest.mark.parametrize("put", ["append_n", "prepend_n"])
    def test_a_block_that_comes_twice(self, any_queue, put):
        first, second = any_queue.popleft_n(2)
        before = order(any_queue)
        for blocks in ([first, second, first], [KVCacheBlock(70)] * 2):
            with pytest.raises((FreeQueueError, ArgumentError)):
                getattr(any_queue, put)(blocks)
        assert order(any_queue) == before

    def test_a_block_of_another_queue_that_it_has_not_left(self):
        block = KVCacheBlock(1)
        other = FreeKVCacheBlockQueue([block])
        with pytest.raises(FreeQueueError, match="block 1"):
            FreeKVCacheBlockQueue([block])
        assert order(other) == [1]
        other.remove(block)
        assert order(FreeKVCacheBlockQueue([block])) == [1]

    def test_a_block_in_use_and_the_null_block_of_a_pool(self):
        pool = BlockPool(NUM_BLOCKS, True, 4)
        for block in (pool.get_new_blocks(1)[0], pool.null_block):
            with pytest.raises(ArgumentError, match="free_blocks"):
                pool.free_block_queue.append(block)
        pool.check()

    @pytest.mark.parametrize("odd", [None, 7, [None], "ab"])
    def test_what_is_no_block(self, any_queue, odd):
        before = order(any_queue)
        for call in (any_queue.append, any_queue.append_n, any_queue.prepend_n, any_queue.remove):
            with pytest.raises(ArgumentTypeError):
                call(odd)
        assert order(any_queue) == before

    @pytest.mark.parametrize(("number", "error"), [(-1, ArgumentError), (1.5, ArgumentTypeError)])
    def test_numbers_of_blocks_that_are_none(self, any_queue, number, error):
        with pytest.raises(error):
            any_queue.popleft_n(number)
