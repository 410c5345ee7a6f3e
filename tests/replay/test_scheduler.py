"""The scheduler of the replay: bounds of a step, order, preemption, rejection, and limits that cannot work."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.traces import BLOCK, Grant, distinct, serve, shared_prefixes

from kvgpu.errors import ConfigError
from kvgpu.replay.limits import SchedulerLimits
from kvgpu.replay.run import Replayer, ReplayOptions
from kvgpu.replay.traces.trace import from_requests

lengths = st.lists(st.tuples(st.integers(1, 30), st.integers(0, 8)), min_size=1, max_size=8)
bounds = st.tuples(st.integers(1, 3), st.integers(1, 12))


def pool_for(tokens):
    """Blocks of a pool that holds so many tokens: one more is the null block."""
    return tokens // BLOCK + 1


@settings(max_examples=40, deadline=None)
@given(lengths=lengths, bounds=bounds)
def test_a_step_computes_no_more_tokens_than_allowed(lengths, bounds):
    max_running, budget = bounds
    _, manager = serve(distinct(*lengths), max_running=max_running, max_batched_tokens=budget)
    assert max(sum(grant.tokens for grant in step) for step in manager.grants) <= budget


@settings(max_examples=40, deadline=None)
@given(lengths=lengths, bounds=bounds)
def test_no_more_requests_run_than_allowed(lengths, bounds):
    max_running, budget = bounds
    _, manager = serve(distinct(*lengths), max_running=max_running, max_batched_tokens=budget)
    assert max(manager.running) <= max_running


@settings(max_examples=40, deadline=None)
@given(lengths=lengths, bounds=bounds, num_blocks=st.integers(3, 20))
def test_every_request_is_served_or_rejected_and_all_is_given_back(lengths, bounds, num_blocks):
    max_running, budget = bounds
    trace = distinct(*lengths)
    result, manager = serve(trace, num_blocks, max_running=max_running, max_batched_tokens=budget)
    assert result.requests + result.rejected == len(trace)
    assert manager.usage == 0.0
    manager.check()


@settings(max_examples=40, deadline=None)
@given(lengths=lengths, bounds=bounds)
def test_in_a_large_pool_every_output_is_generated(lengths, bounds):
    max_running, budget = bounds
    trace = distinct(*lengths)
    result, _ = serve(trace, max_running=max_running, max_batched_tokens=budget)
    assert result.output_tokens == trace.output_length.sum()


def test_a_long_prompt_is_computed_in_chunks():
    _, manager = serve(distinct((100, 0)), max_batched_tokens=32)
    assert manager.tokens_of("0") == [32, 32, 32, 4]


def test_one_token_is_generated_per_step():
    result, manager = serve(distinct((10, 4)))
    assert (manager.tokens_of("0"), result.output_tokens, result.steps) == ([10, 1, 1, 1], 4, 4)


def test_without_decoding_only_the_prompt_is_computed():
    result, manager = serve(distinct((10, 4)), decode=False)
    assert (manager.tokens_of("0"), result.output_tokens) == ([10], 0)


def test_running_requests_go_before_waiting_ones():
    _, manager = serve(distinct((8, 3), (8, 0)), max_batched_tokens=8)
    assert manager.grants == [
        [Grant("0", 8, 0)],
        [Grant("0", 1, 0), Grant("1", 7, 0)],
        [Grant("0", 1, 0), Grant("1", 1, 0)],
    ]


def test_requests_are_admitted_in_the_order_of_their_arrival():
    _, manager = serve(distinct(*[(8, 2)] * 5), max_running=2)
    admitted = []
    for grant in [grant for step in manager.grants for grant in step]:
        if grant.request not in admitted:
            admitted.append(grant.request)
    assert admitted == ["0", "1", "2", "3", "4"]


def test_a_request_waits_while_the_pool_is_full():
    _, manager = serve(distinct((16, 3), (16, 1)), pool_for(24))
    assert manager.refused == [["1"], ["1"], ["1"], []]
    assert [[g.request for g in step] for step in manager.grants] == [["0"], ["0"], ["0"], ["1"]]


def test_a_request_that_does_not_fit_lets_none_overtake():
    _, manager = serve(distinct((16, 2), (16, 1), (4, 1)), pool_for(24))
    assert [[g.request for g in step] for step in manager.grants] == [["0"], ["0"], ["1", "2"]]


def test_the_latest_request_is_preempted_when_the_pool_is_full():
    result, manager = serve(distinct((8, 4), (8, 4)), pool_for(16))
    assert result.preemptions == 1
    assert manager.freed[1] == ["1"]


def test_a_preempted_request_is_computed_again_and_finishes():
    result, manager = serve(distinct((8, 4), (8, 4)), pool_for(16))
    assert (result.requests, result.output_tokens) == (2, 8)
    assert manager.tokens_of("1")[0] == 8
    assert manager.grants[-3][0].request == "1"
    assert manager.grants[-3][0].tokens + manager.grants[-3][0].hits == 9


def test_a_preempted_request_goes_before_those_that_wait():
    trace = distinct((8, 4), (8, 4), (8, 1))
    _, manager = serve(trace, pool_for(16), max_running=2, virtual_time=True)
    after = [g.request for step in manager.grants[1:] for g in step]
    assert after.index("1") < after.index("2")


def test_nothing_is_admitted_in_a_step_that_preempts():
    _, manager = serve(distinct((8, 4), (8, 4), (4, 1)), pool_for(16))
    assert [grant.request for grant in manager.grants[1]] == ["0"]


def test_a_request_that_never_fits_is_rejected_and_others_are_served():
    result, _ = serve(distinct((8, 1), (40, 1), (8, 1)), pool_for(16))
    assert (result.requests, result.rejected) == (2, 1)


def test_a_rejected_request_does_not_count_as_prompt():
    result, _ = serve(distinct((8, 1), (40, 1)), pool_for(16))
    assert (result.prompt_tokens, len(result.samples)) == (8, 1)


def test_a_request_that_outgrows_the_pool_is_rejected():
    result, _ = serve(distinct((8, 100), (8, 1)), pool_for(16), max_running=1)
    assert (result.requests, result.rejected) == (1, 1)


@settings(max_examples=25, deadline=None)
@given(trace=shared_prefixes(), num_blocks=st.integers(12, 40), budget=st.integers(4, 64))
def test_each_request_counts_once_with_the_hits_of_its_first_admission(trace, num_blocks, budget):
    result, manager = serve(trace, num_blocks, max_batched_tokens=budget)
    first = {}
    for grant in [grant for step in manager.grants for grant in step]:
        first.setdefault(grant.request, grant.hits)
    counted = [int(trace.input_length[int(name)]) for name in first]
    assert (result.prompt_tokens, result.hit_tokens) == (sum(counted), sum(first.values()))
    assert len(result.samples) == len(first)


def test_a_preempted_request_counts_its_prompt_once():
    result, _ = serve(distinct((8, 4), (8, 4)), pool_for(16))
    assert (result.preemptions, result.prompt_tokens, result.prompt_blocks) == (1, 16, 4)


def test_hits_of_readmission_do_not_count():
    result, manager = serve(distinct((8, 4), (8, 4)), pool_for(16))
    assert max(g.hits for step in manager.grants for g in step) > 0
    assert result.hit_tokens == 0


@pytest.mark.parametrize("outputs", [0, 3])
def test_the_peak_usage_is_the_highest_there_was(outputs):
    result, manager = serve(distinct((16, outputs)), pool_for(32))
    assert result.peak_usage == manager.highest_usage > 0


def test_progress_is_told_request_by_request():
    told = []
    options = ReplayOptions(num_blocks=pool_for(16), block_size=BLOCK)
    Replayer(distinct((8, 1), (40, 1), (8, 1)), options).run(advance=told.append)
    assert sum(told) == 3


def test_chunks_of_aligned_mamba_groups_are_multiples_of_the_block():
    _, manager = serve(distinct((50, 0)), block_size=16, groups="mamba:align", max_batched_tokens=20)
    assert manager.tokens_of("0")[:2] == [16, 16]


@pytest.mark.parametrize("budget", [20, 100])
def test_aligned_mamba_groups_end_a_chunk_with_the_last_full_block(budget):
    # Only there is the state kept that the next prompt of this kind can go on from (fact 41).
    _, manager = serve(distinct((50, 0)), block_size=16, groups="mamba:align", max_batched_tokens=budget)
    assert manager.tokens_of("0")[-1] == 2


@pytest.mark.parametrize("groups", ["full", "mamba:all", "mamba:align", "full+mamba:align"])
def test_a_prompt_that_comes_again_hits_all_its_full_blocks(groups):
    trace = from_requests("t", 16, [(0.0, 50, 0, [1, 2, 3, 4])] * 2)
    result, _ = serve(trace, 100, 16, groups, max_running=1)
    assert result.hit_tokens == 48


@pytest.mark.parametrize(
    "limits",
    [
        {"max_running": 0},
        {"max_running": -1},
        {"max_batched_tokens": 0},
        {"step_ms": -1.0},
        {"token_us": -1.0},
        {"step_ms": 0.0, "token_us": 0.0},
        {"step_ms": math.nan},
        {"token_us": math.nan},
        {"step_ms": math.inf},
        {"step_ms": 1e300},
        {"token_us": math.inf},
        {"age_limit_ms": -1.0},
        {"age_limit_ms": math.nan},
        {"age_limit_ms": math.inf},
        {"max_running": 2**31},
        {"max_running": 1.5},
        {"max_batched_tokens": 2**63},
        {"chunk_multiple": 0},
        {"chunk_multiple": 64, "max_batched_tokens": 32},
    ],
)
def test_limits_that_cannot_work_are_config_errors(limits):
    with pytest.raises(ConfigError):
        SchedulerLimits(**limits)


def test_a_budget_below_an_aligned_mamba_block_is_a_config_error():
    with pytest.raises(ConfigError, match="16"):
        serve(distinct((50, 0)), block_size=16, groups="mamba:align", max_batched_tokens=8)


@pytest.mark.parametrize("groups", ["full", "full+swa:8", "swa:8", "full+mamba", "chunked:8"])
def test_kept_hashes_give_the_same_replay(groups):
    rows = [(0.0, 24, 6, [1, 2, 3, 4, 5, 6]), (0.0, 20, 5, [1, 2, 3, 7, 8])] * 3
    trace = from_requests("t", BLOCK, rows)
    options = ReplayOptions(num_blocks=40, block_size=BLOCK, groups=groups)
    replayer = Replayer(trace, options, keep_hashes=True)
    first, second = replayer.run(), replayer.run()
    fresh = Replayer(trace, options).run()
    for name in ("hit_tokens", "steps", "evictions", "preemptions", "output_tokens", "samples"):
        assert getattr(first, name) == getattr(second, name) == getattr(fresh, name)
