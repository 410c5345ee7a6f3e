"""The pool: allocation, eviction, reuse, release, and its own check."""

import logging

import pytest
from support.managers import make_request, per_backend
from support.pools import NUM_BLOCKS, SIZE, cache, found, ids, kinds, order, state_of

from kvgpu.block_pool import BlockPool
from kvgpu.blocks.free_order import GAP, HEAD, NUM_FREE, TAIL
from kvgpu.blocks.state import KVCacheBlock
from kvgpu.errors import (
    ArgumentError,
    BlockIdError,
    ConfigError,
    InvariantError,
    NotEnoughBlocksError,
    UnknownNameError,
)
from kvgpu.events.messages import AllBlocksCleared, BlockStored
from kvgpu.hashing.functions import xxhash


@pytest.fixture
def pool(backend):
    return BlockPool(NUM_BLOCKS, True, SIZE, enable_kv_cache_events=True, backend=backend)


@pytest.fixture
def request_of_six():
    return make_request("a", 6 * SIZE, SIZE)


@per_backend
class TestAllocation:
    def test_block_0_is_the_null_block_and_never_free(self, pool):
        assert pool.null_block is pool.blocks[0]
        assert pool.null_block.is_null
        assert order(pool) == list(range(1, NUM_BLOCKS))

    def test_blocks_come_from_the_head_with_one_user_each(self, pool):
        blocks = pool.get_new_blocks(3)
        assert ids(blocks) == [1, 2, 3]
        assert [block.ref_cnt for block in blocks] == [1, 1, 1]
        assert order(pool) == [4, 5, 6, 7, 8, 9]

    def test_no_blocks_are_none(self, pool):
        assert pool.get_new_blocks(0) == []
        assert pool.get_num_free_blocks() == NUM_BLOCKS - 1

    def test_more_than_are_free_is_an_error_and_takes_none(self, pool):
        pool.get_new_blocks(4)
        before = state_of(pool)
        with pytest.raises(NotEnoughBlocksError):
            pool.get_new_blocks(6)
        assert state_of(pool) == before

    def test_usage_counts_all_blocks_but_the_null_block(self, pool):
        assert pool.get_usage() == 0
        pool.get_new_blocks(3)
        assert pool.get_usage() == pytest.approx(3 / 9)
        pool.get_new_blocks(6)
        assert pool.get_usage() == 1

    def test_a_pool_of_the_null_block_alone_has_no_usage(self, backend):
        pool = BlockPool(1, True, SIZE, backend=backend)
        assert (pool.get_usage(), pool.get_num_free_blocks()) == (0, 0)

    @pytest.mark.parametrize("num_blocks", [0, -3, 2.0, None])
    def test_a_pool_without_blocks_is_refused(self, backend, num_blocks):
        with pytest.raises(ConfigError):
            BlockPool(num_blocks, True, SIZE, backend=backend)


def test_an_unknown_backend_is_refused_with_the_names_of_those_there_are():
    with pytest.raises(UnknownNameError, match="host, reference"):
        BlockPool(4, True, SIZE, backend="abacus")


@per_backend
class TestUsers:
    def test_touching_a_free_block_takes_it_out_of_the_queue(self, pool):
        pool.touch([pool.blocks[4], pool.blocks[2]])
        assert order(pool) == [1, 3, 5, 6, 7, 8, 9]
        assert [pool.blocks[i].ref_cnt for i in (2, 4)] == [1, 1]

    def test_touching_a_block_in_use_counts_one_more_user(self, pool):
        blocks = pool.get_new_blocks(2)
        pool.touch(blocks)
        assert [block.ref_cnt for block in blocks] == [2, 2]
        assert pool.get_num_free_blocks() == 7

    def test_a_freed_block_goes_to_the_tail(self, pool):
        blocks = pool.get_new_blocks(4)
        pool.free_blocks([blocks[2], blocks[0]])
        assert order(pool) == [5, 6, 7, 8, 9, 3, 1]

    def test_with_prepend_freed_blocks_go_to_the_head_in_the_order_given(self, pool):
        blocks = pool.get_new_blocks(4)
        pool.free_blocks([blocks[2], blocks[0], blocks[3]], prepend=True)
        assert order(pool) == [3, 1, 4, 5, 6, 7, 8, 9]

    def test_a_block_that_somebody_still_uses_is_not_free(self, pool):
        blocks = pool.get_new_blocks(2)
        pool.touch(blocks[:1])
        pool.free_blocks(blocks)
        assert order(pool) == [3, 4, 5, 6, 7, 8, 9, 2]
        assert blocks[0].ref_cnt == 1

    def test_the_null_block_is_never_freed(self, pool):
        pool.touch([pool.null_block])
        pool.free_blocks([pool.null_block, pool.null_block])
        assert pool.get_num_free_blocks() == 9
        assert 0 not in order(pool)

    def test_blocks_of_no_pool_are_refused(self, pool):
        pool.touch([pool.blocks[3]])
        before = state_of(pool)
        for call in (pool.touch, pool.free_blocks):
            with pytest.raises(ArgumentError, match="block 3 belongs to another pool"):
                call([pool.blocks[3], KVCacheBlock(3)])
        assert state_of(pool) == before
        pool.check()

    def test_any_iterable_of_blocks_is_taken(self, pool):
        blocks = pool.get_new_blocks(3)
        pool.touch(iter(blocks))
        pool.free_blocks(reversed(blocks))
        pool.free_blocks(reversed(blocks))
        assert order(pool) == [4, 5, 6, 7, 8, 9, 3, 2, 1]


@per_backend
class TestEviction:
    def test_a_freed_block_is_still_cached(self, pool, request_of_six):
        blocks = pool.get_new_blocks(6)
        cache(pool, request_of_six, blocks)
        pool.free_blocks(blocks)
        assert found(pool, request_of_six) == [1, 2, 3, 4, 5, 6]

    def test_allocation_evicts_what_it_takes(self, pool, request_of_six):
        blocks = pool.get_new_blocks(6)
        cache(pool, request_of_six, blocks)
        pool.free_blocks(reversed(blocks))
        taken = pool.get_new_blocks(5)
        assert ids(taken) == [7, 8, 9, 6, 5]
        assert [block.block_hash for block in taken] == [None] * 5
        assert found(pool, request_of_six) == [1, 2, 3, 4, None, None]
        assert pool.allocator.num_evictions == 2

    def test_a_touched_block_is_not_evicted(self, pool, request_of_six):
        blocks = pool.get_new_blocks(6)
        cache(pool, request_of_six, blocks)
        pool.free_blocks(blocks)
        pool.touch(blocks[:2])
        assert ids(pool.get_new_blocks(7)) == [7, 8, 9, 3, 4, 5, 6]
        assert found(pool, request_of_six)[:2] == [1, 2]

    def test_a_hash_that_the_map_does_not_hold_stays_on_an_allocated_block(self, pool):
        key = b"k" * 36
        pool.blocks[1].block_hash = key
        assert pool.get_new_blocks(1)[0].block_hash == key
        assert pool.take_events() == []

    def test_evicted_blocks_cannot_be_found_but_stay_in_use(self, pool, request_of_six):
        blocks = pool.get_new_blocks(6)
        cache(pool, request_of_six, blocks)
        pool.free_blocks(blocks[3:])
        pool.evict_blocks({2, 5, 9})
        assert found(pool, request_of_six) == [1, None, 3, 4, None, 6]
        assert [blocks[i].block_hash for i in (1, 4)] == [None, None]
        assert [block.ref_cnt for block in blocks] == [1, 1, 1, 0, 0, 0]
        assert order(pool) == [7, 8, 9, 4, 5, 6]

    @pytest.mark.parametrize("bad", [NUM_BLOCKS, -1])
    def test_evicting_an_id_outside_the_pool_evicts_nothing(self, pool, request_of_six, bad):
        cache(pool, request_of_six, pool.get_new_blocks(6))
        with pytest.raises(BlockIdError, match=str(bad)):
            pool.evict_blocks([1, bad])
        assert found(pool, request_of_six) == [1, 2, 3, 4, 5, 6]

    def test_evicting_the_first_of_several_leaves_the_next_to_be_found(self, pool, request_of_six):
        blocks = pool.get_new_blocks(3)
        for block in blocks:
            cache(pool, request_of_six, [block])
        pool.evict_blocks([1])
        assert found(pool, request_of_six)[0] == 2


@per_backend
class TestReset:
    def test_a_reset_forgets_all_hashes(self, pool, request_of_six):
        blocks = pool.get_new_blocks(6)
        cache(pool, request_of_six, blocks)
        pool.free_blocks(blocks)
        pool.cached_block_hash_to_block.insert(b"hash0", KVCacheBlock(0))
        assert pool.reset_prefix_cache() is True
        assert len(pool.cached_block_hash_to_block) == 0
        assert [block.block_hash for block in pool.blocks] == [None] * NUM_BLOCKS
        pool.check()

    def test_a_reset_keeps_the_order_of_free_blocks(self, pool):
        pool.free_blocks(reversed(pool.get_new_blocks(3)))
        pool.reset_prefix_cache()
        assert order(pool) == [4, 5, 6, 7, 8, 9, 3, 2, 1]

    def test_a_reset_is_refused_with_a_warning_while_blocks_are_in_use(self, pool, request_of_six, caplog):
        cache(pool, request_of_six, pool.get_new_blocks(2))
        before = state_of(pool)
        with caplog.at_level(logging.WARNING, logger="kvgpu"):
            assert pool.reset_prefix_cache() is False
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert state_of(pool) == before

    def test_hashes_of_another_width_can_follow_a_reset(self, pool, request_of_six):
        blocks = pool.get_new_blocks(6)
        cache(pool, request_of_six, blocks)
        pool.free_blocks(blocks)
        pool.reset_prefix_cache()
        other = make_request("b", 2 * SIZE, SIZE, xxhash)
        cache(pool, other, pool.get_new_blocks(2))
        assert found(pool, other) == [7, 8]
        pool.check()

    def test_a_reset_leaves_queued_events_and_adds_one(self, pool, request_of_six):
        blocks = pool.get_new_blocks(1)
        cache(pool, request_of_six, blocks)
        pool.free_blocks(blocks)
        pool.reset_prefix_cache()
        assert kinds(pool.take_events()) == [BlockStored, AllBlocksCleared]


@per_backend
class TestCheck:
    def test_a_pool_in_use_passes(self, pool, request_of_six):
        cache(pool, request_of_six, pool.get_new_blocks(6))
        pool.check()

    @pytest.mark.parametrize(
        ("name", "place", "value"),
        [
            pytest.param("users", 5, 1, id="a free block with a user"),
            pytest.param("users", 1, 0, id="a block without users that is not free"),
            pytest.param("order", 4, GAP, id="an order that leaves a block out"),
            pytest.param("order", 4, 6, id="a block twice in the order"),
            pytest.param("order", 4, 2**30, id="an order that leads out of the pool"),
            pytest.param("places", 4, 3, id="another place"),
            pytest.param("places", 1, 0, id="a place of a block that is in use"),
            pytest.param("words", HEAD, 3, id="another head"),
            pytest.param("words", TAIL, 5, id="another tail"),
            pytest.param("words", TAIL, 2**62, id="a tail beyond all slots"),
            pytest.param("words", NUM_FREE, 9, id="a count that is too high"),
            pytest.param("words", NUM_FREE, 7, id="a count that is too low"),
        ],
    )
    def test_a_broken_queue_is_found(self, pool, name, place, value):
        pool.get_new_blocks(1)
        uses, order, words = pool.state.free
        {"users": uses["ref_cnt"], "places": uses["place"], "order": order, "words": words}[name][place] = value
        with pytest.raises(InvariantError):
            pool.check()

    def test_a_broken_index_is_found(self, pool, request_of_six):
        cache(pool, request_of_six, pool.get_new_blocks(1))
        pool.index.clear()
        with pytest.raises(InvariantError):
            pool.check()
