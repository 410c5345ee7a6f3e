"""A replay in behaviour 0.33: states, junctions, what stays cached, and what kvgpu does not model."""

from types import SimpleNamespace

import pytest
from support.traces import serve

from kvgpu.config.behaviour import BEHAVIOUR_0_33
from kvgpu.config.specs import MambaSpec
from kvgpu.errors import ConfigError, UnknownNameError
from kvgpu.replay.group_names import parse_groups
from kvgpu.replay.limits import SchedulerLimits
from kvgpu.replay.run import ReplayOptions
from kvgpu.replay.traces.trace import from_requests

SIZE = 16


def forks(num_shared, count=3, num_own=3, per_id=SIZE):
    """Prompts that begin with the same blocks, one after the other."""
    rows = []
    for number in range(1, count + 1):
        ids = [*range(num_shared), *range(1000 * number, 1000 * number + num_own)]
        rows.append((0.0, len(ids) * per_id, 0, ids))
    return from_requests("forks", per_id, rows)


def hits_of(trace, groups, **options):
    """Tokens that each request hit when it was admitted."""
    result, manager = serve(trace, 1000, SIZE, groups, max_running=1, **options)
    manager.check()
    return [sample[1] for sample in result.samples]


def states_of(text, behaviour):
    groups = parse_groups(text, SIZE, 10, behaviour).kv_cache_groups
    return [group.kv_cache_spec.mamba_cache_mode for group in groups if isinstance(group.kv_cache_spec, MambaSpec)]


@pytest.mark.parametrize("groups", ["mamba", "mamba:align", "full+mamba"])
def test_states_are_cached_in_mode_align(groups):
    assert states_of(groups, BEHAVIOUR_0_33) == ["align"]


@pytest.mark.parametrize("groups", ["mamba:all", "full+mamba:none"])
def test_states_of_other_modes_are_refused(groups):
    with pytest.raises(ConfigError, match="align"):
        ReplayOptions(groups=groups, behaviour="0.33")


def test_groups_whose_states_would_be_hit_inside_are_refused():
    ReplayOptions(groups="full+mamba:align@64")
    with pytest.raises(ConfigError, match="every 16 tokens"):
        ReplayOptions(groups="full+mamba@64", behaviour="0.33")


def test_an_unknown_behaviour_is_refused():
    with pytest.raises(UnknownNameError, match=r"0\.23, 0\.24, 0\.32, 0\.33"):
        ReplayOptions(behaviour="0.31")


@pytest.mark.parametrize("interval", [None, 64])
def test_a_retention_interval_is_no_option_of_behaviour_0_23(interval):
    with pytest.raises(ConfigError, match="VLLM_PREFIX_CACHE_RETENTION_INTERVAL"):
        ReplayOptions(groups="full+swa:64", retention_interval=interval)


@pytest.mark.parametrize("interval", [-16, 1.5])
def test_a_retention_interval_is_a_number_of_tokens(interval):
    with pytest.raises(ConfigError, match="retention_interval"):
        ReplayOptions(groups="full+swa:64", behaviour="0.33", retention_interval=interval)


@pytest.mark.parametrize("groups", ["full+swa:32", "full+mamba"])
def test_what_two_requests_share_is_hit_by_the_third(groups):
    # The second request meets the junction, computes what it lacks, and keeps what a hit there needs (B66).
    assert hits_of(forks(5), groups, behaviour="0.33") == [0, 0, 5 * SIZE]


@pytest.mark.parametrize("interval", [None, SIZE])
def test_with_dense_retention_the_second_request_hits_already(interval):
    assert hits_of(forks(5), "full+swa:32", behaviour="0.33", retention_interval=interval) == [0, 5 * SIZE, 5 * SIZE]


def test_full_attention_keeps_everything_in_both_behaviours():
    for behaviour in ("0.23", "0.33"):
        assert hits_of(forks(5), "full", behaviour=behaviour) == [0, 5 * SIZE, 5 * SIZE]


def test_a_prompt_of_whole_blocks_hits_its_last_state_but_one():
    # In behaviour 0.23 only the state at its end is kept, which the same prompt cannot hit.
    trace = from_requests("t", SIZE, [(0.0, 48, 0, [1, 2, 3])] * 2)
    assert hits_of(trace, "full+mamba", behaviour="0.33") == [0, 32]
    assert hits_of(trace, "full+mamba:align") == [0, 0]


def test_a_prompt_is_cut_at_a_junction_and_where_its_last_hit_ends():
    _, manager = serve(forks(2), 1000, SIZE, "full+mamba", max_running=1, behaviour="0.33")
    assert [manager.tokens_of(name) for name in "012"] == [[64, 16], [32, 32, 16], [32, 16]]


@pytest.mark.parametrize(
    ("tokens", "prompt", "computed", "budget", "junction", "expected"),
    [
        (100, 100, 0, 1000, 0, 96),  # to where the same prompt can hit
        (96, 96, 0, 1000, 0, 80),
        (100, 100, 96, 1000, 0, 4),
        (100, 100, 0, 50, 0, 48),  # to a boundary
        (100, 100, 0, 15, 0, 0),  # a boundary is out of reach
        (100, 100, 96, 3, 0, 0),  # the rest is one chunk
        (100, 100, 0, 1000, 40, 32),  # to the last boundary before a junction
        (100, 100, 32, 1000, 40, 64),
        (100, 100, 48, 1000, 40, 48),  # a junction that lies behind does not count
        (101, 100, 100, 1000, 0, 1),  # generated
        (112, 100, 111, 1000, 0, 1),
        (130, 100, 0, 1000, 0, 128),  # after a preemption
    ],
)
def test_a_chunk_ends_where_a_state_can_be_hit(tokens, prompt, computed, budget, junction, expected):
    request = SimpleNamespace(num_tokens=tokens, num_prompt_tokens=prompt, shared_prefix_boundary=junction)
    assert SchedulerLimits(chunk_multiple=SIZE, ends_at_hits=True).chunk(request, computed, budget) == expected


@pytest.mark.parametrize("groups", ["full", "full+swa:32", "full+mamba"])
def test_the_manager_counts_what_the_replay_counts(groups):
    result, manager = serve(forks(5), 1000, SIZE, groups, max_running=1, behaviour="0.33")
    counted = manager.make_prefix_cache_stats()
    assert (counted.requests, counted.queries, counted.hits) == (3, result.prompt_tokens, result.hit_tokens)


@pytest.mark.parametrize("policy", ["longest-prefix", "hold-back"])
def test_policies_serve_every_request(policy):
    trace = forks(5, count=8)
    result, manager = serve(trace, 60, SIZE, "full+swa:32", behaviour="0.33", policy=policy, virtual_time=True)
    assert result.requests == len(trace)
    manager.check()
