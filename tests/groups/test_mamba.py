"""Mamba: states as hits, speculative blocks, the wait within a step, and the mode `align`."""

import pytest
from support.cache_groups import free_ids, hit_in, hold, ids_of, make_group
from support.managers import (
    accounts_balance,
    admit,
    cached_places,
    full,
    held,
    make_manager,
    make_request,
    mamba,
    no_sampling,
    per_backend,
    snapshot,
)


@per_backend
@pytest.mark.parametrize(
    ("cached", "alignment", "expected"),
    [
        ("TTTT", 2, [0, 0, 0, 4]),
        ("TTTF", 2, [0, 0, 3]),
        ("FFTF", 2, [0, 0, 3]),
        ("FFFF", 2, []),
        ("TTT", 4, [0, 2]),
        ("TFT", 4, []),
        ("T", 2, [1]),
    ],
)
def test_a_hit_is_the_right_most_aligned_state(backend, cached, alignment, expected):
    assert hit_in(mamba(2), cached, alignment=alignment, backend=backend) == expected


def test_eagle_drops_no_state():
    assert hit_in(mamba(2), "TTT", drop=True) == [0, 0, 3]


@pytest.mark.parametrize(("computed", "nulls"), [(0, 0), (1, 0), (4, 0), (5, 1), (8, 1), (9, 2), (13, 3)])
def test_only_the_newest_state_is_needed(computed, nulls):
    group = make_group(mamba(4))
    hold(group, 16)
    group.remove_skipped_blocks("a", computed)
    assert ids_of(group) == [0] * nulls + list(range(nulls + 1, 5))


def test_drafts_that_may_be_rejected_do_not_count_as_computed():
    group = make_group(mamba(4, "all", 2))
    hold(group, 16)
    group.remove_skipped_blocks("a", 6)
    assert ids_of(group)[0] == 1
    group.remove_skipped_blocks("a", 7)
    assert ids_of(group)[0] == 0


@pytest.mark.parametrize("mode", ["none", "all"])
def test_speculative_blocks_are_held_beyond_the_tokens(mode):
    group = make_group(mamba(4, mode, 2))
    assert group.get_num_blocks_to_allocate("a", 10, [], 0, 10) == 5
    assert len(hold(group, 10)) == 5


def test_all_states_are_cached_where_no_block_is_null():
    manager = make_manager(mamba(4))
    request = make_request("a", 14, 4)
    admit(manager, request)
    assert cached_places(manager, request) == {0, 1, 2}


@per_backend
def test_a_freed_request_gives_back_its_last_state_first(backend):
    group = make_group(mamba(4), num_blocks=6, backend=backend)
    hold(group, 12)
    group.cache_blocks(make_request("a", 12, 4), 8)
    group.free("a")
    assert free_ids(group) == [4, 5, 3, 2, 1]


# The wait


def pair(backend=None):
    """A manager with attention and states in which one request of 12 tokens was just admitted."""
    manager = make_manager(full(4), mamba(4), backend=backend)
    first = make_request("a", 12, 4)
    admit(manager, first)
    return manager, first


@per_backend
def test_whoever_needs_a_state_of_this_step_waits_for_the_next(backend):
    manager, first = pair(backend)
    second = make_request("b", 15, 4)
    assert manager.get_computed_blocks(second)[1] == 12
    assert admit(manager, second) is None
    assert accounts_balance(manager)
    manager.new_step_starts()
    assert admit(manager, second) is not None
    assert held(manager, second, 1)[:3] == [0, 0, held(manager, first, 1)[2]]


def test_others_do_not_wait():
    manager, _ = pair()
    assert admit(manager, make_request("b", [9] * 12, 4)) is not None


def test_a_state_waits_for_a_duplicate_that_is_computed_in_this_step():
    """The hit block was ready before, but its key is among those of this step."""
    manager, _ = pair()
    manager.new_step_starts()
    duplicate = make_request("d", 12, 4, sampling_params=no_sampling(prompt_logprobs=1))
    assert admit(manager, duplicate) is not None
    assert admit(manager, make_request("b", 15, 4)) is None


def test_null_blocks_are_no_states_of_this_step():
    group = make_group(mamba(4, "align"))
    hold(group, 10)
    group.cache_blocks(make_request("a", 10, 4), 10)
    assert group.num_cached_block["a"] == 2
    assert group.cached_blocks_this_step == set()


# Mode align: null blocks, the state that the step began with, the one it writes, speculative ones


@pytest.mark.parametrize(("spare", "expected"), [(0, [0, 0, 1]), (1, [0, 0, 1, 2])])
def test_the_first_step_gets_the_state_it_writes_and_speculative_blocks(spare, expected):
    group = make_group(mamba(4, "align", spare))
    assert group.get_num_blocks_to_allocate("a", 10, [], 0, 10) == 1 + spare
    assert hold(group, 10) == expected


@pytest.mark.parametrize("tokens", [14, 18, 30])
def test_a_later_step_gets_at_most_one_block(tokens):
    group = make_group(mamba(4, "align", 2))
    hold(group, 10)
    assert group.get_num_blocks_to_allocate("a", tokens, [], 10, tokens) == 1
    before = len(free_ids(group))
    hold(group, tokens)
    assert before - len(free_ids(group)) == 1


def test_look_ahead_tokens_are_left_out():
    group = make_group(mamba(4, "align"))
    assert group.get_num_blocks_to_allocate("a", 40, [], 0, 8) == 1
    group.allocate_new_blocks("a", 40, 8)
    assert ids_of(group) == [0, 1]


def test_speculative_blocks_move_behind_a_step_over_several_blocks():
    group = make_group(mamba(4, "align", 1))
    assert hold(group, 4) == [1, 2]
    assert hold(group, 20) == [1, 0, 0, 0, 2, 3]


def test_the_speculative_block_of_the_last_step_is_written_next():
    group = make_group(mamba(4, "align", 1))
    assert hold(group, 10) == [0, 0, 1, 2]
    assert hold(group, 14) == [0, 0, 1, 2, 3]


def test_fewer_drafts_than_before_get_nothing():
    group = make_group(mamba(4, "align", 1))
    hold(group, 20)
    assert len(group.allocate_new_blocks("a", 14, 14)) == 0
    assert group.get_num_blocks_to_allocate("a", 14, [], 12, 14) == 0


def test_the_state_that_a_step_began_with_is_given_back_by_the_next():
    group = make_group(mamba(4, "align"))
    hold(group, 4)
    assert hold(group, 16) == [1, 0, 0, 2]
    group.remove_skipped_blocks("a", 4)
    assert ids_of(group) == [1, 0, 0, 2]
    group.remove_skipped_blocks("a", 16)
    assert ids_of(group) == [0, 0, 0, 2]
    assert free_ids(group)[-1] == 1


def test_a_hit_is_the_state_that_the_first_step_begins_with():
    group = make_group(mamba(4, "align", 1))
    hits = [group.block_pool.null_block, *group.block_pool.get_new_blocks(1)]
    group.allocate_new_computed_blocks("a", hits, 8, 0)
    assert hold(group, 16) == [0, 1, 0, 2, 3]
    group.remove_skipped_blocks("a", 17)
    assert ids_of(group) == [0, 0, 0, 2, 3]


def test_a_freed_request_begins_anew():
    group = make_group(mamba(4, "align", 1))
    hold(group, 10)
    group.free("a")
    assert group.last_state_block_idx == {}
    assert group.get_num_blocks_to_allocate("a", 10, [], 0, 10) == 2


@per_backend
def test_states_at_step_boundaries_are_cached_and_hit(backend):
    manager = make_manager(full(4), mamba(4, "align"), backend=backend)
    request = make_request("a", 14, 4)
    for step in (8, 4, 2):
        manager.new_step_starts()
        manager.allocate_slots(request, step)
        request.num_computed_tokens += step
    assert cached_places(manager, request, 1) == {1, 2}
    blocks, num_hits = manager.get_computed_blocks(make_request("b", 14, 4))
    assert (num_hits, [len(ids) for ids in blocks.get_block_ids()]) == (12, [3, 3])


@pytest.mark.parametrize("spare", [0, 1, 2])
@pytest.mark.parametrize("num_new", [0, 1, 4, 9])
def test_a_state_from_elsewhere_counts_beside_those_that_the_step_takes(spare, num_new):
    """With so many blocks it works, with one less it is refused before anything is taken."""
    needed = spare + 1 + (num_new > 0)
    for num_blocks, fits in ((1 + needed, True), (needed, False)):
        manager = make_manager(mamba(4, "align", spare), num_blocks=num_blocks)
        before = snapshot(manager)
        request = make_request("a", 8 + max(num_new, 1), 4)
        got = manager.allocate_slots(request, num_new, num_external_computed_tokens=8)
        assert (got is not None) is fits
        assert fits or snapshot(manager) == before
        manager.check()
