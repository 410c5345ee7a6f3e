"""Numbers of calls and configurations as ints: Python's and numpy's, in range; nothing else is one."""

from typing import Any

import numpy as np

from kvgpu.errors import ArgumentError, ArgumentTypeError, ConfigError

MOST_TOKENS = 2**31 - 1
"""Of a block, an alignment or a window: kernels keep them in 32 bits."""


def as_integer(name: str, value: Any, low: int, high: int) -> int:
    """A number of a call as an int. O(1).

    Raises:
        ArgumentTypeError: No integer; a bool is none.
        ArgumentError: Below `low` or above `high`.
    """
    if type(value) is not int and (
        not isinstance(value, (int, np.integer)) or isinstance(value, bool)
    ):
        raise ArgumentTypeError(f"{name}: an integer is expected, got {type(value).__name__}")
    if not low <= value <= high:
        raise ArgumentError(f"{name} {value} is out of range: {low} to {high}")
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
