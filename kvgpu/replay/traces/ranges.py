"""Checks of the numbers that options may have."""

import operator
import reprlib
from math import isfinite
from typing import Any

from kvgpu.errors import ConfigError

INT32_MAX = 2**31 - 1
"""Largest block id, and largest number of blocks or of tokens of one step."""


def check_whole(name: str, value: Any, low: int = 1, high: int = INT32_MAX) -> None:
    """Check that an option is an integer of `low` to `high`.

    Raises:
        ConfigError: It is not; the message begins with `name`.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = low - 1
    if isinstance(value, bool) or not low <= number <= high:
        shown = reprlib.repr(value)
        raise ConfigError(f"{name} must be an integer of {low:,} to {high:,}, got {shown}")


def check_finite(name: str, value: Any, high: float) -> None:
    """Check that an option is a finite number of 0 to `high`.

    Raises:
        ConfigError: It is not; the message begins with `name`.
    """
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (is_number and 0 <= value <= high and isfinite(value)):
        raise ConfigError(f"{name} must be a number of 0 to {high:,.0f}, got {reprlib.repr(value)}")
