"""Numbers and options of calls and configurations, as plain ints, floats and bools; any other value is refused."""

from collections.abc import Sequence
from functools import reduce
from operator import or_
from typing import Any

import numpy as np

from kvgpu.errors import ArgumentError, ArgumentTypeError, ConfigError

MOST_TOKENS = (1 << 31) - 1
"""Largest count (tokens of one request, blocks of one pool and so on) that records and kernels can hold."""


def as_integer(name: str, value: Any, low: int = 0, high: int = MOST_TOKENS) -> int:
    """Return a number passed to a call as an int. O(1).

    Raises:
        ArgumentTypeError: The value is not an integer; a bool is not one.
        ArgumentError: The value is below `low` or above `high`.
    """
    if type(value) is int and low <= value <= high:
        return value
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool):
        raise ArgumentTypeError(f"{name}: an integer is expected, got {type(value).__name__}")
    if not low <= value <= high:
        raise ArgumentError(f"{name} must be {low} to {high}, got {shown(int(value))}")
    return int(value)


def as_size(name: str, value: Any, low: int = 1, high: int = MOST_TOKENS) -> int:
    """Return a number of a configuration as an int. O(1).

    Raises:
        ConfigError: The value is not an integer, or is out of range.
    """
    try:
        return as_integer(name, value, low, high)
    except ArgumentError as error:
        raise ConfigError(str(error)) from None


def as_integers(
    names: Sequence[str], values: tuple[Any, ...], about: str = "", high: int = MOST_TOKENS
) -> tuple[int, ...]:
    """Return numbers as ints of 0 to `high`. O(len(values)), at a fraction of the cost of checking each value.

    Args:
        names: Names of the values, for the message.
        values: The numbers, one for each name.
        about: Beginning of the message.
        high: Largest number; one less than a power of 2.

    Raises:
        ArgumentTypeError: A value is not an integer.
        ArgumentError: A value is out of range.
    """
    try:
        # The result is negative if a value is, too large if a value is, and an int only if all values are.
        bits = reduce(or_, values)
    except (TypeError, ValueError, OverflowError):
        bits = -1
    if bits.__class__ is int and 0 <= bits <= high:
        return values
    return tuple(as_integer(about + name, value, 0, high) for name, value in zip(names, values, strict=True))


def as_number(name: str, value: Any) -> float:
    """Return `value` as a float. O(1).

    Raises:
        ArgumentTypeError: The value is not a number.
    """
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise ArgumentTypeError(f"{name} must be a number, got {shown(value)}") from None


def as_switch(name: str, value: Any) -> bool:
    """Return whether an option is on. O(1).

    Raises:
        ArgumentTypeError: The value is neither true nor false, for example an array of several values.
    """
    try:
        return bool(value)
    except (TypeError, ValueError):
        raise ArgumentTypeError(f"{name} must be true or false, got {shown(value)}") from None


def as_option(name: str, value: Any) -> bool:
    """Return whether an option of a configuration is on. O(1).

    Raises:
        ConfigError: The value is neither true nor false.
    """
    try:
        return as_switch(name, value)
    except ArgumentTypeError as error:
        raise ConfigError(str(error)) from None


def shown(value: Any) -> str:
    """Format a value for a message, shortened if it is long. O(1) for plain numbers."""
    if isinstance(value, int):
        # To format a huge number would take long, or be refused by Python.
        return str(value) if value.bit_length() <= 256 else f"a number of {value.bit_length()} bits"
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
