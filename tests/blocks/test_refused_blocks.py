"""What the queue of free blocks refuses to take in, and what cannot be taken from it; the queue stays as it was."""

import pytest
from support.pools import queue_order

from kvgpu.block_pool import BlockPool
from kvgpu.blocks.free_queue import FreeKVCacheBlockQueue
from kvgpu.blocks.state import KVCacheBlock
from kvgpu.errors import ArgumentError, ArgumentTypeError, FreeQueueError

NUM_BLOCKS = 8


class TestWhatIsRefused:
    @pytest.fixture(params=["a queue of a pool", "a queue of its own"])
    def any_queue(self, request):
        if request.param == "a queue of a pool":
            return BlockPool(NUM_BLOCKS, True, 4).free_block_queue
        return FreeKVCacheBlockQueue([KVCacheBlock(i) for i in range(1, NUM_BLOCKS)])

    @pytest.mark.parametrize("put", ["append", "append_n", "prepend_n"])
    def test_a_block_that_is_in_a_queue(self, any_queue, put):
        before = queue_order(any_queue)
        block = any_queue.get_all_free_blocks()[2]
        with pytest.raises(FreeQueueError, match="block 3"):
            getattr(any_queue, put)(block if put == "append" else [block])
        assert queue_order(any_queue) == before

    @pytest.mark.parametrize("put", ["append_n", "prepend_n"])
    def test_a_block_that_comes_twice(self, any_queue, put):
        first, second = any_queue.popleft_n(2)
        before = queue_order(any_queue)
        for blocks in ([first, second, first], [KVCacheBlock(70)] * 2):
            with pytest.raises((FreeQueueError, ArgumentError)):
                getattr(any_queue, put)(blocks)
        assert queue_order(any_queue) == before

    def test_a_block_of_another_queue_that_it_has_not_left(self):
        block = KVCacheBlock(1)
        other = FreeKVCacheBlockQueue([block])
        with pytest.raises(FreeQueueError, match="block 1"):
            FreeKVCacheBlockQueue([block])
        assert queue_order(other) == [1]
        other.remove(block)
        assert queue_order(FreeKVCacheBlockQueue([block])) == [1]

    def test_a_block_in_use_and_the_null_block_of_a_pool(self):
        pool = BlockPool(NUM_BLOCKS, True, 4)
        for block in (pool.get_new_blocks(1)[0], pool.null_block):
            with pytest.raises(ArgumentError, match="free_blocks"):
                pool.free_block_queue.append(block)
        pool.check()

    @pytest.mark.parametrize("odd", [None, 7, [None], "ab"])
    def test_what_is_no_block(self, any_queue, odd):
        before = queue_order(any_queue)
        for call in (any_queue.append, any_queue.append_n, any_queue.prepend_n, any_queue.remove):
            with pytest.raises(ArgumentTypeError):
                call(odd)
        assert queue_order(any_queue) == before

    @pytest.mark.parametrize(("number", "error"), [(-1, ArgumentError), (1.5, ArgumentTypeError)])
    def test_numbers_of_blocks_that_are_none(self, any_queue, number, error):
        with pytest.raises(error):
            any_queue.popleft_n(number)
