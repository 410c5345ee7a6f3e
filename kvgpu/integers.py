"""Numbers and options of calls and configurations, as plain ints, floats and truth values; nothing else is one."""

from collections.abc import Sequence
from functools import reduce
from operator import or_
from typing import Any

import numpy as np

from kvgpu.errors import ArgumentError, ArgumentTypeError, ConfigError

MOST_TOKENS = (1 << 31) - 1
"""The most tokens of one request, blocks of one pool and so on that records and kernels can count."""


def as_integer(name: str, value: Any, low: int = 0, high: int = MOST_TOKENS) -> int:
    """A number of a call as an int. O(1).

    Raises:
        ArgumentTypeError: No integer; a bool is none.
        ArgumentError: Below `low` or above `high`.
    """
    if type(value) is not int and (not isinstance(value, (int, np.integer)) or isinstance(value, bool)):
        raise ArgumentTypeError(f"{name}: an integer is expected, got {type(value).__name__}")
    if not low <= value <= high:
        raise ArgumentError(f"{name} must be {low} to {high}, got {shown(int(value))}")
    return int(value)


def as_size(name: str, value: Any, low: int = 1, high: int = MOST_TOKENS) -> int:
    """A number of a configuration as an int. O(1).

    Raises:
        ConfigError: No integer, or out of range.
    """
    try:
        return as_integer(name, value, low, high)
    except ArgumentError as error:
        raise ConfigError(str(error)) from None


def as_integers(
    names: Sequence[str], values: tuple[Any, ...], about: str = "", high: int = MOST_TOKENS
) -> tuple[int, ...]:
    """Values that are all ints of 0 to `high`, one less than a power of 2. O(len(values)), a fraction of asking for
    each.

    Args:
        names: What they are, for the message.
        values: As many.
        about: What the message begins with.

    Raises:
        ArgumentTypeError: One is no integer.
        ArgumentError: One is out of range.
    """
    try:
        # Negative if one is, too long if one is, and no int unless all are.
        bits = reduce(or_, values)
    except (TypeError, ValueError, OverflowError):
        bits = -1
    if bits.__class__ is int and 0 <= bits <= high:
        return values
    return tuple(as_integer(about + name, value, 0, high) for name, value in zip(names, values, strict=True))


def as_number(name: str, value: Any) -> float:
    """`value` as a float. O(1).

    Raises:
        ArgumentTypeError: It is no number.
    """
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise ArgumentTypeError(f"{name} must be a number, got {shown(value)}") from None


def as_switch(name: str, value: Any) -> bool:
    """Whether an option is on. O(1).

    Raises:
        ArgumentTypeError: It is neither true nor false, as an array of several.
    """
    try:
        return bool(value)
    except (TypeError, ValueError):
        raise ArgumentTypeError(f"{name} must be true or false, got {shown(value)}") from None


def as_option(name: str, value: Any) -> bool:
    """Whether an option of a configuration is on. O(1).

    Raises:
        ConfigError: It is neither true nor false.
    """
    try:
        return as_switch(name, value)
    except ArgumentTypeError as error:
        raise ConfigError(str(error)) from None


def shown(value: Any) -> str:
    """A value for a message, never long. O(1) for plain numbers."""
    if isinstance(value, int):
        # The digits of a huge one would take long, or be refused.
        return str(value) if value.bit_length() <= 256 else f"a number of {value.bit_length()} bits"
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
