"""Axes: where values lie, and which are written."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvgpu.report.axes import Axis, count, linear_axis, log_axis, percent, short, unit_axis


@pytest.mark.parametrize("log", [False, True])
def test_the_ends_lie_at_0_and_1_and_values_between_in_order(log):
    axis = Axis("x", 1.0, 100.0, short, log)
    places = [axis.place(value) for value in (1.0, 10.0, 50.0, 100.0)]
    assert (places[0], places[-1], places) == (0.0, 1.0, sorted(places))


def test_a_logarithmic_axis_has_equal_steps_for_equal_factors():
    assert Axis("x", 1.0, 100.0, short, log=True).place(10.0) == pytest.approx(0.5)


@given(low=st.floats(0.01, 1e6), factor=st.floats(1.02, 1e6))
def test_some_values_are_written_and_all_lie_on_the_axis(low, factor):
    for axis in (log_axis("x", [low, low * factor]), linear_axis("x", [low * factor])):
        ticks = axis.ticks()
        assert 2 <= len(ticks) <= 8
        assert all(-0.01 <= axis.place(tick) <= 1.01 for tick in ticks)


def test_values_that_are_named_are_written_if_there_is_room():
    wide = log_axis("x", [100, 400])._replace(written=(100, 200, 400))
    assert wide.ticks() == [100, 200, 400]
    narrow = wide._replace(written=(100, 101, 400))
    assert 101 not in narrow.ticks()


@pytest.mark.parametrize(("values", "high"), [([0.216], 0.3), ([0.9, 0.2], 1.0), ([], 1.0), ([0.0], 1.0), ([1.0], 1.0)])
def test_shares_have_a_round_end_above_them(values, high):
    assert unit_axis("x", values).high == pytest.approx(high)


def test_one_value_makes_an_axis():
    assert log_axis("x", [7.0]).high > log_axis("x", [7.0]).low
    assert linear_axis("x", [0.0]).high > 0


@pytest.mark.parametrize(
    ("text", "value", "expected"),
    [
        (percent, 0.375, "37.5%"),
        (percent, 0.2, "20%"),
        (count, 1234567.0, "1,234,567"),
        (short, 1500.0, "1.5k"),
        (short, 0.25, "0.25"),
        (short, 3e9, "3G"),
    ],
)
def test_values_are_written_briefly(text, value, expected):
    assert text(value) == expected
