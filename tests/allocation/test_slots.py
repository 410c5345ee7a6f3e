"""`allocate_slots`: which blocks a call gives, when it gives none, and what it caches."""

import pytest
from support.managers import (
    HEADS,
    accounts_balance,
    admit,
    cached_places,
    decode,
    free_order,
    full,
    held,
    make_manager,
    make_request,
    per_backend,
    snapshot,
    window,
)

from kvgpu.config.specs import HiddenStateCacheSpec, MLAAttentionSpec, TQFullAttentionSpec


def test_only_the_new_blocks_are_returned():
    manager = make_manager(full(4))
    request = make_request("a", 12, 4)
    assert manager.allocate_slots(request, 6).get_block_ids() == ([1, 2],)
    request.num_computed_tokens = 6
    assert manager.allocate_slots(request, 6).get_block_ids() == ([3],)
    assert held(manager, request) == [1, 2, 3]


@per_backend
def test_each_chunk_of_a_prompt_caches_the_blocks_that_it_fills(backend):
    manager = make_manager(full(4), backend=backend)
    request = make_request("a", 12, 4)
    manager.allocate_slots(request, 6)
    assert cached_places(manager, request) == {0}
    request.num_computed_tokens = 6
    manager.allocate_slots(request, 6)
    assert cached_places(manager, request) == {0, 1, 2}


@per_backend
def test_a_call_that_does_not_fit_returns_none_and_takes_nothing(backend):
    manager = make_manager(full(4), num_blocks=4, backend=backend)
    before = snapshot(manager)
    assert manager.allocate_slots(make_request("a", 13, 4), 13) is None
    assert snapshot(manager) == before


@per_backend
def test_a_call_that_needs_exactly_the_free_blocks_fits(backend):
    manager = make_manager(full(4), num_blocks=4, backend=backend)
    assert manager.allocate_slots(make_request("a", 12, 4), 12).get_block_ids() == ([1, 2, 3],)


@per_backend
def test_blocks_of_the_hit_are_not_taken_by_the_same_allocation(backend):
    manager = make_manager(full(4), num_blocks=3, backend=backend)
    first = make_request("a", 4, 4)
    admit(manager, first)
    manager.free(first)
    assert free_order(manager) == [2, 1]
    second = make_request("b", 8, 4)
    admit(manager, second)
    assert held(manager, second) == [1, 2]


@per_backend
def test_a_block_taken_for_other_tokens_has_no_hash(backend):
    manager = make_manager(full(4), num_blocks=2, backend=backend)
    first = make_request("a", 4, 4)
    admit(manager, first)
    manager.free(first)
    second = make_request("b", [9, 9, 9], 4)
    admit(manager, second)
    assert held(manager, second) == [1]
    assert manager.block_pool.blocks[1].block_hash is None


@per_backend
def test_free_hits_count_as_blocks_that_leave_the_free_queue(backend):
    """Six hits, three of them free, and three new blocks do not fit into five free ones."""
    manager = make_manager(full(16), num_blocks=9, backend=backend)
    first, second = make_request("a", 48, 16), make_request("b", 96, 16)
    admit(manager, first)
    admit(manager, second)
    manager.free(second)
    request = make_request("c", 9 * 16 - 1, 16)
    computed, num_hits = manager.get_computed_blocks(request)
    before = snapshot(manager)
    assert (num_hits, manager.block_pool.get_num_free_blocks()) == (96, 5)
    assert manager.allocate_slots(request, 47, num_hits, computed) is None
    assert snapshot(manager) == before
    assert [b.ref_cnt for b in computed.blocks[0]] == [1, 1, 1, 0, 0, 0]


def test_lookahead_tokens_get_slots():
    manager = make_manager(full(4))
    request = make_request("a", 8, 4)
    manager.allocate_slots(request, 8, num_lookahead_tokens=5)
    assert held(manager, request) == [1, 2, 3, 4]


@per_backend
def test_draft_tokens_are_not_cached(backend):
    manager = make_manager(full(4), backend=backend)
    request = make_request("a", 7, 4)
    manager.allocate_slots(request, 7 + 5)
    assert len(held(manager, request)) == 3
    assert cached_places(manager, request) == {0}
    assert [manager.block_pool.blocks[i].block_hash is None for i in (1, 2, 3)] == [False, True, True]


@per_backend
def test_external_tokens_get_blocks_behind_the_hit(backend):
    manager = make_manager(full(4), backend=backend)
    admit(manager, make_request("a", 8, 4))
    request = make_request("b", [*range(8), *[9] * 10], 4)
    computed, num_hits = manager.get_computed_blocks(request)
    new = manager.allocate_slots(request, 2, num_hits, computed, num_external_computed_tokens=8)
    assert held(manager, request) == [1, 2, 3, 4, 5]
    assert new.get_block_ids() == ([5],)
    assert cached_places(manager, request) == {0, 1, 2, 3}


@per_backend
def test_delayed_blocks_are_cached_when_the_caller_says_so(backend):
    manager = make_manager(full(4), backend=backend)
    request = make_request("a", 12, 4)
    manager.allocate_slots(request, 0, num_external_computed_tokens=8, delay_cache_blocks=True)
    assert held(manager, request) == [1, 2]
    assert cached_places(manager, request) == set()
    manager.cache_blocks(request, 4)
    assert cached_places(manager, request) == {0}
    manager.cache_blocks(request, 8)
    assert cached_places(manager, request) == {0, 1}


def test_caching_the_same_tokens_again_changes_nothing():
    manager = make_manager(full(4), enable_kv_cache_events=True)
    request = make_request("a", 12, 4)
    admit(manager, request)
    before = snapshot(manager)
    manager.cache_blocks(request, 12)
    assert snapshot(manager) == before


def test_cache_blocks_does_nothing_without_prefix_caching():
    manager = make_manager(full(4), enable_caching=False)
    request = make_request("a", 12, 4)
    admit(manager, request)
    manager.cache_blocks(request, 12)
    assert cached_places(manager, request) == set()


@pytest.mark.parametrize(("reserved", "fits"), [(0, True), (1, True), (2, False)])
def test_reserved_blocks_are_left_to_others(reserved, fits):
    manager = make_manager(full(4), num_blocks=5)
    got = manager.allocate_slots(make_request("a", 12, 4), 12, reserved_blocks=reserved)
    assert (got is not None) is fits


@pytest.mark.parametrize(("must_fit", "fits"), [(False, True), (True, False)])
def test_a_chunk_is_refused_if_the_whole_sequence_must_fit(must_fit, fits):
    manager = make_manager(full(4), num_blocks=4)
    got = manager.allocate_slots(make_request("a", 16, 4), 4, full_sequence_must_fit=must_fit)
    assert (got is not None) is fits


@pytest.mark.parametrize(("num_blocks", "fits"), [(7, False), (8, True)])
def test_a_window_counts_at_most_its_cap_when_the_whole_sequence_must_fit(num_blocks, fits):
    """Window 9, steps of 8 tokens: ceil((9 - 1 + 8) / 4) + 1 = 5; two more for full attention."""
    manager = make_manager(full(16), window(4, 9), num_blocks=num_blocks, max_num_batched_tokens=8)
    request = make_request("a", 32, 4)
    got = manager.allocate_slots(request, 8, full_sequence_must_fit=True)
    assert (got is not None) is fits


@pytest.mark.parametrize("must_fit", [False, True])
def test_no_slots_beyond_the_longest_sequence(must_fit):
    manager = make_manager(full(4), num_blocks=4, max_model_len=12)
    request = make_request("a", 30, 4)
    got = manager.allocate_slots(request, 10, num_lookahead_tokens=20, full_sequence_must_fit=must_fit)
    assert got.get_block_ids() == ([1, 2, 3],)


@per_backend
def test_blocks_outside_the_window_are_given_back_even_if_the_call_does_not_fit(backend):
    manager = make_manager(window(4, 4), num_blocks=4, backend=backend)
    request = make_request("a", 40, 4)
    manager.allocate_slots(request, 12)
    request.num_computed_tokens = 12
    assert manager.allocate_slots(request, 28) is None
    assert held(manager, request) == [0, 0, 3]
    assert accounts_balance(manager)


def test_a_running_request_may_be_given_an_empty_result():
    manager = make_manager(full(4))
    request = make_request("a", 8, 4)
    admit(manager, request)
    request.append_output_token_ids(7)
    blocks = manager.allocate_slots(request, 1, 0, manager.empty_kv_cache_blocks.new_empty())
    assert blocks.get_block_ids() == ([3],)


def test_new_block_ids_are_taken_once():
    manager = make_manager(full(4))
    request = make_request("a", 10, 4)
    admit(manager, request)
    assert manager.take_new_block_ids() == [1, 2, 3]
    assert manager.take_new_block_ids() == []
    decode(manager, request, 3)
    assert manager.take_new_block_ids() == [4]


def test_new_block_ids_leave_out_hits_and_include_external_blocks():
    manager = make_manager(full(4))
    admit(manager, make_request("a", 8, 4))
    manager.take_new_block_ids()
    request = make_request("b", 18, 4)
    computed, num_hits = manager.get_computed_blocks(request)
    manager.allocate_slots(request, 2, num_hits, computed, num_external_computed_tokens=8)
    assert manager.take_new_block_ids() == [3, 4, 5]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (full(4), [1, 2]),
        (TQFullAttentionSpec(4, **HEADS), [1, 2]),
        (MLAAttentionSpec(4, **HEADS), [1, 2]),
        (HiddenStateCacheSpec(4, **HEADS), []),
        (window(4, 8), []),
    ],
    ids=lambda value: type(value).__name__,
)
def test_new_block_ids_are_those_of_plain_full_attention(spec, expected):
    manager = make_manager(spec)
    admit(manager, make_request("a", 8, 4))
    assert manager.take_new_block_ids() == expected


@per_backend
def test_a_request_that_was_preempted_hits_its_own_blocks(backend):
    manager = make_manager(full(4), backend=backend)
    request = make_request("a", 10, 4)
    admit(manager, request)
    decode(manager, request, 3)
    manager.free(request)
    request.num_computed_tokens = 0
    assert manager.get_computed_blocks(request)[0].get_block_ids() == ([1, 2, 3],)
