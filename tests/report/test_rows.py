"""Tables of runs as text."""

import pytest
from support.replays.runs import order, run
from support.traces import distinct, serve

from kvgpu.replay.result import PHASES
from kvgpu.report.document import run_of
from kvgpu.report.rows import aligned, changed_settings, order_rows, rows_of, side_by_side


def rows_after(*lengths, num_blocks=30, **limits):
    result, _ = serve(distinct(*lengths), num_blocks, **limits)
    return dict(rows_of(run_of(result.as_dict() | {"trace": "t"})))


@pytest.mark.parametrize("phase", PHASES)
def test_the_time_of_every_phase_is_there(phase):
    assert f"time: {phase}" in rows_after((20, 3), (40, 2))


@pytest.mark.parametrize("clock", [False, True])
def test_waiting_times_are_there_only_on_the_virtual_clock(clock):
    rows = rows_after((20, 3), (40, 2), virtual_time=clock)
    assert any(name.startswith("waiting") for name in rows) is clock


def test_what_was_served_and_what_was_not_is_counted():
    assert rows_after((8, 1), (400, 1), (8, 1), num_blocks=10)["requests served / rejected"] == "2 / 1"


def test_times_say_what_they_were_shared_among():
    rows = dict(rows_of(run()))
    assert (rows["time: hash"], rows["time: lookup"]) == ("0.50 s, 2.000 us a block (250,000 blocks)", "0.25 s")


def test_what_nobody_counted_is_a_dash():
    rows = dict(rows_of(run(early_evictions=None, recomputed_tokens=None)))
    assert (rows["tokens computed again"], rows["early evictions (1 minute)"]) == ("-", "-")


def test_orders_have_their_share_of_the_bound_where_there_is_one():
    orders = [order("lru", 10, 0.3), order("belady", 10, 0.4), order("lru", 20, 0.3), order("belady", 20, None)]
    assert order_rows(run(orders_of_eviction=orders)) == [
        ("10", "lru", "30.00%", "75.0%", "50", "9", "4", "-"),
        ("10", "belady", "40.00%", "-", "-", "-", "-", "-"),
        ("20", "lru", "30.00%", "-", "50", "9", "4", "-"),
        ("20", "belady", "-", "-", "-", "-", "-", "-"),
    ]


def test_runs_stand_side_by_side_with_dashes_where_one_has_no_figure():
    rows = {name: cells for name, *cells in side_by_side([run(), run(eviction="arc", bad_lines=3)])}
    assert rows["order of eviction"] == ["lru", "arc"]
    assert rows["bad lines skipped"] == ["-", "3"]


def test_settings_of_runs_are_those_that_some_run_has_set():
    runs = [run(settings={"--limit": "5"}), run(settings={"--hash": "xxhash"})]
    assert changed_settings(runs) == [("--limit", "5", "default"), ("--hash", "default", "xxhash")]


def test_columns_stand_below_each_other():
    assert aligned([("a", "bb"), ("cccc", "d")]) == ["a     bb", "cccc   d"]
