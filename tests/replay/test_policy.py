"""The order in which a replay admits requests."""

import pytest

from kvgpu.errors import UnknownNameError
from kvgpu.replay.run import Replayer, ReplayOptions
from kvgpu.replay.scheduler import SchedulerLimits
from kvgpu.replay.trace import from_requests

BLOCK = 16


def replay(requests, policy, age_limit_ms=1e9, num_blocks=9, **limits):
    """Requests (arrival, input tokens, hash ids) on a small pool, one at a time."""
    trace = from_requests("t", BLOCK, [(a, n, 0, ids) for a, n, ids in requests])
    options = ReplayOptions(
        num_blocks=num_blocks,
        hash_name="xxhash",
        limits=SchedulerLimits(
            max_running=1, decode=False, virtual_time=True, step_ms=10, token_us=0, policy=policy,
            age_limit_ms=age_limit_ms, **limits,
        ),
    )  # fmt: skip
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
    with pytest.raises(UnknownNameError, match="fcfs, longest-prefix"):
        SchedulerLimits(policy="random")


def test_the_time_of_ordering_is_counted_apart():
    result = replay(ALTERNATING, "longest-prefix")
    assert result.blocks_of["order"] > 0
    assert replay(ALTERNATING, "fcfs").blocks_of["order"] == 0
