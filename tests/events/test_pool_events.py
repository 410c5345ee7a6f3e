"""Events of the pool: which changes are told, in which order, and what each event shows."""

import numpy as np
import pytest
from support.managers import admit, full, make_manager, make_request, per_backend
from support.pools import NUM_BLOCKS, SIZE, cache, ids, kinds

from kvgpu.block_pool import BlockPool
from kvgpu.blocks.state import KVCacheBlock
from kvgpu.errors import ConfigError
from kvgpu.events.messages import BlockRemoved, BlockStored


@pytest.fixture
def pool(backend):
    return BlockPool(NUM_BLOCKS, True, SIZE, enable_kv_cache_events=True, backend=backend)


@pytest.fixture
def request_of_six():
    return make_request("a", 6 * SIZE, SIZE)


@pytest.fixture(params=["regular", "beside an odd entry"])
def any_pool(request, pool):
    """Pools in which ranges are entered in one batch, and one by one."""
    if request.param != "regular":
        pool.cached_block_hash_to_block.insert(b"hash0", KVCacheBlock(0))
    return pool


def shown(block_hash):
    """A hash as an integer event shows it."""
    return int.from_bytes(block_hash[-8:], "big")


@per_backend
class TestEvents:
    def test_one_event_says_what_was_stored(self, any_pool, request_of_six):
        cache(any_pool, request_of_six, any_pool.get_new_blocks(3), group=2)
        assert any_pool.take_events() == [
            BlockStored(
                block_hashes=[shown(h) for h in request_of_six.block_hashes[:3]],
                parent_block_hash=None,
                token_ids=list(range(3 * SIZE)),
                block_size=SIZE,
                lora_id=None,
                medium="GPU",
                lora_name=None,
                extra_keys=[None] * 3,
                group_idx=2,
            )
        ]

    def test_the_parent_is_the_block_before_though_it_was_never_cached(self, any_pool, request_of_six):
        blocks = [any_pool.null_block, any_pool.null_block, *any_pool.get_new_blocks(1)]
        cache(any_pool, request_of_six, blocks, 2, 3)
        (event,) = any_pool.take_events()
        assert event.parent_block_hash == shown(request_of_six.block_hashes[1])
        assert event.token_ids == list(range(2 * SIZE, 3 * SIZE))

    def test_blocks_that_are_not_kept_have_tokens_but_no_hash(self, any_pool, request_of_six):
        blocks = [any_pool.null_block, *any_pool.get_new_blocks(3)]
        cache(any_pool, request_of_six, blocks, mask=[True, False, True, False])
        (event,) = any_pool.take_events()
        assert event.block_hashes == [shown(request_of_six.block_hashes[2])]
        assert event.token_ids == list(range(4 * SIZE))
        assert event.extra_keys == [None]

    def test_an_event_is_sent_though_nothing_was_kept(self, any_pool, request_of_six):
        cache(any_pool, request_of_six, [any_pool.null_block] * 2)
        (event,) = any_pool.take_events()
        assert (event.block_hashes, event.extra_keys) == ([], None)
        assert event.token_ids == list(range(2 * SIZE))

    def test_a_block_of_several_hashes_shows_the_end_of_the_last(self, any_pool, request_of_six):
        cache(any_pool, request_of_six, any_pool.get_new_blocks(3), 1, 3, 2 * SIZE)
        (event,) = any_pool.take_events()
        assert event.block_hashes == [shown(request_of_six.block_hashes[i]) for i in (3, 5)]
        assert event.parent_block_hash == shown(request_of_six.block_hashes[1])

    def test_hashes_are_bytes_when_integers_are_not_wanted(self, any_pool, request_of_six, monkeypatch):
        monkeypatch.setenv("VLLM_KV_EVENTS_USE_INT_BLOCK_HASHES", "0")
        cache(any_pool, request_of_six, any_pool.get_new_blocks(2), 0, 1, 2 * SIZE)
        (event,) = any_pool.take_events()
        assert event.block_hashes == [b"".join(request_of_six.block_hashes[:2])]

    def test_each_evicted_block_is_an_event_in_the_order_of_the_queue(self, any_pool, request_of_six):
        blocks = any_pool.get_new_blocks(3)
        cache(any_pool, request_of_six, blocks, group=2)
        any_pool.free_blocks(reversed(blocks))
        any_pool.take_events()
        any_pool.get_new_blocks(8)
        removed = [shown(request_of_six.block_hashes[i]) for i in (2, 1)]
        assert any_pool.take_events() == [BlockRemoved(block_hashes=[h], medium="GPU", group_idx=2) for h in removed]

    def test_events_come_in_the_order_in_which_things_happened(self, any_pool, request_of_six):
        blocks = any_pool.get_new_blocks(9)
        cache(any_pool, request_of_six, blocks[:1])
        any_pool.free_blocks(blocks)
        again = any_pool.get_new_blocks(1)
        cache(any_pool, request_of_six, again)
        any_pool.evict_blocks(ids(again))
        assert kinds(any_pool.take_events()) == [BlockStored, BlockRemoved, BlockStored, BlockRemoved]

    def test_evicting_what_is_not_cached_is_no_event(self, any_pool):
        any_pool.evict_blocks([1, 2])
        assert any_pool.take_events() == []

    def test_events_are_taken_once(self, any_pool, request_of_six):
        cache(any_pool, request_of_six, any_pool.get_new_blocks(1))
        assert len(any_pool.take_events()) == 1
        assert any_pool.take_events() == []

    def test_without_events_none_are_queued(self, backend, request_of_six):
        pool = BlockPool(NUM_BLOCKS, True, SIZE, backend=backend)
        cache(pool, request_of_six, pool.get_new_blocks(9), 0, 6)
        assert pool.kv_event_queue == pool.take_events() == []


@per_backend
class TestSwitch:
    def test_events_begin_and_end_when_the_switch_is_set(self, backend):
        manager = make_manager(full(SIZE), num_blocks=5, backend=backend)
        first = make_request("a", 2 * SIZE, SIZE)
        admit(manager, first)
        manager.free(first)
        manager.block_pool.enable_kv_cache_events = True
        admit(manager, make_request("b", range(1, 4 * SIZE + 1), SIZE))
        assert kinds(manager.take_events()) == [BlockRemoved, BlockRemoved, BlockStored]
        manager.block_pool.enable_kv_cache_events = False
        manager.evict_blocks({1, 2, 3, 4})
        assert manager.take_events() == []

    def test_the_switch_is_a_truth_value(self, pool):
        with pytest.raises(ConfigError):
            pool.enable_kv_cache_events = np.ones(2)
        assert pool.enable_kv_cache_events is True
