"""Calls that a manager refuses: with which error, and that everything stays as it was; and calls that are no error."""

from types import SimpleNamespace

import pytest
from support.managers import (
    accounts_balance,
    admit,
    full,
    held,
    make_manager,
    make_request,
    mamba,
    per_backend,
    snapshot,
    window,
)

from kvgpu import errors
from kvgpu.blocks.kv_cache_blocks import KVCacheBlocks
from kvgpu.request import Request


class Unchanged:
    """Remembers the state of a manager, and asserts that it is the same and sound."""

    def __init__(self, manager):
        self.manager = manager
        self.before = snapshot(manager)

    def verify(self):
        assert snapshot(self.manager) == self.before
        assert accounts_balance(self.manager)
        self.manager.check()


def running(manager, tokens=10, size=4):
    """A request that holds blocks."""
    request = make_request("running", tokens, size)
    admit(manager, request)
    return request


@pytest.mark.parametrize(
    ("error", "builtins"),
    [
        (errors.ConfigError, [ValueError]),
        (errors.UnknownNameError, [ValueError]),
        (errors.ArgumentError, [ValueError]),
        (errors.NotEnoughBlocksError, [ValueError]),
        (errors.BlockIdError, [AssertionError, IndexError]),
        (errors.BlockStateError, [AssertionError]),
        (errors.FreeQueueError, [RuntimeError]),
        (errors.InvariantError, [AssertionError]),
        (errors.TraceError, [ValueError]),
        (errors.SampleRateError, [AssertionError, ValueError]),
        (errors.RunningRequestError, [AssertionError, ValueError]),
        (errors.GroupCountError, [AssertionError, ValueError]),
        (errors.NoneHashError, [AttributeError]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_each_error_is_ours_and_a_built_in_one(error, builtins):
    assert issubclass(error, errors.KVGPUError)
    assert [issubclass(error, builtin) for builtin in builtins] == [True] * len(builtins)


# Calls


@per_backend
def test_allocating_for_no_tokens_is_refused(backend):
    manager = make_manager(full(4), backend=backend)
    request = running(manager)
    unchanged = Unchanged(manager)
    with pytest.raises(errors.ArgumentError, match="num_new_tokens must be above 0"):
        manager.allocate_slots(request, 0)
    unchanged.verify()


@per_backend
def test_hits_for_a_running_request_are_refused_before_its_window_moves(backend):
    manager = make_manager(full(4), window(4, 4), backend=backend)
    request = running(manager, 20)
    computed, num_hits = manager.get_computed_blocks(make_request("twin", 20, 4))
    unchanged = Unchanged(manager)
    with pytest.raises(errors.RunningRequestError, match="running"):
        manager.allocate_slots(request, 4, num_hits, computed)
    unchanged.verify()
    assert held(manager, request, 1)[:4] == [6, 7, 8, 9]


@per_backend
@pytest.mark.parametrize("bad", [-1, 10, 1000])
def test_evicting_a_block_outside_the_pool_evicts_none(backend, bad):
    manager = make_manager(full(4), num_blocks=10, backend=backend)
    running(manager)
    unchanged = Unchanged(manager)
    with pytest.raises(errors.BlockIdError, match=f"block id {bad} is outside the pool of 10"):
        manager.evict_blocks([1, 2, bad])
    unchanged.verify()


@per_backend
def test_more_blocks_than_are_free_cannot_be_taken(backend):
    manager = make_manager(full(4), num_blocks=10, backend=backend)
    running(manager)
    unchanged = Unchanged(manager)
    with pytest.raises(errors.NotEnoughBlocksError, match="7 blocks were requested, but 6 are free"):
        manager.block_pool.get_new_blocks(7)
    unchanged.verify()


@per_backend
def test_caching_blocks_of_an_odd_size_is_refused(backend):
    manager = make_manager(full(8), window(4, 8), backend=backend)
    request = make_request("a", 24, 4)
    manager.allocate_slots(request, 24, delay_cache_blocks=True)
    blocks = manager.get_blocks("a").blocks[0]
    unchanged = Unchanged(manager)
    with pytest.raises(errors.ArgumentError, match="block_size 6 is not a multiple"):
        manager.block_pool.cache_full_blocks(request, blocks, 0, 3, 6, 0)
    unchanged.verify()


@per_backend
def test_caching_a_block_twice_is_refused(backend):
    manager = make_manager(full(4), backend=backend)
    request = running(manager, 12)
    blocks = manager.get_blocks("running").blocks[0]
    unchanged = Unchanged(manager)
    with pytest.raises(errors.BlockStateError, match="already has a hash"):
        manager.block_pool.cache_full_blocks(request, blocks, 0, 3, 4, 0)
    unchanged.verify()


@per_backend
def test_a_request_without_hashes_is_refused_before_it_gets_blocks(backend):
    manager = make_manager(full(4), backend=backend)
    unchanged = Unchanged(manager)
    with pytest.raises(errors.ArgumentError, match="block_hasher"):
        manager.allocate_slots(Request("a", list(range(10))), 10)
    unchanged.verify()


def test_hits_without_prefix_caching_are_refused_before_the_first_change():
    """The first group was given none, so it alone would see nothing wrong."""
    manager = make_manager(full(4), window(4, 8), enable_caching=False)
    computed = KVCacheBlocks(([], [manager.block_pool.blocks[1]]))
    unchanged = Unchanged(manager)
    with pytest.raises(errors.ArgumentError, match="without prefix caching"):
        manager.allocate_slots(make_request("a", 12, 4), 4, 4, computed)
    unchanged.verify()


def test_a_result_for_another_number_of_groups_is_refused():
    manager = make_manager(full(4), window(4, 8))
    unchanged = Unchanged(manager)
    with pytest.raises(errors.GroupCountError, match="of 1 groups, there are 2"):
        manager.allocate_slots(make_request("a", 8, 4), 4, 0, KVCacheBlocks(([],)))
    unchanged.verify()


# A request that grows beyond the model


@per_backend
def test_tokens_beyond_the_model_have_no_slots_and_are_refused(backend):
    manager = make_manager(full(4), max_model_len=8, backend=backend)
    request = running(manager, 8)
    request.append_output_token_ids(7)
    unchanged = Unchanged(manager)
    with pytest.raises(errors.ArgumentError, match="would have 9 tokens, max_model_len is 8"):
        manager.allocate_slots(request, 1)
    unchanged.verify()


@per_backend
def test_tokens_from_elsewhere_beyond_the_model_are_refused(backend):
    manager = make_manager(full(4), max_model_len=8, backend=backend)
    unchanged = Unchanged(manager)
    with pytest.raises(errors.ArgumentError, match="max_model_len is 8"):
        manager.allocate_slots(make_request("a", 40, 4), 0, num_external_computed_tokens=40)
    unchanged.verify()


@per_backend
def test_drafts_beyond_the_model_get_no_slots_and_are_no_error(backend):
    manager = make_manager(full(4), max_model_len=8, backend=backend)
    request = make_request("a", 7, 4)
    assert admit(manager, request, num_lookahead_tokens=20).get_block_ids() == ([1, 2],)
    manager.check()


# What is no error


@per_backend
def test_freeing_an_unknown_request_changes_nothing(backend):
    manager = make_manager(full(4), window(4, 8), mamba(4), backend=backend)
    running(manager)
    unchanged = Unchanged(manager)
    manager.free(SimpleNamespace(request_id="unknown"))
    unchanged.verify()


@per_backend
def test_freeing_twice_is_freeing_once(backend):
    manager = make_manager(full(4), backend=backend)
    request = running(manager)
    manager.free(request)
    unchanged = Unchanged(manager)
    manager.free(request)
    unchanged.verify()


@per_backend
def test_a_call_that_does_not_fit_is_no_error(backend):
    manager = make_manager(full(4), num_blocks=4, backend=backend)
    unchanged = Unchanged(manager)
    assert manager.allocate_slots(make_request("a", 100, 4), 100) is None
    unchanged.verify()


def test_evicting_blocks_that_are_not_cached_is_no_error():
    manager = make_manager(full(4))
    unchanged = Unchanged(manager)
    manager.evict_blocks([0, 5, 99])
    unchanged.verify()
