"""Several kinds of groups: the longest hit that suits all, and what is cached for it."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.cache_groups import plant
from support.managers import (
    accounts_balance,
    admit,
    cached_places,
    full,
    held,
    make_manager,
    make_request,
    mamba,
    per_backend,
    window,
)

from kvgpu.coordinators.hybrid import HybridKVCacheCoordinator
from kvgpu.errors import ConfigError

SIZE = 16


def lookup(manager, tokens, size=SIZE):
    """(ids per group, length) of the hit of a prompt of consecutive tokens."""
    blocks, length = manager.get_computed_blocks(make_request("asks", tokens, size))
    return blocks.get_block_ids(), length


def hybrid(blocks, window_blocks, backend, **options):
    """Full attention and two equal windows; one request of so many blocks and 7 tokens is in."""
    sliding = window(SIZE, window_blocks * SIZE)
    manager = make_manager(full(SIZE), sliding, sliding, backend=backend, **options)
    request = make_request("a", blocks * SIZE + 7, SIZE)
    admit(manager, request)
    return manager, [held(manager, request, group) for group in range(3)]


def test_several_groups_have_the_hybrid_coordinator():
    coordinator = make_manager(full(4), window(4, 8)).coordinator
    assert isinstance(coordinator, HybridKVCacheCoordinator)


@per_backend
def test_each_group_hits_what_its_attention_needs(backend):
    manager, _ = hybrid(3, 2, backend)
    assert lookup(manager, 3 * SIZE + 7) == (([1, 2, 3], [0, 6, 7], [0, 10, 11]), 48)


@per_backend
@pytest.mark.parametrize("specs", [(full(4), full(8)), (full(8), full(4), full(16), window(4, 8))])
def test_full_attention_of_several_block_sizes_hits_its_own_blocks(backend, specs):
    manager = make_manager(*specs, backend=backend)
    first = make_request("a", 70, 4)
    admit(manager, first)
    blocks, length = lookup(manager, 70, 4)
    assert length == 64
    for group, (spec, ids) in enumerate(zip(specs, blocks, strict=True)):
        if spec == full(spec.block_size):
            assert ids == held(manager, first, group)[: length // spec.block_size]


@per_backend
@pytest.mark.parametrize(
    ("evicted", "num_blocks"),
    [
        ([(1, 0)], 3),
        ([(1, 0), (2, 0)], 3),
        ([(0, 0)], 0),
        ([(0, 2)], 2),
        ([(1, 2)], 2),
        ([(2, 2)], 2),
        ([(0, 2), (1, 0), (2, 0)], 0),
    ],
)
def test_a_missing_block_shortens_the_hit_to_what_all_groups_have(backend, evicted, num_blocks):
    manager, tables = hybrid(3, 2, backend)
    manager.evict_blocks([tables[group][place] for group, place in evicted])
    assert lookup(manager, 3 * SIZE + 7)[1] == num_blocks * SIZE


@per_backend
def test_with_eagle_every_group_leaves_out_its_last_block(backend):
    manager, _ = hybrid(6, 3, backend, use_eagle=True)
    ids = [1, 2, 3, 4, 5], [0, 0, 10, 11, 12], [0, 0, 17, 18, 19]
    assert lookup(manager, 6 * SIZE + 7) == (ids, 80)


@per_backend
@pytest.mark.parametrize(
    ("evicted", "num_blocks"),
    [([(0, 5), (1, 5), (2, 5)], 4), ([(0, 5)], 4), ([(1, 4)], 3), ([(0, 5), (1, 0), (2, 0)], 4)],
)
def test_with_eagle_a_missing_block_shortens_the_hit(backend, evicted, num_blocks):
    manager, tables = hybrid(6, 3, backend, use_eagle=True)
    manager.evict_blocks([tables[group][place] for group, place in evicted])
    assert lookup(manager, 6 * SIZE + 7)[1] == num_blocks * SIZE


# Which groups EAGLE concerns


@pytest.mark.parametrize(
    ("use_eagle", "flagged", "expected"),
    [(False, [], set()), (True, [], {0, 1}), (True, [1], {1}), (False, [1], {1}), (True, [0], {0})],
)
def test_flagged_groups_are_for_eagle_or_all_if_none_is_flagged(use_eagle, flagged, expected):
    manager = make_manager(full(4), window(4, 8), use_eagle=use_eagle, eagle_groups=flagged)
    managers = manager.coordinator.single_type_managers
    assert {i for i, group in enumerate(managers) if group.use_eagle} == expected


@per_backend
def test_siblings_of_a_flagged_group_keep_the_same_blocks(backend):
    manager = make_manager(full(32), window(8, 8), window(8, 8), eagle_groups=[2], backend=backend)
    request = make_request("a", 96, 8)
    admit(manager, request)
    assert [cached_places(manager, request, group) for group in (1, 2)] == [{3, 4, 7, 8, 11}] * 2
    assert lookup(manager, 80, 8)[1] == 64


@per_backend
@pytest.mark.parametrize(("first", "second", "expected"), [(40, 41, 32), (128, 128, 96)])
def test_the_block_behind_the_aligned_end_is_kept_for_eagle(backend, first, second, expected):
    manager = make_manager(full(32), window(8, 8), eagle_groups=[1], backend=backend)
    request = make_request("a", first, 8)
    admit(manager, request)
    assert {3, 4} <= cached_places(manager, request, 1)
    assert lookup(manager, second, 8)[1] == expected


def test_a_short_window_step_with_eagle_loses_more_than_it_must():
    """A quirk that routers and engines see (fact 31): 64 tokens would be right."""
    manager = make_manager(full(32), window(16, 4000), eagle_groups=[1])
    admit(manager, make_request("a", 80, 16))
    assert lookup(manager, 81, 16)[1] == 32


# Blocks of different sizes


@per_backend
@pytest.mark.parametrize("full_first", [True, False])
def test_hits_of_different_block_sizes_end_together(backend, full_first):
    specs = [full(32), window(16, 32)]
    order = 1 if full_first else -1
    manager = make_manager(*specs[::order], backend=backend)
    request = make_request("a", 112, 16)
    admit(manager, request)
    assert [len(ids) for ids in manager.get_block_ids("a")][::order] == [4, 7]
    ids, length = lookup(manager, 112)
    assert ([len(group) for group in ids][::order], length) == ([3, 6], 96)
    manager.evict_blocks(manager.get_block_ids("a")[::order][1][5:7])
    ids, length = lookup(manager, 112)
    assert ([len(group) for group in ids][::order], length) == ([2, 4], 64)


def test_nothing_behind_the_last_scheduler_block_is_cached():
    manager = make_manager(full(32), window(16, 32))
    request = make_request("a", 112, 16)
    admit(manager, request)
    assert cached_places(manager, request, 1) == {0, 1, 2, 3, 4, 5}


@pytest.mark.parametrize("size", [4, 8])
def test_the_hash_block_may_be_finer_than_every_block(size):
    manager = make_manager(full(16), window(8, 16), hash_block_size=size)
    admit(manager, make_request("a", 50, size))
    assert lookup(manager, 50, size)[1] == 48


# Order of the groups, and the fixed point


@per_backend
@pytest.mark.parametrize(
    "specs",
    [
        [window(4, 8), full(4)],
        [full(4), mamba(4)],
        [mamba(4), window(4, 8)],
        [window(4, 8), window(4, 4), full(4), full(4)],
        [full(4), window(4, 8), full(4), mamba(4), window(4, 8)],
        [mamba(4), full(4), window(4, 4), mamba(4)],
    ],
    ids=lambda specs: "-".join(type(spec).__name__[:4] for spec in specs),
)
def test_any_combination_in_any_order_hits_what_is_there(backend, specs):
    manager = make_manager(*specs, backend=backend)
    admit(manager, make_request("a", 15, 4))
    manager.new_step_starts()
    ids, length = lookup(manager, 15, 4)
    assert (length, [len(group) for group in ids]) == (12, [3] * len(specs))


@per_backend
def test_the_list_of_full_attention_ends_with_the_hit_wherever_its_group_stands(backend):
    manager = make_manager(window(4, 4), full(4), mamba(4), backend=backend)
    request = make_request("a", 16, 4)
    for group, letters in enumerate(("TTTT", "TTTT", "FTFF")):
        plant(manager.block_pool, request, letters, 4, group)
    blocks, length = manager.coordinator.find_longest_cache_hit(request.block_hashes, 16)
    assert (length, [len(group) for group in blocks]) == (8, [2, 2, 2])


@per_backend
def test_a_hit_that_another_group_shortened_must_leave_out_a_block_for_eagle_again(backend):
    """The window has a block behind 20 tokens; states exist at 12, behind which it has none."""
    manager = make_manager(full(4), window(4, 4), mamba(4), eagle_groups=[1], backend=backend)
    request = make_request("a", 24, 4)
    for group, letters in enumerate(("TTTTTT", "FFTFTT", "FFTFFF")):
        plant(manager.block_pool, request, letters, 4, group)
    assert manager.coordinator.find_longest_cache_hit(request.block_hashes, 24)[1] == 0


def accepts(spec, cached, length):
    """True if attention of this kind can go on after `length` tokens, by definition."""
    blocks = length // spec.block_size
    if type(spec).__name__ == "SlidingWindowSpec":
        need = -(-(spec.sliding_window - 1) // spec.block_size)
        return all(cached[max(0, blocks - need) : blocks])
    if type(spec).__name__ == "MambaSpec":
        return blocks == 0 or cached[blocks - 1]
    return all(cached[:blocks])


SPECS = [full(8), window(4, 9), mamba(4), window(8, 8)]


@per_backend
@given(data=st.data())
@settings(max_examples=100, deadline=None)
def test_the_hit_is_the_longest_that_every_group_accepts(backend, data):
    specs = data.draw(st.lists(st.sampled_from(SPECS), min_size=2, max_size=4, unique=True))
    tokens = 48
    manager = make_manager(*specs, backend=backend)
    size, alignment = manager.block_pool.hash_block_size, manager.coordinator.scheduler_block_size
    request = make_request("a", tokens, size)
    patterns = []
    for group, spec in enumerate(specs):
        count = tokens // spec.block_size
        likely = st.sampled_from([True, True, True, False])
        patterns.append(data.draw(st.lists(likely, min_size=count, max_size=count)))
        letters = "".join("T" if cached else "F" for cached in patterns[-1])
        plant(manager.block_pool, request, letters, spec.block_size, group)
    longest = max(
        length
        for length in range(0, tokens + 1, alignment)
        if all(accepts(s, p, length) for s, p in zip(specs, patterns, strict=True))
    )
    found = manager.coordinator.find_longest_cache_hit(request.block_hashes, tokens)
    assert found[1] == longest


# What cannot be


@pytest.mark.parametrize("ranks", ["dcp_world_size", "pcp_world_size"])
def test_context_parallelism_with_several_groups_is_refused(ranks):
    with pytest.raises(ConfigError, match="context parallelism"):
        make_manager(full(4), window(4, 8), **{ranks: 2})


def test_groups_of_one_spec_only_are_refused():
    with pytest.raises(ConfigError, match="same spec"):
        make_manager(full(4), full(4))


@per_backend
def test_a_group_that_hits_more_than_the_others_gets_no_negative_number_of_blocks(backend):
    """The second kind of full attention holds four blocks where the hit has two."""
    manager = make_manager(full(8), full(4), window(4, 4), backend=backend)
    request = make_request("a", 20, 4)
    for group, (letters, size) in enumerate((("TT", 8), ("TTTT", 4), ("FTFF", 4))):
        plant(manager.block_pool, request, letters, size, group)
    computed, num_hits = manager.get_computed_blocks(request)
    assert (num_hits, len(computed.blocks[1])) == (8, 4)
    manager.allocate_slots(request, 1, num_hits, computed, num_external_computed_tokens=4)
    assert accounts_balance(manager)
    assert len(held(manager, request, 1)) == 4
