"""What comes from outside is refused before compiled code sees it, and before anything is changed."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
from support.managers import (
    admit,
    chunked,
    free_order,
    full,
    make_manager,
    make_request,
    mamba,
    per_backend,
    snapshot,
    window,
)

from kvgpu.batch.manager import BatchManager
from kvgpu.blocks.free_order import NUM_FREE
from kvgpu.blocks.kv_cache_blocks import KVCacheBlocks
from kvgpu.blocks.state import KVCacheBlock
from kvgpu.compiled.jit import jit, python_of
from kvgpu.errors import ArgumentError, ArgumentTypeError, BlockIdError, BlockStateError, InvariantError, KVGPUError
from kvgpu.groups.compiled import TALLY_WORDS, take_free
from kvgpu.index.host.pool_arrays import PoolArrays

TAKE_FREE = jit(python_of(take_free))
"""As compiled code runs it, which checks no bounds."""

NUMBERS = (
    "num_new_tokens",
    "num_new_computed_tokens",
    "num_lookahead_tokens",
    "num_external_computed_tokens",
    "num_encoder_tokens",
    "reserved_blocks",
)
TOO_LARGE = (2**31, 2**40, 2**62, 2**63 - 1, 2**63, 10**30)
TOO_SMALL = (-1, -100, -(2**31), -(2**63))


def refused(manager, error, call, words=None):
    """See that a call is refused and leaves all as it was."""
    before = snapshot(manager)
    with pytest.raises(error, match=words):
        call()
    assert snapshot(manager) == before
    assert manager.block_pool.block_tables.num_used() == sum(map(len, before["tables"]))
    manager.check()


@pytest.fixture
def manager(backend):
    return make_manager(full(4), num_blocks=20, max_model_len=100, backend=backend)


@per_backend
class TestNumbers:
    @pytest.mark.parametrize("value", [*TOO_SMALL, *TOO_LARGE])
    @pytest.mark.parametrize("name", NUMBERS)
    def test_one_out_of_range_is_refused(self, manager, name, value):
        asked = {"num_new_tokens": 4, name: value}
        refused(manager, ArgumentError, lambda: manager.allocate_slots(make_request("a", 9, 4), **asked))

    @pytest.mark.parametrize("value", [None, "4", 4.0, float("nan"), [4], np.array([4, 5])])
    @pytest.mark.parametrize("name", NUMBERS)
    def test_something_else_than_an_integer_is_refused(self, manager, name, value):
        asked = {"num_new_tokens": 4, name: value}
        refused(manager, KVGPUError, lambda: manager.allocate_slots(make_request("a", 9, 4), **asked))

    @pytest.mark.parametrize("value", [*TOO_SMALL, *TOO_LARGE, None, 5.9])
    @pytest.mark.parametrize("name", ["num_computed_tokens", "num_tokens"])
    def test_a_request_that_says_odd_things_of_itself_is_refused(self, manager, name, value):
        request = make_request("a", 9, 4)
        odd = SimpleNamespace(
            **{
                "request_id": "a",
                "block_hashes": request.block_hashes,
                "num_tokens": 9,
                "num_computed_tokens": 0,
                "skip_reading_prefix_cache": False,
                "num_preemptions": 0,
                name: value,
            }
        )
        refused(manager, KVGPUError, lambda: manager.allocate_slots(odd, 4))

    def test_a_running_request_cannot_be_given_fewer_than_no_tokens(self, manager):
        """The guard of a request that needs nothing must not answer for these."""
        request = make_request("a", 9, 4)
        admit(manager, request)
        for asked in ({"num_lookahead_tokens": -5}, {"num_new_tokens": 0.5}):
            refused(
                manager,
                ArgumentError,
                lambda asked=asked: manager.allocate_slots(request, **{"num_new_tokens": 1, **asked}),
            )

    def test_numbers_of_numpy_are_numbers(self, manager):
        assert manager.allocate_slots(make_request("a", 9, 4), np.int32(9)) is not None
        manager.check()

    @pytest.mark.parametrize("field", ["request_id", "block_hashes", "num_tokens"])
    def test_a_request_without_an_attribute_is_refused(self, manager, field):
        odd = SimpleNamespace(
            request_id="a", block_hashes=[], num_tokens=3, num_computed_tokens=0, skip_reading_prefix_cache=False
        )
        delattr(odd, field)
        refused(manager, ArgumentTypeError, lambda: manager.allocate_slots(odd, 3))

    def test_tokens_that_no_computed_block_holds_are_refused(self, manager):
        """Their blocks would be cached as if they had been computed."""
        refused(
            manager,
            ArgumentError,
            lambda: manager.allocate_slots(make_request("a", 20, 4), 4, 16),
            "computed blocks hold 0 tokens",
        )


MASKED = (window(4, 8), chunked(4, 8), mamba(4))


@per_backend
@pytest.mark.parametrize("enable_caching", [True, False])
@pytest.mark.parametrize("spec", MASKED, ids=lambda spec: type(spec).__name__)
class TestComputedTokens:
    """Blocks in front of a mask are not counted, so more would be taken from the free queue than are there."""

    def test_those_of_a_request_without_blocks_are_refused(self, spec, backend, enable_caching):
        manager = make_manager(spec, num_blocks=4, backend=backend, enable_caching=enable_caching)
        request = make_request("a", 41, 4)
        request.num_computed_tokens = 36
        refused(manager, ArgumentError, lambda: manager.allocate_slots(request, 4), "holds blocks")

    def test_more_than_the_blocks_of_a_request_hold_are_refused(self, spec, backend, enable_caching):
        manager = make_manager(spec, num_blocks=4, backend=backend, enable_caching=enable_caching)
        request = make_request("a", 41, 4)
        manager.allocate_slots(request, 4, delay_cache_blocks=True)
        request.num_computed_tokens = 36
        refused(manager, ArgumentError, lambda: manager.allocate_slots(request, 4), "holds blocks")


def test_a_walk_beyond_the_free_queue_stops_before_its_first_step():
    """Whatever had miscounted: nothing is taken, and the next call says that the index is broken."""
    manager = make_manager(full(4), num_blocks=4)
    state, index = manager.block_pool.state, manager.block_pool.index
    pool = PoolArrays(*index.arrays())
    out = np.full(4, 77, np.int32)
    TAKE_FREE(pool, out, np.zeros(TALLY_WORDS, np.int64))
    assert out.tolist() == [state.null_id] * 4
    assert free_order(manager) == [1, 2, 3]
    with pytest.raises(InvariantError):
        manager.allocate_slots(make_request("a", 4, 4), 4)


def test_a_walk_of_a_free_queue_that_has_miscounted_itself_stops_at_its_end():
    manager = make_manager(full(4), num_blocks=4)
    state, index = manager.block_pool.state, manager.block_pool.index
    state.free.queue_words[NUM_FREE] = 9
    out = np.full(5, 77, np.int32)
    TAKE_FREE(PoolArrays(*index.arrays()), out, np.zeros(TALLY_WORDS, np.int64))
    assert out.tolist() == [1, 2, 3, state.null_id, state.null_id]
    assert free_order(manager) == []
    with pytest.raises(InvariantError):
        manager.allocate_slots(make_request("a", 4, 4), 4)


@per_backend
class TestBlocks:
    def hits_of(self, manager, blocks):
        request = make_request("new", 40, 4)
        computed = KVCacheBlocks((blocks,))
        return lambda: manager.allocate_slots(request, 4, 4 * len(blocks), computed)

    @pytest.mark.parametrize("block_id", [-1, -2, -3, 20, 5000, 2**31 - 1])
    def test_ids_outside_the_pool_are_refused_as_hits(self, manager, block_id):
        refused(manager, KVGPUError, self.hits_of(manager, np.array([block_id], np.int64)))

    def test_blocks_made_by_hand_and_of_other_pools_are_refused(self, manager):
        other = make_manager(full(4), num_blocks=20)
        admit(other, make_request("b", 8, 4))
        for blocks in ([KVCacheBlock(7)], other.get_blocks("b").blocks[0]):
            refused(manager, ArgumentError, self.hits_of(manager, blocks), "belongs to another pool")

    def test_blocks_that_are_not_cached_or_come_twice_are_refused(self, manager):
        admit(manager, make_request("cached", 8, 4))
        pool = manager.block_pool
        for blocks in ([pool.blocks[9]], [pool.blocks[1], pool.blocks[1]], [pool.null_block]):
            refused(manager, ArgumentError, self.hits_of(manager, blocks), "cannot be a computed block")

    def test_null_blocks_stand_only_in_front(self, backend):
        manager = make_manager(window(4, 8), num_blocks=20, backend=backend)
        admit(manager, make_request("cached", 8, 4))
        pool = manager.block_pool
        blocks = [pool.blocks[1], pool.null_block]
        refused(manager, ArgumentError, self.hits_of(manager, blocks), "cannot be a computed block")

    @pytest.mark.parametrize("name", ["touch", "free_blocks"])
    @pytest.mark.parametrize(
        ("ids", "error"),
        [
            (np.array([127], np.uint64), BlockIdError),
            (np.array([-1]), BlockIdError),
            (np.array([2**63], np.uint64), ArgumentError),
            (np.array([1.5]), ArgumentTypeError),
            (np.array([[1]]), ArgumentTypeError),
            (7, ArgumentTypeError),
            ([7], ArgumentTypeError),
            ([None], ArgumentTypeError),
        ],
        ids=str,
    )
    def test_odd_ids_are_refused(self, manager, name, ids, error):
        refused(manager, error, lambda: getattr(manager.block_pool, name)(ids))

    def test_a_block_that_was_not_handed_out_cannot_be_given_back(self, manager):
        admit(manager, make_request("holds", 8, 4))
        pool = manager.block_pool
        mine = pool.get_new_blocks(1)
        for blocks in (pool.blocks[1:2], pool.blocks[9:10], [*mine, *mine]):
            refused(manager, BlockStateError, lambda blocks=blocks: pool.free_blocks(blocks), "was not handed out")
        pool.free_blocks(mine)
        manager.check()

    def test_a_lost_block_is_seen(self, manager):
        """A reference that lies in no table and was handed out to nobody."""
        manager.block_pool.allocator.take(1)
        with pytest.raises(AssertionError, match="block 1 is in 0 block tables, but counts 1 users"):
            manager.check()

    @pytest.mark.parametrize("ids", [[1, 2, 1.5], [1, None], [1, "2"], 5])
    def test_evicting_something_else_than_ids_evicts_none(self, manager, ids):
        admit(manager, make_request("a", 12, 4))
        refused(manager, ArgumentTypeError, lambda: manager.evict_blocks(ids))


@per_backend
def test_an_unknown_request_is_given_nothing_by_asking_for_it(backend):
    manager = make_manager(full(4), window(4, 8), backend=backend)
    before = manager.block_pool.block_tables.num_used()
    manager.cache_blocks(make_request("a", 12, 4), 12)
    assert manager.get_num_common_prefix_blocks("a") == [0, 0]
    manager.remove_skipped_blocks("a", 12)
    assert manager.block_pool.block_tables.num_used() == before


@pytest.mark.parametrize("what", ["manager", "batch"])
def test_a_copy_would_share_the_state_and_is_refused(what):
    manager = make_manager(full(4))
    subject = manager if what == "manager" else BatchManager(manager, 2, 10)
    with pytest.raises(ArgumentTypeError, match="cannot be copied"):
        copy.copy(subject)


@per_backend
def test_all_groups_take_their_hits_before_the_first_block_for_external_tokens(backend):
    """A hit of the second group, free and next in the queue, must not become room of the first."""
    manager = make_manager(full(4), window(4, 8), num_blocks=16, backend=backend)
    first = make_request("first", 16, 4)
    admit(manager, first)
    manager.free(first)
    second = make_request("second", [*range(16), *range(50, 70)], 4)
    computed, num_hits = manager.get_computed_blocks(second)
    assert num_hits == 16
    blocks = manager.allocate_slots(
        second, 4, num_hits, computed, num_external_computed_tokens=4, delay_cache_blocks=True
    )
    assert blocks is not None
    held = [i for group in manager.get_block_ids("second") for i in group if i != 0]
    assert len(set(held)) == len(held)
    manager.check()
