"""Caching ranges of blocks of a request: what is entered, and what is refused."""

from types import SimpleNamespace

import numpy as np
import pytest
from support.managers import make_request, per_backend
from support.pools import NUM_BLOCKS, SIZE, cache, found, ids, state_of

from kvgpu.block_pool import BlockPool
from kvgpu.blocks.state import KVCacheBlock
from kvgpu.errors import ArgumentError, BlockIdError, BlockStateError
from kvgpu.hashing.functions import sha256, xxhash
from kvgpu.hashing.map_keys import make_block_hash_with_group_id
from kvgpu.index.prefix_cache import NO_MASK

MAX_GROUP = 2**31 - 1


@pytest.fixture
def pool(backend):
    return BlockPool(NUM_BLOCKS, True, SIZE, backend=backend)


@pytest.fixture
def request_of_six():
    return make_request("a", 6 * SIZE, SIZE)


@pytest.fixture(params=["regular", "beside an odd entry"])
def any_pool(request, pool):
    """Pools in which ranges are entered in one batch, and one by one."""
    if request.param != "regular":
        pool.cached_block_hash_to_block.insert(b"hash0", KVCacheBlock(0))
    return pool


def odd_hash(width):
    def hash_fn(value):
        return sha256(value)[:width]

    return hash_fn


def cut(request, hashes):
    """A request that has these hashes, as a plain list."""
    return SimpleNamespace(request_id=request.request_id, block_hashes=hashes, all_token_ids=request.all_token_ids)


@per_backend
class TestEntering:
    def test_only_the_range_is_entered(self, any_pool, request_of_six):
        cache(any_pool, request_of_six, any_pool.get_new_blocks(6), 2, 5)
        assert found(any_pool, request_of_six) == [None, None, 3, 4, 5, None]
        any_pool.check()

    def test_an_entered_block_shows_its_hash_and_group(self, any_pool, request_of_six):
        blocks = any_pool.get_new_blocks(2)
        cache(any_pool, request_of_six, blocks, group=MAX_GROUP)
        assert [block.block_hash for block in blocks] == [
            make_block_hash_with_group_id(block_hash, MAX_GROUP) for block_hash in request_of_six.block_hashes[:2]
        ]

    @pytest.mark.parametrize(("start", "end"), [(2, 2), (3, 1)])
    def test_an_empty_range_changes_nothing(self, any_pool, request_of_six, start, end):
        blocks = any_pool.get_new_blocks(6)
        before = state_of(any_pool)
        cache(any_pool, request_of_six, blocks, start, end)
        assert state_of(any_pool) == before

    def test_blocks_before_the_range_are_not_looked_at(self, any_pool, request_of_six):
        blocks = any_pool.get_new_blocks(3)
        blocks[0].block_hash = b"k" * 36
        cache(any_pool, request_of_six, [blocks[0], any_pool.null_block, blocks[1]], 2, 3)
        assert found(any_pool, request_of_six)[:3] == [None, None, 2]

    def test_null_and_masked_blocks_are_skipped(self, any_pool, request_of_six):
        blocks = any_pool.get_new_blocks(4)
        blocks.insert(1, any_pool.null_block)
        cache(any_pool, request_of_six, blocks, mask=[True, True, False, True, False])
        assert found(any_pool, request_of_six) == [1, None, None, 3, None, None]
        assert any_pool.null_block.block_hash is None

    def test_a_hash_by_which_a_block_is_not_found_is_replaced(self, any_pool, request_of_six):
        blocks = any_pool.get_new_blocks(6)
        blocks[3].block_hash = b"k" * 36
        cache(any_pool, request_of_six, blocks)
        assert found(any_pool, request_of_six) == [1, 2, 3, 4, 5, 6]
        any_pool.check()

    def test_a_masked_block_may_have_a_hash(self, any_pool, request_of_six):
        blocks = any_pool.get_new_blocks(2)
        blocks[0].block_hash = b"k" * 36
        cache(any_pool, request_of_six, blocks, mask=[False, True])
        assert found(any_pool, request_of_six)[:2] == [None, 2]

    def test_equal_blocks_of_two_requests_are_both_kept(self, any_pool, request_of_six):
        first, second = any_pool.get_new_blocks(1), any_pool.get_new_blocks(1)
        cache(any_pool, request_of_six, first)
        cache(any_pool, request_of_six, second)
        entry = any_pool.cached_block_hash_to_block._cache[first[0].block_hash]
        assert entry == {1: first[0], 2: second[0]}
        any_pool.check()

    def test_all_groups_must_hit(self, any_pool, request_of_six):
        cache(any_pool, request_of_six, any_pool.get_new_blocks(2), group=0)
        cache(any_pool, request_of_six, any_pool.get_new_blocks(1), group=5)
        hits = [any_pool.get_cached_block(h, [5, 0]) for h in request_of_six.block_hashes]
        assert ids(hits[0]) == [3, 1]
        assert hits[1:] == [None] * 5

    def test_there_may_be_fewer_blocks_than_are_full(self, any_pool, request_of_six):
        cache(any_pool, request_of_six, any_pool.get_new_blocks(2), 1, 6)
        assert found(any_pool, request_of_six) == [None, 2, None, None, None, None]

    @pytest.mark.parametrize("stride", [2, 3])
    def test_a_block_of_several_hashes_shows_all_of_them(self, any_pool, request_of_six, stride):
        blocks = any_pool.get_new_blocks(6 // stride)
        cache(any_pool, request_of_six, blocks, size=stride * SIZE)
        hashes = request_of_six.block_hashes[:stride]
        assert blocks[0].block_hash == make_block_hash_with_group_id(b"".join(hashes), 0)

    @pytest.mark.parametrize("stride", [2, 3])
    def test_a_block_of_several_hashes_is_found_by_all_of_them(self, any_pool, request_of_six, stride):
        blocks = any_pool.get_new_blocks(6 // stride)
        cache(any_pool, request_of_six, blocks, size=stride * SIZE)
        assert found(any_pool, request_of_six, stride=stride) == ids(blocks)
        assert found(any_pool, request_of_six) == [None] * 6
        any_pool.check()

    @pytest.mark.parametrize("first", [sha256, xxhash, odd_hash(5)], ids=["32", "16", "5"])
    @pytest.mark.parametrize("second", [sha256, xxhash, odd_hash(5)], ids=["32", "16", "5"])
    @pytest.mark.parametrize("stride", [1, 2])
    def test_requests_of_other_hash_widths_are_served(self, pool, first, second, stride):
        requests = [make_request("a", range(16), SIZE, first)]
        requests.append(make_request("b", range(50, 66), SIZE, second))
        for request in requests:
            cache(pool, request, pool.get_new_blocks(4 // stride), size=stride * SIZE)
        expected = [[1, 2, 3, 4], [5, 6, 7, 8]] if stride == 1 else [[1, 2], [3, 4]]
        assert [found(pool, request, stride=stride) for request in requests] == expected
        pool.check()

    def test_blocks_of_no_pool_can_be_cached(self, any_pool, request_of_six):
        blocks = [KVCacheBlock(7), *any_pool.get_new_blocks(1)]
        cache(any_pool, request_of_six, blocks)
        hits = [any_pool.get_cached_block(h, [0]) for h in request_of_six.block_hashes[:2]]
        assert hits == [[blocks[0]], [blocks[1]]]
        any_pool.check()

    @pytest.mark.parametrize("group", [2**31, 2**32 - 1])
    def test_groups_that_no_record_can_hold_are_served(self, any_pool, request_of_six, group):
        cache(any_pool, request_of_six, any_pool.get_new_blocks(2), group=group)
        assert found(any_pool, request_of_six, group)[:3] == [1, 2, None]
        any_pool.check()

    def test_without_caching_allocation_evicts_nothing(self, backend, request_of_six):
        pool = BlockPool(NUM_BLOCKS, False, SIZE, backend=backend)
        blocks = pool.get_new_blocks(9)
        cache(pool, request_of_six, blocks, end=6)
        pool.free_blocks(blocks)
        assert ids(pool.get_new_blocks(9)) == list(range(1, 10))
        assert found(pool, request_of_six) == [1, 2, 3, 4, 5, 6]
        assert pool.allocator.num_evictions == 0


@per_backend
class TestBadInput:
    """Nothing is changed by any of it."""

    @pytest.fixture
    def blocks(self, any_pool):
        return any_pool.get_new_blocks(6)

    @pytest.fixture
    def refused(self, any_pool, blocks):
        def refused(error, match, *args, **options):
            before = state_of(any_pool)
            with pytest.raises(error, match=match):
                cache(any_pool, *args, **options)
            assert state_of(any_pool) == before
            any_pool.check()

        return refused

    @pytest.mark.parametrize("bad", [10**6, 2**31 - 1])
    def test_an_id_outside_the_pool_is_refused(self, any_pool, request_of_six, bad):
        before, hashes = state_of(any_pool), request_of_six.block_hashes
        with pytest.raises(BlockIdError, match=str(bad)):
            any_pool.prefix_cache.insert(np.array([1, bad], np.int32), hashes, 0, 1, 0, NO_MASK)
        assert state_of(any_pool) == before

    def test_a_block_that_is_cached_already_is_refused(self, any_pool, refused, request_of_six, blocks):
        cache(any_pool, request_of_six, blocks, 2, 4)
        refused(BlockStateError, "block 3", request_of_six, blocks)

    def test_a_block_that_is_there_twice_is_refused(self, refused, request_of_six, blocks):
        refused(BlockStateError, "block 2", request_of_six, [*blocks[:2], blocks[1]])

    def test_a_size_that_is_no_multiple_of_a_hash_block_is_refused(self, refused, request_of_six, blocks):
        refused(ArgumentError, "multiple", request_of_six, blocks, 0, 2, size=SIZE + 1)

    @pytest.mark.parametrize("length", [0, 2, 5])
    def test_a_mask_that_is_too_short_is_refused(self, refused, request_of_six, blocks, length):
        refused(ArgumentError, "mask", request_of_six, blocks, mask=[True] * length)

    @pytest.mark.parametrize("size", [SIZE, 2 * SIZE])
    def test_hashes_that_are_too_few_are_refused(self, refused, blocks, size):
        short = make_request("short", 5 * SIZE, SIZE)
        refused(ArgumentError, "short has 5 block hashes", short, blocks, size=size)

    def test_a_request_without_hashes_is_refused(self, refused, request_of_six, blocks):
        refused(ArgumentError, "block_hasher", cut(request_of_six, []), blocks)
