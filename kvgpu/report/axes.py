"""Axes of plots: where values lie, which are written, and how."""

import math
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import NamedTuple

LEAST_GAP = 0.11
"""Between values that are written, as a share of an axis."""


class Axis(NamedTuple):
    """From `low` to `high`, linear or logarithmic; `text` writes a value. `written`: values to write, if few enough."""

    label: str
    low: float
    high: float
    text: Callable[[float], str]
    log: bool = False
    written: tuple[float, ...] = ()

    def place(self, value: float) -> float:
        """Return where a value lies, 0 at the low end and 1 at the high one. O(1)."""
        low, high = self._scaled(self.low), self._scaled(self.high)
        return (self._scaled(value) - low) / (high - low)

    def _scaled(self, value: float) -> float:
        return math.log10(value) if self.log else value

    def ticks(self) -> list[float]:
        """Return the values that are written, about five. O(1)."""
        places = sorted(map(self.place, self.written))
        if places and min((b - a for a, b in pairwise(places)), default=1.0) >= LEAST_GAP:
            return sorted(self.written)
        if self.log:
            return self._powers()
        step = _round_step((self.high - self.low) / 4)
        first = math.ceil(self.low / step - 1e-9)
        return [step * place for place in range(first, math.floor(self.high / step + 1e-9) + 1)]

    def _powers(self) -> list[float]:
        low, high = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        for digits in ((1,), (1, 3), (1, 2, 5)):
            found = [digit * 10.0**power for power in range(low, high + 1) for digit in digits]
            found = [value for value in found if self.low <= value * 1.0001 and value <= self.high * 1.0001]
            if len(found) >= 3:
                every = math.ceil(len(found) / 7)
                return found[::every]
        return [self.low, self.high]


def _round_step(step: float) -> float:
    power = 10.0 ** math.floor(math.log10(step))
    return next(digit * power for digit in (1, 2, 5, 10) if digit * power >= step * 0.999)


def percent(share: float) -> str:
    """Write a share. O(1)."""
    return f"{share:.1%}".replace(".0%", "%")


def count(value: float) -> str:
    """Write a number of things. O(1)."""
    return f"{value:,.0f}"


def short(value: float) -> str:
    """Write a number in few digits. O(1)."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.4g}{letter}"
    return f"{value:.3g}"


def unit_axis(label: str, values: Iterable[float]) -> Axis:
    """Return the axis of shares: from 0 to a round one above all. O(values)."""
    highest = max(values, default=1.0)
    step = _round_step(max(highest, 0.01) / 4)
    return Axis(label, 0.0, min(1.0, step * math.ceil(highest / step)) or 1.0, percent)


def log_axis(label: str, values: Iterable[float], text: Callable[[float], str] = short) -> Axis:
    """Return a logarithmic axis over values above 0. O(values)."""
    found = [value for value in values if value > 0] or [1.0]
    low, high = min(found), max(found)
    return Axis(label, low, high if high > low * 1.01 else low * 2, text, log=True)


def linear_axis(label: str, values: Iterable[float], text: Callable[[float], str] = short) -> Axis:
    """Return an axis from 0 to the largest value. O(values)."""
    return Axis(label, 0.0, max(values, default=1.0) or 1.0, text)
