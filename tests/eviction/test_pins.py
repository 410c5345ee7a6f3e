"""Pinned prefixes stay cached, and never make a request wait for ever."""

import copy
from types import SimpleNamespace

import pytest
from support.interrupts import every_line
from support.managers import admit, decode, free_order, full, make_manager, make_request, mamba, per_backend, window

from kvgpu.config.cache_hints import HintLimits
from kvgpu.errors import ArgumentError, ArgumentTypeError, PinLimitError

SIZE = 4


def cached(manager, token, num_blocks, name=None):
    """Serve a request whose tokens are all the same, and give its blocks back."""
    request = make_request(name or f"r{token}", [token] * (SIZE * num_blocks), SIZE)
    assert admit(manager, request) is not None
    manager.free(request)
    return request


def hits(manager, token, num_blocks):
    return manager.get_computed_blocks(make_request("asks", [token] * (SIZE * num_blocks + 1), SIZE))[1] // SIZE


@per_backend
@pytest.mark.parametrize("eviction", ["lru", "s3fifo"])
def test_a_pinned_prefix_outlasts_a_flood(backend, eviction):
    manager = make_manager(full(SIZE), num_blocks=64, max_model_len=80, backend=backend, eviction=eviction)
    request = cached(manager, 1, 10)
    assert manager.pin(request) == 40
    assert manager.num_pinned_blocks == 10
    for token in range(100, 130):
        cached(manager, token, 10)
    assert hits(manager, 1, 10) == 10
    manager.check()
    assert manager.unpin("r1")
    assert manager.num_pinned_blocks == 0
    for token in range(200, 230):
        cached(manager, token, 10)
    assert hits(manager, 1, 10) == 0
    manager.check()


@pytest.mark.parametrize("specs", [(full(SIZE), window(SIZE, 8)), (full(SIZE), mamba(SIZE))])
def test_in_groups_with_masks_what_the_hit_needs_is_pinned(specs):
    manager = make_manager(*specs, num_blocks=100, max_model_len=80)
    request = cached(manager, 1, 10)
    assert manager.pin(request) == 40
    assert manager.num_pinned_blocks < 20
    for token in range(100, 130):
        cached(manager, token, 8)
    assert hits(manager, 1, 10) == 10


def test_a_part_of_a_prefix_may_be_pinned():
    manager = make_manager(full(SIZE), num_blocks=64, max_model_len=80)
    assert manager.pin(cached(manager, 1, 10), num_tokens=18) == 16
    assert manager.num_pinned_blocks == 4


def test_blocks_that_two_pins_share_count_once():
    manager = make_manager(full(SIZE), num_blocks=64, max_model_len=80)
    cached(manager, 1, 10)
    for name, count in (("a", 10), ("b", 6)):
        manager.pin(make_request(name, [1] * (SIZE * count), SIZE))
    assert manager.num_pinned_blocks == 10
    manager.unpin("a")
    assert manager.num_pinned_blocks == 6
    manager.check()


def test_what_is_not_cached_is_not_pinned():
    manager = make_manager(full(SIZE), num_blocks=64, max_model_len=80)
    assert manager.pin(make_request("a", [1] * 40, SIZE)) == 0
    assert not manager.unpin("a")


def test_no_admissible_request_waits_for_ever():
    """Whatever was pinned, a request of the greatest length gets its slots once the others are gone."""
    manager = make_manager(full(SIZE), num_blocks=64, max_model_len=120, hints=HintLimits(max_pinned=1.0))
    num_pinned = 0
    for token in range(1, 40):
        request = cached(manager, token, 5)
        try:
            num_pinned += manager.pin(request) // SIZE
        except PinLimitError:
            break
    assert num_pinned == 30
    longest = make_request("longest", [99] * 100, SIZE)
    assert admit(manager, longest) is not None
    assert decode(manager, longest, 20) is not None


def test_more_than_the_limit_is_refused_and_changes_nothing():
    manager = make_manager(full(SIZE), num_blocks=64, max_model_len=40, hints=HintLimits(max_pinned=0.25))
    assert manager.pin(cached(manager, 1, 10)) == 40
    request = cached(manager, 2, 10)
    before = free_order(manager)
    with pytest.raises(PinLimitError, match="16 may be"):
        manager.pin(request)
    assert free_order(manager) == before
    assert manager.num_pinned_blocks == 10
    assert not manager.unpin("r2")


def test_pins_leave_room_for_what_tenants_keep():
    hints = HintLimits(shares={"a": 0.25}, max_pinned=1.0)
    manager = make_manager(full(SIZE), num_blocks=64, max_model_len=140, hints=hints)
    assert manager.pin(cached(manager, 1, 10)) == 40
    with pytest.raises(PinLimitError, match="tenants keep 16"):
        manager.pin(cached(manager, 2, 10))


def test_a_reset_forgets_pins_but_waits_for_requests():
    manager = make_manager(full(SIZE), num_blocks=64, max_model_len=80)
    request = cached(manager, 1, 10)
    manager.pin(request)
    admit(manager, make_request("same", [1] * 40, SIZE))
    assert not manager.reset_prefix_cache()
    assert manager.num_pinned_blocks == 10
    manager.free(make_request("same", [1] * 40, SIZE))
    assert manager.reset_prefix_cache()
    assert manager.num_pinned_blocks == 0
    assert manager.block_pool.get_num_free_blocks() == 63
    manager.check()


def test_a_request_that_holds_only_pinned_blocks_keeps_a_reset_waiting():
    manager = make_manager(full(SIZE), num_blocks=64, max_model_len=80)
    manager.pin(cached(manager, 1, 10))
    request = make_request("same", [1] * 44, SIZE)
    computed, num_hits = manager.get_computed_blocks(request)
    manager.allocate_slots(request, 4, num_hits, computed)
    manager.pin(make_request("all", [1] * 44, SIZE))
    assert not manager.reset_prefix_cache()
    assert manager.num_pinned_blocks == 11


def test_a_name_is_pinned_once():
    manager = make_manager(full(SIZE), num_blocks=64, max_model_len=80)
    request = cached(manager, 1, 10)
    manager.pin(request)
    with pytest.raises(ArgumentError, match="unpin it first"):
        manager.pin(request)


@pytest.mark.parametrize("num_tokens", [-1, 1.5, "all"])
def test_odd_numbers_of_tokens_are_refused(num_tokens):
    manager = make_manager(full(SIZE), num_blocks=64, max_model_len=80)
    request = cached(manager, 1, 10)
    with pytest.raises(ArgumentError):
        manager.pin(request, num_tokens)
    assert manager.num_pinned_blocks == 0


@pytest.mark.parametrize("name", ["request_id", "num_tokens", "block_hashes"])
def test_a_request_that_lacks_something_is_refused(name):
    manager = make_manager(full(SIZE), num_blocks=64, max_model_len=80)
    fields = {"request_id": "a", "num_tokens": 8, "block_hashes": []}
    del fields[name]
    with pytest.raises(ArgumentTypeError):
        manager.pin(SimpleNamespace(**fields))


def test_what_is_no_request_is_refused():
    manager = make_manager(full(SIZE), num_blocks=64, max_model_len=80)
    with pytest.raises(ArgumentTypeError):
        manager.pin(object())


def test_a_copy_has_pins_of_its_own():
    manager = make_manager(full(SIZE), num_blocks=64, max_model_len=80)
    manager.pin(cached(manager, 1, 10))
    other = copy.deepcopy(manager)
    other.unpin("r1")
    assert (manager.num_pinned_blocks, other.num_pinned_blocks) == (10, 0)
    manager.check()
    other.check()


class Pinned:
    def __init__(self):
        self.manager = make_manager(full(SIZE), num_blocks=64, max_model_len=80)
        self.first, self.second = (cached(self.manager, token, 5) for token in (1, 2))
        self.manager.pin(self.first)


@pytest.mark.parametrize("call", [lambda s: s.manager.pin(s.second), lambda s: s.manager.unpin("r1")])
def test_an_interrupt_at_any_line_loses_nothing(call):
    for _, served in every_line(Pinned, call):
        manager = served.manager
        manager.new_step_starts()
        manager.check()
        for name in ("r1", "r2"):
            manager.unpin(name)
        assert manager.block_pool.get_num_free_blocks() == 63
        manager.check()
