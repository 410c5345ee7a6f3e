"""Ages of evicted blocks become counts at once."""

import pytest
from support.managers import admit, full, make_manager, make_request, per_backend

from kvgpu.errors import ArgumentTypeError, ConfigError, SampleRateError
from kvgpu.metrics import KVCacheEvictionEvent
from kvgpu.monitoring.block_ages import RESIDENCY_BOUNDS, BlockAges, Histogram


def test_a_bucket_counts_the_values_up_to_its_bound():
    histogram = Histogram((1.0, 2.0, 5.0))
    for value in (0.5, 1.0, 1.5, 5.0, 6.0):
        histogram.add(value)
    assert histogram.read() == ([2, 3, 4, 5], 14.0)


def test_an_event_is_counted_and_not_kept():
    ages = BlockAges(bounds=[1, 10])
    ages.report(KVCacheEvictionEvent(20.0, 5.0, (0.5, 2.0, 12.5)))
    assert ages.lifetime.read() == ([0, 0, 1], 20.0)
    assert ages.idle.read() == ([0, 1, 1], 5.0)
    assert ages.reuse_gaps.read() == ([1, 2, 3], 15.0)
    assert ages.drain_events() == []


@per_backend
def test_a_manager_counts_each_block_that_it_evicts(backend):
    ages = BlockAges(1.0)
    manager = make_manager(full(4), num_blocks=4, metrics_collector=ages, backend=backend)
    for name, tokens in (("a", [1] * 12), ("b", [2] * 12), ("c", [3] * 8)):
        request = make_request(name, tokens, 4)
        admit(manager, request)
        manager.free(request)
    assert ages.lifetime.read()[0][-1] == ages.idle.read()[0][-1] == 3 + 2


def test_the_largest_bound_is_half_an_hour():
    assert (len(RESIDENCY_BOUNDS), RESIDENCY_BOUNDS[0], RESIDENCY_BOUNDS[-1]) == (21, 0.001, 1800.0)


@pytest.mark.parametrize("bounds", [[], [2, 1], [1, 1]])
def test_bounds_ascend(bounds):
    with pytest.raises(ConfigError, match="must ascend"):
        BlockAges(bounds=bounds)


def test_a_bound_is_a_number():
    with pytest.raises(ArgumentTypeError, match="bounds must be a number"):
        BlockAges(bounds=["one"])


def test_a_rate_is_above_0():
    with pytest.raises(SampleRateError):
        BlockAges(0)
