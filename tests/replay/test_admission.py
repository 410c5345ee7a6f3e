"""The order in which a replay admits requests."""

from collections import deque
from dataclasses import replace
from operator import attrgetter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.managers import admit, full, make_manager, make_request
from support.traces import Grant, serve, shared_prefixes

from kvgpu.batch.admission import POLICIES, HoldBack, LongestPrefix
from kvgpu.errors import UnknownNameError
from kvgpu.replay.limits import SchedulerLimits
from kvgpu.replay.requests import Sequence
from kvgpu.replay.run import Replayer, ReplayOptions
from kvgpu.replay.traces.trace import from_requests

BLOCK = 16


def replay(requests, policy, age_limit_ms=1e9, num_blocks=9, **limits):
    """Requests (arrival, input tokens, hash ids) on a small pool, one at a time."""
    trace = from_requests("t", BLOCK, [(a, n, 0, ids) for a, n, ids in requests])
    options = ReplayOptions(
        num_blocks=num_blocks,
        hash_name="xxhash",
        limits=SchedulerLimits(
            max_running=1,
            decode=False,
            virtual_time=True,
            step_ms=10,
            token_us=0,
            policy=policy,
            age_limit_ms=age_limit_ms,
            **limits,
        ),
    )
    return Replayer(trace, options).run()


A, B = [1, 2, 3, 4], [11, 12, 13, 14]
ALTERNATING = [(0.0, 65, [*ids, 100 + i]) for i, ids in enumerate([A, B] * 4)]
"""A pool of eight blocks holds one request: in this order nothing is ever hit."""


def test_longest_prefix_first_hits_what_the_order_of_arrival_misses():
    fcfs, longest = replay(ALTERNATING, "fcfs"), replay(ALTERNATING, "longest-prefix")
    assert fcfs.hit_tokens < longest.hit_tokens
    assert longest.requests == fcfs.requests == 8


def test_a_long_wait_goes_before_a_long_prefix():
    requests = [(0.0, 65, [*A, 100]), (1.0, 65, [*B, 200])]
    requests += [(2.0, 65, [*A, 101 + i]) for i in range(4)]
    patient = replay(requests, "longest-prefix").samples
    hurried = replay(requests, "longest-prefix", age_limit_ms=5.0).samples
    assert [wait for _, _, _, wait in patient][-1] > max(w for _, _, _, w in hurried[:2])
    assert hurried[1][1] == 0


def test_an_unknown_policy_lists_the_known():
    with pytest.raises(UnknownNameError, match="fcfs, hold-back, longest-prefix"):
        SchedulerLimits(policy="random")


def made(kind, manager):
    """A policy for queues of sequences, as a replay makes it."""
    return kind(manager, 10, attrgetter("request"), attrgetter("index"))


def sequences(*prompts):
    """Requests of these tokens, in the order of their arrival."""
    return [Sequence(i, make_request(str(i), tokens, 4), 0) for i, tokens in enumerate(prompts)]


def arranged(policy, waiting, running=(), waited_ms=0.0):
    """The queue after one call: who may be admitted, and who is held."""
    queue = deque(waiting)
    num_held = policy.arrange(queue, list(running), lambda _: waited_ms)
    places = [sequence.index for sequence in queue]
    return places[: len(places) - num_held], places[len(places) - num_held :]


SHARED = list(range(20))
TAIL = [[90 + i] * 8 for i in range(4)]


def test_a_request_is_held_while_one_before_it_is_about_to_fill_its_prefix():
    policy = made(HoldBack, make_manager(full(4)))
    waiting = sequences(SHARED + TAIL[0], SHARED + TAIL[1], TAIL[2], SHARED + TAIL[3])
    assert arranged(policy, waiting) == ([0, 2], [1, 3])


def test_requests_that_share_nothing_are_not_held():
    policy = made(HoldBack, make_manager(full(4)))
    assert arranged(policy, sequences(*TAIL)) == ([0, 1, 2, 3], [])


def test_who_was_held_has_its_old_place_in_the_next_step():
    policy = made(HoldBack, make_manager(full(4)))
    first, *waiting = sequences(SHARED + TAIL[0], SHARED + TAIL[1], TAIL[2], TAIL[3])
    assert arranged(policy, waiting, [first]) == ([2, 3], [1])
    assert arranged(policy, [waiting[1], waiting[2], waiting[0]]) == ([1, 2, 3], [])


def test_one_that_runs_holds_others_until_it_is_past_what_they_miss():
    manager = make_manager(full(4))
    policy = made(HoldBack, manager)
    first, second = sequences(SHARED + TAIL[0], SHARED + TAIL[1])
    for computed in (8, 16):
        admitted = first.request.num_computed_tokens
        manager.allocate_slots(first.request, computed - admitted)
        first.request.num_computed_tokens = computed
        assert arranged(policy, [second], [first]) == ([], [1])
    manager.allocate_slots(first.request, 4)
    first.request.num_computed_tokens = 20
    assert arranged(policy, [second], [first]) == ([1], [])


def test_one_whose_prompt_is_computed_holds_nobody():
    policy = made(HoldBack, make_manager(full(4)))
    first, second = sequences(SHARED + TAIL[0], SHARED + TAIL[1])
    first.request.num_computed_tokens = first.request.num_prompt_tokens
    assert arranged(policy, [second], [first]) == ([1], [])


@pytest.mark.parametrize(("waited_ms", "held"), [(10.0, [1]), (10.5, [])])
def test_who_waited_longer_than_the_limit_is_not_held(waited_ms, held):
    policy = made(HoldBack, make_manager(full(4)))
    waiting = sequences(SHARED + TAIL[0], SHARED + TAIL[1])
    assert arranged(policy, waiting, waited_ms=waited_ms)[1] == held


def test_who_could_not_hit_more_is_not_held():
    # The last token is always computed, so the last block of such a prompt is never hit.
    manager = make_manager(full(4))
    admit(manager, make_request("old", SHARED[:16] + TAIL[0], 4))
    policy = made(HoldBack, manager)
    assert arranged(policy, sequences(SHARED, SHARED, [*SHARED, 1])) == ([0, 1], [2])


def test_who_waits_again_with_more_tokens_is_looked_up_with_them():
    manager = make_manager(full(4))
    admit(manager, make_request("old", SHARED, 4))
    policy = made(LongestPrefix, manager)
    waiting = sequences(TAIL[0], SHARED[:4])
    assert arranged(policy, waiting) == ([0, 1], [])
    waiting[1].request.append_output_token_ids([4, 5])
    assert arranged(policy, waiting) == ([1, 0], [])


def test_who_is_held_is_admitted_a_step_later_and_others_at_once():
    rows = [(0.0, 20, 0, [1, 2, 3, 4, 5]), (0.0, 20, 0, [1, 2, 3, 4, 6]), (0.0, 8, 0, [7, 8])]
    _, manager = serve(from_requests("t", 4, rows), virtual_time=True, policy="hold-back")
    assert manager.grants == [[Grant("0", 20, 0), Grant("2", 8, 0)], [Grant("1", 4, 16)]]


@pytest.mark.parametrize("policy", POLICIES)
def test_nothing_of_a_prompt_that_is_computed_in_chunks_is_computed_twice(policy):
    # An allocation caches what it will fill, so that the next lookup hits it, whatever the policy.
    rows = [(0.0, 22, 0, [1, 2, 3, 4, 5, 6])] * 3
    result, manager = serve(from_requests("t", 4, rows), virtual_time=True, policy=policy, max_batched_tokens=8)
    assert result.hit_tokens == 40
    assert sum(grant.tokens for step in manager.grants for grant in step) == 22 + 2 + 2


def test_one_that_never_fits_does_not_block_those_it_holds():
    rows = [(0.0, 40, 0, list(range(10))), (0.0, 12, 0, [0, 1, 2])]
    result, _ = serve(from_requests("t", 4, rows), 5, virtual_time=True, policy="hold-back")
    assert (result.requests, result.rejected) == (1, 1)


@settings(max_examples=60, deadline=None)
@given(
    data=st.data(),
    trace=shared_prefixes(),
    num_blocks=st.integers(6, 24),
    groups=st.sampled_from(["full", "swa:8", "full+swa:8"]),
    bounds=st.tuples(st.integers(1, 4), st.integers(3, 40)),
    age_limit_ms=st.sampled_from([0.0, 25.0, 1e9]),
    virtual_time=st.booleans(),
)
def test_holding_back_serves_what_the_order_of_arrival_serves(
    data, trace, num_blocks, groups, bounds, age_limit_ms, virtual_time
):
    lengths = st.lists(st.integers(0, 6), min_size=len(trace), max_size=len(trace))
    outputs, gaps = data.draw(lengths), data.draw(lengths)
    trace = replace(trace, output_length=np.array(outputs), arrival_ms=np.cumsum(gaps).astype(float))
    served = []
    for policy in ("fcfs", "hold-back"):
        result, manager = serve(
            trace,
            num_blocks,
            groups=groups,
            virtual_time=virtual_time,
            policy=policy,
            max_running=bounds[0],
            max_batched_tokens=bounds[1],
            age_limit_ms=age_limit_ms,
        )
        assert result.requests + result.rejected == len(trace)
        assert manager.usage == 0.0
        manager.check()
        served.append((result.requests, result.rejected, result.prompt_tokens))
    # With a window alone, a prompt that is longer than the pool fits behind a hit, and without one it does not.
    depends_on_hits = groups == "swa:8" and any(rejected for _, rejected, _ in served)
    assert served[0] == served[1] or depends_on_hits


def test_the_time_of_ordering_is_counted_apart():
    result = replay(ALTERNATING, "longest-prefix")
    assert result.blocks_of["order"] > 0
    assert replay(ALTERNATING, "fcfs").blocks_of["order"] == 0
