"""The manager's lookups, releases, evictions and resets, on every index backend."""

import pytest
from support.managers import (
    admit,
    cached_ids,
    cached_places,
    decode,
    free_order,
    full,
    held,
    make_manager,
    make_request,
    no_sampling,
    per_backend,
    snapshot,
    window,
)

SIZE = 16
SHARED = list(range(3 * SIZE))


def sharing(name, own_tokens):
    """A request that begins with three blocks of tokens that others have too."""
    tag = 1000 + sum(map(ord, name))
    return make_request(name, [*SHARED, *[tag] * own_tokens], SIZE)


@pytest.fixture
def two_users(backend):
    """A manager of 10 free blocks, and two requests that share three of them."""
    manager = make_manager(full(SIZE), num_blocks=11, backend=backend)
    first, second = sharing("a", 7), sharing("b", 5)
    admit(manager, first)
    admit(manager, second)
    return manager, first, second


@per_backend
def test_a_request_gets_blocks_in_order_of_their_ids(backend):
    manager = make_manager(full(4), num_blocks=8, backend=backend)
    request = make_request("a", 10, 4)
    assert admit(manager, request).get_block_ids() == ([1, 2, 3],)


@per_backend
def test_a_freed_request_gives_back_its_last_block_first(backend):
    manager = make_manager(full(4), num_blocks=8, backend=backend)
    request = make_request("a", 10, 4)
    admit(manager, request)
    manager.free(request)
    assert free_order(manager) == [4, 5, 6, 7, 3, 2, 1]


@per_backend
def test_requests_with_the_same_prefix_share_its_blocks(two_users):
    manager, first, second = two_users
    assert (held(manager, first), held(manager, second)) == ([1, 2, 3, 4], [1, 2, 3, 5])
    assert [manager.block_pool.blocks[i].ref_cnt for i in range(1, 6)] == [2, 2, 2, 1, 1]


@per_backend
def test_shared_blocks_become_free_with_their_last_user(two_users):
    manager, first, second = two_users
    manager.free(first)
    assert free_order(manager) == [6, 7, 8, 9, 10, 4]
    manager.free(second)
    assert free_order(manager) == [6, 7, 8, 9, 10, 4, 5, 3, 2, 1]


@per_backend
def test_a_hit_moves_shared_blocks_behind_all_others(two_users):
    manager, first, second = two_users
    manager.free(first)
    manager.free(second)
    third = sharing("c", 5)
    assert manager.get_computed_blocks(third)[1] == 3 * SIZE
    assert admit(manager, third).get_block_ids() == ([6],)
    manager.free(third)
    assert free_order(manager) == [7, 8, 9, 10, 4, 5, 6, 3, 2, 1]


@per_backend
def test_a_miss_takes_blocks_in_free_order(two_users):
    manager, first, second = two_users
    manager.free(first)
    manager.free(second)
    order = free_order(manager)
    miss = make_request("miss", [9] * (10 * SIZE), SIZE)
    assert admit(manager, miss).get_block_ids() == (order,)


@per_backend
def test_eviction_begins_with_the_request_that_was_freed_first(backend):
    manager = make_manager(full(SIZE), num_blocks=11, backend=backend)
    first = make_request("a", 5 * SIZE + 7, SIZE)
    second = make_request("b", range(500, 500 + 3 * SIZE), SIZE)
    admit(manager, first)
    admit(manager, second)
    manager.free(first)
    manager.free(second)
    assert free_order(manager) == [10, 6, 5, 4, 3, 2, 1, 9, 8, 7]
    third = make_request("c", 2 * SIZE + 3, SIZE)
    admit(manager, third)
    assert held(manager, third) == [1, 2, 10]
    assert manager.block_pool.get_num_free_blocks() == 7


@per_backend
def test_one_token_is_always_left_to_compute(backend):
    manager = make_manager(full(4), backend=backend)
    admit(manager, make_request("a", 12, 4))
    assert manager.get_computed_blocks(make_request("same", 12, 4))[1] == 8
    assert manager.get_computed_blocks(make_request("longer", 13, 4))[1] == 12


@per_backend
def test_a_lookup_takes_no_blocks_and_changes_nothing(backend):
    manager = make_manager(full(4), backend=backend)
    request = make_request("a", 12, 4)
    admit(manager, request)
    manager.free(request)
    before = snapshot(manager)
    blocks, num_hits = manager.get_computed_blocks(make_request("b", 12, 4))
    assert (blocks.get_block_ids(), num_hits) == (([1, 2],), 8)
    assert snapshot(manager) == before


@per_backend
def test_a_lookup_returns_the_block_that_was_cached_first(backend):
    manager = make_manager(full(4), backend=backend)
    for name in ("a", "b"):
        manager.allocate_slots(make_request(name, 8, 4), 8)
    assert manager.get_computed_blocks(make_request("c", 9, 4))[0].get_block_ids() == ([1, 2],)
    assert cached_ids(manager) == {1, 2, 3, 4}


@per_backend
def test_different_tokens_do_not_hit(backend):
    manager = make_manager(full(4), backend=backend)
    admit(manager, make_request("a", [1, 2, 3, 4, 5, 6, 7, 8, 9], 4))
    other = make_request("b", [1, 2, 3, 4, 5, 6, 0, 8, 9], 4)
    assert manager.get_computed_blocks(other)[1] == 4


@per_backend
def test_different_salts_do_not_hit(backend):
    manager = make_manager(full(4), backend=backend)
    admit(manager, make_request("a", 9, 4, cache_salt="x"))
    assert manager.get_computed_blocks(make_request("b", 9, 4, cache_salt="y"))[1] == 0
    assert manager.get_computed_blocks(make_request("c", 9, 4, cache_salt="x"))[1] == 8


@per_backend
def test_generated_tokens_are_cached_when_they_fill_a_block(backend):
    manager = make_manager(full(4), backend=backend)
    request = make_request("a", 6, 4)
    admit(manager, request)
    decode(manager, request)
    assert cached_places(manager, request) == {0}
    decode(manager, request)
    assert cached_places(manager, request) == {0, 1}


@per_backend
def test_nothing_is_found_without_prefix_caching(backend):
    manager = make_manager(full(4), enable_caching=False, backend=backend)
    request = make_request("a", 12, 4)
    admit(manager, request)
    blocks, num_hits = manager.get_computed_blocks(make_request("b", 12, 4))
    assert blocks is manager.empty_kv_cache_blocks
    assert num_hits == 0
    assert cached_ids(manager) == set()


@per_backend
def test_a_request_for_prompt_logprobs_hits_nothing_but_caches(backend):
    manager = make_manager(full(4), backend=backend)
    admit(manager, make_request("a", 8, 4))
    request = make_request("b", 8, 4, sampling_params=no_sampling(prompt_logprobs=1))
    assert manager.get_computed_blocks(request) == (manager.empty_kv_cache_blocks, 0)
    admit(manager, request)
    blocks = manager.block_pool.blocks
    assert held(manager, request) == [3, 4]
    assert [blocks[i].block_hash for i in (1, 2)] == [blocks[i].block_hash for i in (3, 4)]


@per_backend
def test_an_evicted_block_is_not_found_but_stays_in_use(backend):
    manager = make_manager(full(4), backend=backend)
    request = make_request("a", 12, 4)
    admit(manager, request)
    manager.evict_blocks({2})
    assert manager.get_computed_blocks(make_request("b", 12, 4))[1] == 4
    assert held(manager, request) == [1, 2, 3]
    assert [manager.block_pool.blocks[i].ref_cnt for i in (1, 2, 3)] == [1, 1, 1]


@per_backend
def test_a_reset_forgets_all_cached_blocks(backend):
    manager = make_manager(full(4), backend=backend)
    request = make_request("a", 12, 4)
    admit(manager, request)
    manager.free(request)
    assert manager.reset_prefix_cache() is True
    assert manager.get_computed_blocks(make_request("b", 12, 4))[1] == 0
    assert [b.block_hash for b in manager.block_pool.blocks] == [None] * 100


@per_backend
def test_a_reset_is_refused_while_a_request_holds_blocks(backend):
    manager = make_manager(full(4), backend=backend)
    admit(manager, make_request("a", 12, 4))
    before = snapshot(manager)
    assert manager.reset_prefix_cache() is False
    assert snapshot(manager) == before


def test_common_prefix_blocks_are_those_that_all_requests_share():
    manager = make_manager(full(SIZE), window(SIZE, 8 * SIZE))
    first, second = sharing("a", 5), sharing("b", 5)
    admit(manager, first)
    assert manager.get_num_common_prefix_blocks("a") == [4, 0]
    admit(manager, second)
    assert manager.get_num_common_prefix_blocks("a") == [3, 0]
    admit(manager, make_request("c", [9] * 20, SIZE))
    assert manager.get_num_common_prefix_blocks("a") == [0, 0]


def test_empty_results_are_one_shared_object():
    manager = make_manager(full(4))
    request = make_request("a", 5, 4)
    assert manager.get_blocks("unknown") is manager.empty_kv_cache_blocks
    assert manager.get_computed_blocks(request)[0] is manager.empty_kv_cache_blocks
    admit(manager, request)
    assert decode(manager, request) is manager.empty_kv_cache_blocks


def test_block_ids_of_an_unknown_request_are_empty_lists():
    manager = make_manager(full(4), window(4, 8))
    assert manager.get_block_ids("unknown") == ([], [])
