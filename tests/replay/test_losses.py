"""What evictions and preemptions cost: beside what the events of the pool say, and on small traces counted by hand."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.traces import BLOCK, distinct, serve, shared_prefixes

from kvgpu.eviction.names import EVICTIONS
from kvgpu.replay.losses import SOON_MS
from kvgpu.replay.traces.trace import from_requests


def repeated(*arrivals, ids=(1, 2, 3), others=()):
    """The same prompt at several times, and others that share nothing with it."""
    rows = [(arrival, BLOCK * len(ids) + 1, 0, [*ids, 0]) for arrival in arrivals]
    rows += [(arrival, BLOCK * 4, 0, list(range(first, first + 4))) for arrival, first in others]
    return from_requests("repeated", BLOCK, rows)


def served(trace, num_blocks, **limits):
    return serve(trace, num_blocks, follows_blocks=True, max_running=1, **limits)[0]


def test_with_room_for_everything_nothing_is_lost():
    result = served(repeated(0.0, 10.0), 100)
    assert (result.recomputed_tokens, result.early_evictions, result.hit_tokens) == (0, 0, 12)


@pytest.mark.parametrize(("later", "early"), [(SOON_MS, 3), (SOON_MS + 1, 0)])
def test_blocks_are_evicted_early_if_they_are_asked_for_within_a_minute(later, early):
    trace = repeated(0.0, 100.0 + later, others=[(100.0, 10)])
    result = served(trace, 5)
    assert (result.evictions, result.early_evictions, result.recomputed_tokens) == (7, early, 3 * BLOCK)


def test_an_early_eviction_is_counted_once():
    trace = repeated(0.0, 200.0, 300.0, others=[(100.0, 10)])
    assert served(trace, 5).early_evictions == 3


def test_a_block_with_a_copy_is_not_gone():
    # The last block of a prompt of full blocks is computed by each request that has it.
    rows = [(0.0, 8, 0, [1, 2]), (1.0, 8, 0, [1, 2]), (2.0, 12, 0, [7, 8, 9]), (3.0, 12, 0, [1, 2, 3])]
    result = served(from_requests("copies", BLOCK, rows), 7)
    assert (result.evictions, result.early_evictions, result.hit_tokens) == (1, 0, 12)


def test_what_a_preempted_request_had_computed_counts():
    result, _ = serve(distinct((16, 30), (16, 30)), 14, follows_blocks=True, max_running=2)
    assert result.preemptions > 0
    decoded = result.output_tokens - 2
    assert result.recomputed_tokens == result.computed_tokens - result.prompt_tokens - decoded > 0


def test_early_evictions_are_none_where_nobody_follows_them():
    assert serve(distinct((16, 1)), 20)[0].early_evictions is None
    assert serve(distinct((16, 1)), 60, groups="full+swa:8", follows_blocks=True)[0].early_evictions is None


def early_by_events(trace, steps, grants):
    """Early evictions of requests that are served one after the other, by the events of the pool: (step, events)."""
    stored, gone, hash_of, early = {}, set(), {}, 0
    for events, (grant,) in zip(steps, grants, strict=True):
        request = int(grant.request)
        length = int(trace.input_length[request])
        tokens = [(id, place) for id in trace.ids_of(request).tolist() for place in range(trace.block_tokens)]
        blocks = [tuple(tokens[:end]) for end in range(BLOCK, length + 1, BLOCK)]
        asked = {hash_of.get(block) for block in blocks[: (length - 1) // BLOCK]} & gone
        early += len(asked)
        gone -= asked
        for event in events:
            added = type(event).__name__ == "BlockStored"
            if added:
                hash_of.update(zip(blocks[grant.hits // BLOCK :], event.block_hashes, strict=True))
            for block in event.block_hashes:
                stored[block] = stored.get(block, 0) + (1 if added else -1)
                (gone.discard if stored[block] else gone.add)(block)
    return early


@pytest.mark.parametrize("eviction", EVICTIONS)
@settings(max_examples=25, deadline=None)
@given(trace=shared_prefixes(), num_blocks=st.integers(12, 20))
def test_early_evictions_are_those_that_the_events_say(trace, num_blocks, eviction):
    steps = []
    result, manager = serve(
        trace,
        num_blocks,
        sink=lambda seconds, events: steps.append(events),
        eviction=eviction,
        follows_blocks=True,
        decode=False,
        max_running=1,
    )
    assert result.early_evictions == early_by_events(trace, steps, manager.grants)
