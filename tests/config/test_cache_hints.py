"""What requests may say of their blocks, and what operators may allow."""

import numpy as np
import pytest

from kvgpu.config.cache_hints import CacheHints, HintLimits
from kvgpu.errors import ArgumentError, ArgumentTypeError, ConfigError


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({"priority": -1}, ArgumentError),
        ({"priority": 101}, ArgumentError),
        ({"priority": 1.5}, ArgumentTypeError),
        ({"lifetime": -1}, ArgumentError),
        ({"lifetime": float("inf")}, ArgumentError),
        ({"lifetime": "long"}, ArgumentTypeError),
        ({"tenant": 7}, ArgumentTypeError),
    ],
)
def test_bad_hints_are_refused(values, error):
    with pytest.raises(error, match=next(iter(values))):
        CacheHints(**values)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"shares": {"a": 0.6, "b": 0.6}}, "more than the pool"),
        ({"shares": {"a": -0.1}}, "fraction"),
        ({"shares": {"a": "half"}}, "number"),
        ({"shares": {7: 0.1}}, "mapping"),
        ({"shares": [0.1]}, "mapping"),
        ({"max_pinned": 1.5}, "fraction"),
        ({"trusts_clients": np.zeros(2)}, "trusts_clients"),
        ({"clock": 5}, "function"),
    ],
)
def test_bad_limits_are_refused(values, words):
    with pytest.raises((ConfigError, ArgumentTypeError), match=words):
        HintLimits(**values)
