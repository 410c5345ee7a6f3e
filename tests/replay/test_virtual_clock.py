"""The virtual clock of the replay: when it starts, how long steps take and requests wait, and the times of events."""

import pytest
from support.traces import Grant, distinct, serve


def trace_with_clock(*requests):
    """(arrival, input, output) of requests that share nothing."""
    arrivals = [float(arrival) for arrival, _, _ in requests]
    return distinct(*((i, o) for _, i, o in requests), arrivals=arrivals)


def test_waiting_times_of_requests_served_one_by_one():
    # A step of n tokens takes 10 + n ms: [0, 18), then [18, 32), idle until 100.
    trace = trace_with_clock((0, 8, 0), (5, 4, 0), (100, 4, 0))
    result, _ = serve(trace, max_running=1, virtual_time=True, step_ms=10.0, token_us=1000.0)
    assert [sample[3] for sample in result.samples] == [0.0, 13.0, 0.0]
    assert result.virtual_seconds == pytest.approx(0.114)


def test_waiting_times_of_requests_served_together():
    # [0, 18) prompt, [18, 29) one token, [29, 44) one token and the other prompt.
    trace = trace_with_clock((0, 8, 3), (20, 4, 1))
    result, manager = serve(trace, virtual_time=True, step_ms=10.0, token_us=1000.0)
    assert manager.grants[2] == [Grant("0", 1, 0), Grant("1", 4, 0)]
    assert [sample[3] for sample in result.samples] == [0.0, pytest.approx(9.0)]
    assert result.virtual_seconds == pytest.approx(0.044)


def test_on_the_virtual_clock_nothing_is_served_before_it_arrives():
    trace = trace_with_clock((1000, 4, 0), (2000, 4, 0))
    result, manager = serve(trace, virtual_time=True, step_ms=1.0, token_us=0.0)
    assert max(len(step) for step in manager.grants) == 1
    assert result.virtual_seconds == pytest.approx(1.001)


@pytest.mark.parametrize("start", [0, 1_732_000_000_000, 10**15])
def test_the_virtual_clock_starts_at_the_first_arrival(start):
    times = []
    trace = trace_with_clock((start, 8, 0), (start + 750, 8, 0))
    result, _ = serve(
        trace, sink=lambda seconds, _: times.append(seconds), virtual_time=True, step_ms=100.0, token_us=0.0
    )
    assert result.virtual_seconds == pytest.approx(0.85)
    assert times == pytest.approx([0.1, 0.75, 0.85])
    assert [sample[3] for sample in result.samples] == [0.0, 0.0]


def test_without_the_clock_arrivals_do_not_matter():
    result, manager = serve(trace_with_clock((0, 4, 0), (10**9, 4, 0)))
    assert len(manager.grants) == 1
    assert (result.virtual_seconds, [s[3] for s in result.samples]) == (None, [0.0, 0.0])


def test_events_are_handed_over_after_every_step_with_its_time():
    times = []
    trace = trace_with_clock((0, 8, 0), (100, 8, 0))
    serve(
        trace,
        sink=lambda seconds, events: times.append((seconds, len(events))),
        virtual_time=True,
        step_ms=10.0,
        token_us=0.0,
    )
    assert times == [(0.01, 1), (0.1, 0), (0.11, 1)]
