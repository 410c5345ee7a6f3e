"""The hit rate of an endless cache, beside sets of token tuples and beside real replays."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.traces import distinct, serve, shared_prefixes

from kvgpu.replay.ideal import ideal_hits
from kvgpu.replay.traces.trace import from_requests


def brute_force(trace, block_size):
    """Hits when every full block of every prompt is remembered with all that is before it."""
    seen, hits = set(), 0
    for request in range(len(trace)):
        ids = trace.ids_of(request).tolist()
        tokens = [(id, place) for id in ids for place in range(trace.block_tokens)]
        tokens = tuple(tokens[: trace.input_length[request]])
        ends = range(block_size, len(tokens) + 1, block_size)
        found = 0
        for end in ends:
            if end == len(tokens) or tokens[:end] not in seen:
                break
            found = end
        hits += found
        seen |= {tokens[:end] for end in ends}
    return hits


@settings(max_examples=150, deadline=None)
@given(trace=shared_prefixes(), block_size=st.sampled_from([1, 2, 3, 4, 8, 12, 16, 24]))
def test_it_equals_a_search_in_all_prefixes(trace, block_size):
    assert ideal_hits(trace, block_size).sum() == brute_force(trace, block_size)


@settings(max_examples=25, deadline=None)
@given(trace=shared_prefixes(), block_size=st.sampled_from([2, 8, 16]))
def test_it_equals_a_replay_without_evictions_one_request_at_a_time(trace, block_size):
    result, _ = serve(trace, 2000, block_size, max_running=1, decode=False)
    assert (result.evictions, result.hit_tokens) == (0, result.ideal_hit_tokens)


@settings(max_examples=15, deadline=None)
@given(trace=shared_prefixes())
def test_a_small_pool_does_not_hit_more_than_an_endless_cache(trace):
    result, _ = serve(trace, 12, 8, max_running=1, decode=False)
    assert result.hit_tokens <= result.ideal_hit_tokens


@settings(max_examples=15, deadline=None)
@given(trace=shared_prefixes(per_id=8))
def test_groups_of_several_block_sizes_hit_multiples_of_the_largest(trace):
    result, _ = serve(trace, 2000, 8, "full@8+full@16", max_running=1, decode=False)
    assert result.hit_tokens == result.ideal_hit_tokens == brute_force(trace, 16)


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        pytest.param([16, 16], 12, id="at least one token is left to compute"),
        pytest.param([16, 17], 16, id="a longer prompt hits all of it"),
        pytest.param([15, 16], 12, id="what is not full is not cached"),
        pytest.param([16, 3], 0, id="less than a block hits nothing"),
        pytest.param([16, 16, 16], 24, id="each request counts"),
    ],
)
def test_hits_are_full_blocks_that_leave_a_token(lengths, expected):
    rows = [(0.0, length, 0, [1, 2, 3, 4, 5][: -(-length // 4)]) for length in lengths]
    assert ideal_hits(from_requests("same", 4, rows), 4).sum() == expected


def test_what_is_generated_is_never_asked_for():
    rows = [(0.0, 4, 100, [1]), (1.0, 9, 0, [1, 2, 3])]
    assert ideal_hits(from_requests("t", 4, rows), 4).sum() == 4


def test_requests_that_share_nothing_hit_nothing():
    assert ideal_hits(distinct((16, 0), (40, 3), (8, 0)), 4).sum() == 0
