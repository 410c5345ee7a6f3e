"""Without prefix caching: any groups, blocks for all of them, and no hits."""

import pytest
from support.managers import (
    accounts_balance,
    admit,
    cached_ids,
    chunked,
    decode,
    free_order,
    full,
    held,
    make_manager,
    make_request,
    mamba,
    window,
)

from kvgpu.coordinators.unitary import KVCacheCoordinatorNoPrefixCache

COMBINATIONS = [
    [full(4)],
    [full(4), full(4)],
    [full(16), window(4, 8), mamba(32, "none")],
    [window(4, 4), chunked(8, 16)],
]


@pytest.mark.parametrize("specs", COMBINATIONS, ids=len)
def test_any_groups_can_be_combined(specs):
    manager = make_manager(*specs, enable_caching=False)
    request = make_request("a", 33, manager.block_pool.hash_block_size)
    admit(manager, request)
    assert isinstance(manager.coordinator, KVCacheCoordinatorNoPrefixCache)
    assert [len(held(manager, request, i)) for i in range(len(specs))] == [-(-33 // spec.block_size) for spec in specs]


@pytest.mark.parametrize("specs", COMBINATIONS, ids=len)
def test_nothing_hits_and_nothing_is_common(specs):
    manager = make_manager(*specs, enable_caching=False)
    request = make_request("a", 33, manager.block_pool.hash_block_size)
    admit(manager, request)
    assert manager.coordinator.find_longest_cache_hit(request.block_hashes, 33) == (tuple([] for _ in specs), 0)
    assert manager.get_num_common_prefix_blocks("a") == [0] * len(specs)
    assert cached_ids(manager) == set()


def test_no_group_drops_or_keeps_anything_for_a_hash_block():
    """Sizes that a cache could not serve do not matter."""
    manager = make_manager(full(6), full(4), hash_block_size=5, enable_caching=False)
    assert admit(manager, make_request("a", 12, 5)).get_block_ids() == ([1, 2], [3, 4, 5])


def test_several_groups_can_use_context_parallelism():
    manager = make_manager(full(4), full(8), enable_caching=False, dcp_world_size=2)
    request = make_request("a", 17, 4)
    admit(manager, request)
    assert [len(held(manager, request, i)) for i in (0, 1)] == [3, 2]


def test_blocks_outside_the_window_are_still_given_back():
    manager = make_manager(window(4, 4), num_blocks=4, enable_caching=False)
    request = make_request("a", 4, 4)
    admit(manager, request)
    decode(manager, request, 40)
    assert sum(block_id != 0 for block_id in held(manager, request)) <= 2
    assert accounts_balance(manager)


def test_a_freed_request_gives_back_its_last_block_first():
    manager = make_manager(full(4), num_blocks=6, enable_caching=False)
    request = make_request("a", 12, 4)
    admit(manager, request)
    manager.free(request)
    assert free_order(manager) == [4, 5, 3, 2, 1]


def test_there_are_no_statistics_and_no_events_of_blocks():
    manager = make_manager(full(4), enable_caching=False, log_stats=True, enable_kv_cache_events=True)
    request = make_request("a", 12, 4)
    manager.get_computed_blocks(request)
    admit(manager, request)
    assert manager.make_prefix_cache_stats().requests == 0
    assert manager.take_events() == []


def test_a_model_without_a_cache_needs_no_blocks():
    manager = make_manager(scheduler_block_size=4, hash_block_size=4, enable_caching=False)
    assert admit(manager, make_request("a", 12, 4)).get_block_ids() == ()
    assert manager.usage == 0.0
