"""`BlockAges`: how old blocks are when they are evicted, in histograms that any thread may read."""

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate, pairwise

from kvgpu.errors import ConfigError
from kvgpu.integers import as_number
from kvgpu.metrics import KVCacheEvictionEvent, KVCacheMetricsCollector

RESIDENCY_BOUNDS = (
    *(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5),
    *(1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0),
)
"""Upper bounds in seconds, those of vLLM 0.23 to 0.33."""


class Histogram:
    """Counts values by size. One thread adds values, and any thread may read.

    Args:
        bounds: Upper bounds of the buckets, ascending; a bucket counts the values up to its bound. One more bucket
            takes the rest.
    """

    __slots__ = ("_counts", "_total", "bounds")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._total = 0.0

    def add(self, value: float) -> None:
        """Count a value. O(log(buckets))."""
        self._total += value
        self._counts[bisect_left(self.bounds, value)] += 1

    def read(self) -> tuple[list[int], float]:
        """Return how many values are up to each bound, then how many there are, and their sum. O(buckets).

        Beside a thread that adds a value, the sum may have it already.
        """
        counts = self._counts.copy()
        return list(accumulate(counts)), self._total


class BlockAges(KVCacheMetricsCollector):
    """Follows a random sample of blocks, and counts their ages when they are evicted.

    Give it to a manager as its `metrics_collector`. Nobody has to fetch anything: reports become counts at once, so
    `drain_events` returns none.

    Args:
        sample_rate: Probability that a block is followed, above 0 and at most 1.
        bounds: Upper bounds of the buckets in seconds, ascending.

    Attributes:
        lifetime: Seconds from allocation to eviction.
        idle: Seconds from the last use to eviction.
        reuse_gaps: Seconds between uses, of the last four of each block.

    Raises:
        SampleRateError: The rate is not a number, or is out of range.
        ConfigError: There are no bounds, or they do not ascend.
        ArgumentTypeError: A bound is not a number.
    """

    def __init__(self, sample_rate: float = 0.01, bounds: Sequence[float] = RESIDENCY_BOUNDS) -> None:
        super().__init__(sample_rate)
        limits = tuple(as_number("bounds", bound) for bound in bounds)
        if not limits or not all(lower < upper for lower, upper in pairwise(limits)):
            raise ConfigError(f"bounds of buckets must ascend, got {limits}")
        self.lifetime, self.idle, self.reuse_gaps = (Histogram(limits) for _ in range(3))

    def report(self, event: KVCacheEvictionEvent) -> None:
        """Count the ages of an evicted block. O(log(buckets))."""
        self.lifetime.add(event.lifetime_seconds)
        self.idle.add(event.idle_seconds)
        for gap in event.reuse_gaps_seconds:
            self.reuse_gaps.add(gap)
