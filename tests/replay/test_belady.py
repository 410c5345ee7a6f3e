"""The upper bound of all orders of eviction, beside a search through all of them, and above every policy."""

from functools import cache
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.traces import serve, shared_prefixes

from kvgpu.eviction.names import EVICTIONS
from kvgpu.replay.belady import belady_hit_tokens


def best(trace, block_size, capacity):
    """Most hits over all ways of keeping blocks, by search."""
    prompts = []
    for request in range(len(trace)):
        tokens = [(id, place) for id in trace.ids_of(request).tolist() for place in range(trace.block_tokens)]
        length = int(trace.input_length[request])
        blocks = [tuple(tokens[:end]) for end in range(block_size, length + 1, block_size)]
        prompts.append((frozenset(blocks), frozenset(blocks[: (length - 1) // block_size])))

    @cache
    def hits_from(request, kept):
        if request == len(prompts):
            return 0
        blocks, looked_up = prompts[request]
        found = kept | blocks
        later = frozenset().union(*(other for _, other in prompts[request + 1 :]))
        useful = sorted(found & later)
        choices = map(frozenset, combinations(useful, min(capacity, len(useful))))
        return len(kept & looked_up) + max(hits_from(request + 1, choice) for choice in choices)

    return block_size * hits_from(0, frozenset())


@settings(max_examples=60, deadline=None)
@given(trace=shared_prefixes(), block_size=st.sampled_from([3, 4, 8, 12]), capacity=st.integers(0, 4))
def test_it_equals_a_search_through_everything_that_can_be_kept(trace, block_size, capacity):
    trace = trace.head(6)
    assert belady_hit_tokens(trace, block_size, [capacity + 1]) == [best(trace, block_size, capacity)]


@pytest.mark.parametrize("eviction", EVICTIONS)
@settings(max_examples=15, deadline=None)
@given(trace=shared_prefixes(), num_blocks=st.integers(12, 40), running=st.sampled_from([1, 3]))
def test_no_policy_hits_more(trace, num_blocks, running, eviction):
    result, _ = serve(trace, num_blocks, 4, max_running=running, decode=False, eviction=eviction)
    assert result.hit_tokens <= belady_hit_tokens(trace, 4, [num_blocks])[0]


@settings(max_examples=25, deadline=None)
@given(trace=shared_prefixes())
def test_with_room_for_everything_it_is_at_least_an_endless_cache(trace):
    result, _ = serve(trace, 2000, 8, max_running=1, decode=False)
    assert belady_hit_tokens(trace, 8, [2000])[0] >= result.ideal_hit_tokens
