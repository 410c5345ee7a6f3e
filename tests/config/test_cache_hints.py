"""What requests may say of their blocks, and what operators may allow."""

import numpy as np
import pytest
from support.managers import make_request

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


def test_numbers_are_plain_ones():
    """A client may send text that a float can be made of, which must not be multiplied as text."""
    hints = CacheHints(priority=np.uint8(7), lifetime="5")
    assert (type(hints.priority), hints.priority, hints.lifetime) == (int, 7, 5.0)
    limits = HintLimits(shares={"a": "0.25"}, max_pinned="0.5")
    assert (limits.shares, limits.max_pinned) == ({"a": 0.25}, 0.5)


def test_too_many_tenants_are_refused():
    with pytest.raises(ConfigError, match="at most 1000 tenants"):
        HintLimits({str(number): 0.0 for number in range(1001)})


def test_a_request_takes_only_hints():
    with pytest.raises(ArgumentTypeError, match="cache_hints"):
        make_request("r", 8, 4, cache_hints={"priority": 3})
