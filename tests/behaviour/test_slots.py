"""Behaviour 0.33: what a request gets, and what an engine reads of it."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
from behaviour.later import computed, later
from support.managers import free_order, full, held, make_request, mamba, per_backend, window

from kvgpu.errors import ArgumentError, ArgumentTypeError, ConfigError

WAITING, RUNNING = SimpleNamespace(name="WAITING"), SimpleNamespace(name="RUNNING")


@per_backend
def test_blocks_without_hashes_are_not_cached_yet(backend):
    manager = later(full(4), backend=backend)
    request = make_request("a", 16, 4)
    hashes, request.block_hashes = request.block_hashes, request.block_hashes[:2]
    manager.allocate_slots(request, 16)
    assert manager.coordinator.single_type_managers[0].num_cached_block["a"] == 2
    request.block_hashes = hashes
    manager.cache_blocks(request, 16)
    assert manager.coordinator.single_type_managers[0].num_cached_block["a"] == 4
    manager.check()


@per_backend
@pytest.mark.parametrize(
    ("status", "beside_others", "fits"),
    [(WAITING, True, False), (WAITING, False, True), (RUNNING, True, True)],
    ids=["waiting", "alone", "running"],
)
@pytest.mark.parametrize("whole", [False, True])
def test_a_waiting_request_leaves_the_watermark_free(backend, status, beside_others, fits, whole):
    manager = later(full(4), num_blocks=11, watermark=0.3, backend=backend)
    assert manager.watermark_blocks == 3
    request = make_request("a", 32, 4)
    request.status = status
    got = manager.allocate_slots(
        request, 8 if whole else 32, full_sequence_must_fit=whole, has_scheduled_reqs=beside_others
    )
    assert (got is not None) is fits


@pytest.mark.parametrize("odd", [-0.1, 1.5])
def test_a_watermark_is_a_fraction(odd):
    with pytest.raises(ConfigError, match="a fraction of the blocks"):
        later(full(4), watermark=odd)


@per_backend
def test_hits_can_be_given_alone(backend):
    manager = later(full(4), backend=backend)
    computed(manager, "a", 13)
    request = make_request("b", 13, 4)
    blocks, num_hits, _ = manager.get_computed_blocks(request)
    assert num_hits == 12
    assert manager.allocate_slots(request, 0, num_hits, blocks).get_block_ids() == ([],)
    assert held(manager, request) == [1, 2, 3]
    with pytest.raises(ArgumentError, match="num_new_tokens must be above 0"):
        manager.allocate_slots(make_request("c", 13, 4), 0)


@per_backend
def test_ids_are_cut_to_the_computed_tokens(backend):
    manager = later(full(4), mamba(4, "align"), backend=backend)
    computed(manager, "a", 12, chunk=4)
    ids = manager.get_block_ids("a")
    assert manager.get_block_ids_for_computed_tokens("a", 5) == (ids[0][:2], ids[1])


@per_backend
def test_cached_tokens_are_those_of_the_group_with_the_fewest(backend):
    manager = later(full(4), window(8, 8), backend=backend)
    request = computed(manager, "a", 15)
    assert manager.estimate_cached_tokens(request) == 8
    assert manager.estimate_cached_tokens(make_request("b", 9, 4)) == 0


@per_backend
def test_a_hit_is_cut_to_fewer_tokens(backend):
    manager = later(full(4), mamba(4, "align"), backend=backend)
    computed(manager, "a", 17, chunk=4)
    blocks, num_hits, _ = manager.get_computed_blocks(make_request("b", 17, 4))
    assert num_hits == 16
    cut = manager.truncate_computed_blocks(blocks, 8)
    assert [len(group) for group in cut.blocks] == [2, 2]
    assert [len(group) for group in blocks.blocks] == [4, 4]
    for odd in (6, 20):
        with pytest.raises(ArgumentError, match="cannot be cut"):
            manager.truncate_computed_blocks(blocks, odd)


@per_backend
def test_blocks_are_named_again_for_zeroing(backend):
    manager = later(full(4), mamba(4, "align"), backend=backend)
    request = computed(manager, "a", 12)
    assert manager.take_new_block_ids() == held(manager, request)
    manager.record_blocks_for_zeroing("a", 4)
    assert manager.take_new_block_ids() == held(manager, request)[1:]
    with pytest.raises(ArgumentError, match="does not begin a block"):
        manager.record_blocks_for_zeroing("a", 5)


@per_backend
def test_without_states_nothing_is_zeroed(backend):
    manager = later(full(4), backend=backend)
    computed(manager, "a", 12)
    assert manager.take_new_block_ids() == []


@per_backend
def test_blocks_that_are_loaded_need_not_be_zeroed(backend):
    manager = later(full(4), mamba(4, "align"), backend=backend)
    request = make_request("a", 12, 4)
    manager.allocate_slots(
        request, 4, num_external_computed_tokens=8, delay_cache_blocks=True, skip_zeroing_group_ids=(0,)
    )
    assert manager.take_new_block_ids() == held(manager, request)[2:]


@per_backend
def test_a_lookup_counts_once_it_led_to_an_admission(backend):
    manager = later(full(4), log_stats=True, backend=backend)
    computed(manager, "a", 13)
    request = make_request("b", 13, 4)
    for _ in range(3):
        _, num_hits, _ = manager.get_computed_blocks(request)
    assert manager.make_prefix_cache_stats().requests == 0
    manager.record_prefix_cache_stats(request, num_hits)
    stats = manager.make_prefix_cache_stats()
    assert (stats.requests, stats.queries, stats.hits) == (1, 13, 12)


@per_backend
def test_leading_blocks_are_not_counted_as_shared(backend):
    manager = later(full(4), backend=backend)
    computed(manager, "a", 12)
    assert manager.get_num_common_prefix_blocks("a") == [0]


@per_backend
def test_states_that_were_cached_are_named_once(backend):
    manager = later(full(4), mamba(4, "align"), backend=backend)
    request = computed(manager, "a", 8, chunk=4)
    state = manager.get_block_ids("a")[1]
    assert [offer[2] for offer in manager.take_boundary_state_offloads()["a"]] == [4, 8]
    assert manager.take_boundary_state_offloads() == {}
    assert state
    computed(manager, "b", range(100, 108), chunk=4)
    manager.free(request)
    assert set(manager.take_boundary_state_offloads()) == {"b"}


def test_no_block_is_copied():
    manager = later(full(4), num_blocks=9)
    assert manager.take_kv_cache_block_copies() == ([], [])
    assert manager.finalize_partial_tail_offloads(make_request("a", 4, 4)) == []
    assert free_order(manager) == list(range(1, 9))


@per_backend
def test_blocks_of_different_precisions_are_zeroed(backend):
    mixed = replace(full(4), dtype=["a type that cannot be hashed"])
    for specs, zeroed in (((full(4), mixed), True), ((mixed, mixed), False)):
        manager = later(*specs, backend=backend)
        computed(manager, "a", 8)
        assert bool(manager.take_new_block_ids()) is zeroed


@per_backend
@pytest.mark.parametrize("odd", ["4", 4.5, -4, 2**40, (4,)])
def test_an_odd_junction_changes_nothing(backend, odd):
    manager = later(full(4), window(4, 4), retention=0, backend=backend)
    request = make_request("a", 16, 4)
    request.shared_prefix_boundary = odd
    for call in (lambda: manager.allocate_slots(request, 16), lambda: manager.cache_blocks(request, 16)):
        before = free_order(manager)
        with pytest.raises((ArgumentError, ArgumentTypeError), match="shared_prefix_boundary"):
            call()
        assert free_order(manager) == before
        request.shared_prefix_boundary = 0
        if "a" not in manager.coordinator.single_type_managers[0].num_cached_block:
            manager.allocate_slots(request, 16, delay_cache_blocks=True)
        request.shared_prefix_boundary = odd
    manager.check()


@per_backend
@pytest.mark.parametrize("odd", [5, ("0",), (0.5,)])
def test_odd_groups_that_need_no_zeroing_change_nothing(backend, odd):
    manager = later(full(4), mamba(4, "align"), backend=backend)
    before = free_order(manager)
    with pytest.raises(ArgumentTypeError, match="skip_zeroing_group_ids"):
        manager.allocate_slots(make_request("a", 12, 4), 4, num_external_computed_tokens=8, skip_zeroing_group_ids=odd)
    assert free_order(manager) == before
    manager.check()


@pytest.mark.parametrize("odd", ["4", -1, 2.5])
def test_an_odd_limit_of_a_lookup_is_refused(odd):
    manager = later(full(4), mamba(4, "align"))
    for look_up in (manager.get_computed_blocks, manager.get_computed_blocks_for_connector):
        with pytest.raises((ArgumentError, ArgumentTypeError), match="max_cache_hit_length"):
            look_up(make_request("a", 12, 4), max_cache_hit_length=odd)
