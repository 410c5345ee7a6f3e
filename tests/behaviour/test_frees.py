"""Behaviour 0.33: in which order freed blocks are reused, and what is given back when."""

import pytest
from behaviour.later import computed, later
from support.managers import free_order, full, held, per_backend, window


@per_backend
@pytest.mark.parametrize(
    ("caching", "order"),
    [(True, [3, 4, 5, 6, 7, 8, 2, 1]), (False, [3, 2, 1, 4, 5, 6, 7, 8])],
    ids=["caching", "no caching"],
)
def test_blocks_without_a_hash_are_reused_first(backend, caching, order):
    manager = later(full(4), num_blocks=9, enable_caching=caching, backend=backend)
    manager.free(computed(manager, "a", 10))
    assert free_order(manager) == order


@per_backend
def test_blocks_of_the_pool_are_split_in_the_order_given(backend):
    manager = later(full(4), num_blocks=9, backend=backend)
    pool = manager.block_pool
    request = computed(manager, "a", 8)
    taken = pool.get_new_blocks(2)
    pool.touch([pool.blocks[1]])
    pool.free_blocks([taken[1], pool.blocks[1], taken[0]])
    manager.free(request)
    assert free_order(manager) == [4, 3, 5, 6, 7, 8, 2, 1]


@per_backend
def test_deferred_frees_go_back_as_the_engine_gives_them(backend):
    at_once = later(full(4), window(4, 100), num_blocks=9, backend=backend)
    at_once.free(computed(at_once, "a", 12))
    assert free_order(at_once) == [7, 8, 3, 2, 1, 6, 5, 4]
    deferred = later(full(4), window(4, 100), num_blocks=9, backend=backend)
    blocks = deferred.pop_blocks_for_free(computed(deferred, "a", 12))
    assert [block.block_id for block in blocks] == [1, 2, 3, 4, 5, 6]
    assert free_order(deferred) == [7, 8]
    assert deferred.get_block_ids("a") == ([], [])
    deferred.check()
    deferred.block_pool.free_blocks(reversed(blocks))
    assert free_order(deferred) == [7, 8, 6, 5, 4, 3, 2, 1]
    deferred.check()


@per_backend
def test_blocks_of_an_unknown_request_are_none(backend):
    manager = later(full(4), backend=backend)
    request = computed(manager, "a", 8)
    manager.free(request)
    assert manager.pop_blocks_for_free(request) == []


@per_backend
@pytest.mark.parametrize(("in_flight", "expected"), [(8, [1, 2, 3]), (0, [0, 0, 3])])
def test_a_window_keeps_what_steps_in_flight_read(backend, in_flight, expected):
    manager = later(window(4, 4), backend=backend)
    request = computed(manager, "a", 12)
    manager.remove_skipped_blocks("a", processed_computed_tokens=12 - in_flight)
    assert held(manager, request) == expected


@per_backend
def test_a_call_gives_back_by_processed_tokens(backend):
    manager = later(window(4, 4), backend=backend)
    request = computed(manager, "a", 12)
    request.append_output_token_ids(1)
    request.num_in_flight_tokens = 12
    manager.allocate_slots(request, 1)
    assert held(manager, request) == [1, 2, 3, 4]
    request.num_computed_tokens = 13
    request.append_output_token_ids([1, 1, 1, 1])
    request.num_in_flight_tokens = 1
    manager.allocate_slots(request, 4)
    assert held(manager, request)[:3] == [0, 0, 3]


@per_backend
def test_the_null_block_has_no_users(backend):
    manager = later(window(4, 4), backend=backend)
    request = computed(manager, "a", 16, chunk=12)
    assert 0 in held(manager, request)
    manager.free(request)
    assert manager.block_pool.null_block.ref_cnt == 0
