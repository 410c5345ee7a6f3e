"""Behaviour 0.33: how much of a prompt is hit, by whom, and what stays cached for it."""

import pytest
from behaviour.later import computed, later
from support.managers import cached_places, full, make_request, mamba, per_backend, window

from kvgpu.errors import ConfigError

SHARED = 48


def sibling(name, own):
    """The first 48 tokens of all, then tokens of its own: 87 in all."""
    return name, [*range(SHARED), *range(own, own + 87 - SHARED)]


@per_backend
@pytest.mark.parametrize("spec", [mamba(16, "align"), window(16, 16)], ids=["states", "window"])
def test_the_junction_of_siblings_stays_cached_once_it_was_seen(backend, spec):
    manager = later(full(16), spec, retention=0, num_blocks=200, backend=backend)
    first = computed(manager, *sibling("a", 1000), chunk=16)
    assert cached_places(manager, first, 1) == {4}
    second = make_request(*sibling("b", 2000), 16)
    _, num_hits, junction = manager.get_computed_blocks(second)
    assert (num_hits, junction) == (0, 48)
    second = computed(manager, *sibling("b", 2000), chunk=16)
    assert cached_places(manager, second, 1) == {2, 4}
    third = make_request(*sibling("c", 3000), 16)
    assert manager.get_computed_blocks(third)[1:] == (48, 0)


@per_backend
def test_without_an_interval_all_states_stay_cached(backend):
    manager = later(full(16), mamba(16, "align"), backend=backend)
    first = computed(manager, *sibling("a", 1000), chunk=16)
    assert cached_places(manager, first, 1) == {0, 1, 2, 3, 4}


@pytest.mark.parametrize(("specs", "interval"), [((full(4),), 4), ((full(4), window(4, 9)), 6), ((window(4, 9),), -4)])
def test_an_interval_that_cannot_be_kept_is_refused(specs, interval):
    with pytest.raises(ConfigError, match="the retention interval"):
        later(*specs, retention=interval)


def test_the_interval_0_needs_no_window():
    assert later(full(4), retention=0).coordinator.retention_interval == 0


@per_backend
@pytest.mark.parametrize(
    ("tokens", "expected"),
    [(128, (96, 3)), (129, (96, 3)), (100, (64, 2))],
    ids=["the same prompt", "a longer one", "a shorter one"],
)
def test_a_hybrid_with_a_drafter_gets_blocks_for_all_that_it_hits(backend, tokens, expected):
    manager = later(full(32), mamba(32, "align"), use_eagle=True, backend=backend)
    computed(manager, "a", 128, chunk=32)
    blocks, num_hits, _ = manager.get_computed_blocks(make_request("b", tokens, 32))
    assert (num_hits, len(blocks.blocks[0])) == expected


@per_backend
def test_flagged_groups_drop_nothing_unless_asked_to(backend):
    hits = []
    for drops in (False, True):
        manager = later(full(4), window(4, 9), eagle_groups=[0], use_eagle=drops, backend=backend)
        computed(manager, "a", 17)
        hits.append(manager.get_computed_blocks(make_request("b", 17, 4))[1])
    assert hits == [16, 12]


@per_backend
def test_a_lookup_can_be_limited(backend):
    manager = later(full(4), backend=backend)
    computed(manager, "a", 17)
    assert manager.get_computed_blocks(make_request("b", 17, 4), max_cache_hit_length=9)[1] == 8


@per_backend
def test_a_connector_brings_what_groups_of_states_lack(backend):
    manager = later(full(16), mamba(16, "align"), retention=0, num_blocks=200, backend=backend)
    request = computed(manager, "a", range(81), chunk=16)
    again = make_request("b", range(81), 16)
    states = manager.get_block_ids("a")[1]
    manager.evict_blocks([states[4]])
    blocks, num_hits, junction, diverged = manager.get_computed_blocks_for_connector(again)
    assert (num_hits, junction, diverged) == (80, 0, True)
    assert len(blocks.blocks[0]) == 5
    manager.evict_blocks([manager.get_block_ids("a")[0][0]])
    assert manager.get_computed_blocks_for_connector(again)[1:] == (0, 0, False)
    manager.free(request)


@per_backend
def test_without_states_a_connector_gets_what_everybody_gets(backend):
    manager = later(full(16), window(16, 16), backend=backend)
    computed(manager, "a", range(81))
    request = make_request("b", range(81), 16)
    blocks, num_hits, junction, diverged = manager.get_computed_blocks_for_connector(request)
    assert (num_hits, junction, diverged) == (80, 0, False)
    assert len(blocks.blocks) == 2


@per_backend
def test_a_block_of_several_hashes_is_found_by_the_last(backend):
    manager = later(full(8), window(4, 4), backend=backend)
    request = computed(manager, "a", 16)
    pool = manager.block_pool
    found = [pool.get_cached_block(request.block_hashes[i], [0]) is not None for i in range(4)]
    assert found == [False, True, True, True]  # the third is where the same prompt again would end: 12 of 15 tokens
    assert len(pool.blocks[1].block_hash) == 32 + 4
    assert manager.get_computed_blocks(make_request("b", 17, 4))[1] == 16


def test_hits_are_reported_to_those_who_ask():
    manager = later(full(4), window(4, 9), enable_kv_cache_events=True)
    computed(manager, "a", 17)
    request = make_request("b", 17, 4)
    request.kv_cache_report_mode = "full"
    manager.take_events()
    manager.get_computed_blocks(request)
    events = manager.take_events()
    assert [(event.group_idx, event.parent_block_hash, len(event.block_hashes)) for event in events] == [
        (0, None, 4),
        (1, None, 4),
    ]
