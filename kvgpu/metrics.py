"""Statistics of the prefix cache and of the lifetimes of blocks."""

import random
import time
from collections import deque
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from kvgpu.errors import ArgumentTypeError, SampleRateError
from kvgpu.integers import as_integers, as_number, as_size, as_switch, shown

RECORDED = ("num_tokens", "num_hits", "requests")
COUNTS = ("requests", "queries", "hits")
MOST_COUNTED = (1 << 62) - 1
"""Upper bound of each count: tokens of all requests since the last report, and so on."""


@dataclass
class BaseCacheStats:
    """Counts since the last report: requests that looked up, tokens that they queried, tokens that hit."""

    reset: bool = False
    requests: int = 0
    queries: int = 0
    hits: int = 0


@dataclass
class PrefixCacheStats(BaseCacheStats):
    """`BaseCacheStats` that count requests that were preempted before separately."""

    preempted_requests: int = 0
    preempted_queries: int = 0
    preempted_hits: int = 0

    def record(self, num_tokens: int, num_hits: int, preempted: bool, requests: int = 1) -> None:
        """Count lookups of `num_tokens` tokens in total, of which `num_hits` hit. O(1).

        Raises:
            ArgumentError, ArgumentTypeError: A count is not an integer, or is below 0. Nothing is counted.
        """
        num_tokens, num_hits, requests = as_integers(RECORDED, (num_tokens, num_hits, requests), high=MOST_COUNTED)
        self.add(num_tokens, num_hits, as_switch("preempted", preempted), requests)

    def add(self, num_tokens: int, num_hits: int, preempted: bool, requests: int = 1) -> None:
        """`record` of numbers that have been checked. O(1)."""
        if preempted:
            self.preempted_requests += requests
            self.preempted_queries += num_tokens
            self.preempted_hits += num_hits
        else:
            self.requests += requests
            self.queries += num_tokens
            self.hits += num_hits


class CachingMetrics:
    """Hit rate over the most recent requests (fact 61).

    Args:
        max_recent_requests: Size of the window, in requests.

    Raises:
        ConfigError: The size is not an integer, or is below 0.
    """

    def __init__(self, max_recent_requests: int = 1000) -> None:
        self.max_recent_requests = as_size("max_recent_requests", max_recent_requests, 0)
        self.query_queue: deque[tuple[int, int, int]] = deque()
        self.reset()

    def observe(self, stats: BaseCacheStats) -> None:
        """Add a report and remove those that are too old, but never the latest. Amortised O(1).

        Statistics with `reset` empty the window first. A report of no requests is ignored.

        Raises:
            ArgumentError, ArgumentTypeError: `stats` are not statistics. Nothing is changed.
        """
        try:
            resets = as_switch("reset", stats.reset)
            requests, queries, hits = as_integers(
                COUNTS, (stats.requests, stats.queries, stats.hits), high=MOST_COUNTED
            )
        except AttributeError:
            raise ArgumentTypeError(f"statistics are expected, got {shown(stats)}") from None
        if resets:
            self.reset()
        if requests == 0:
            return
        self._add(requests, queries, hits)
        self.query_queue.append((requests, queries, hits))
        while len(self.query_queue) > 1 and self.aggregated_requests > self.max_recent_requests:
            requests, queries, hits = self.query_queue.popleft()
            self._add(-requests, -queries, -hits)

    def reset(self) -> None:
        """Empty the window. O(reports in it)."""
        self.query_queue.clear()
        self.aggregated_requests = 0
        self.aggregated_query_total = 0
        self.aggregated_query_hit = 0

    def _add(self, requests: int, queries: int, hits: int) -> None:
        self.aggregated_requests += requests
        self.aggregated_query_total += queries
        self.aggregated_query_hit += hits

    @property
    def empty(self) -> bool:
        """Whether there are no requests in the window."""
        return self.aggregated_requests == 0

    @property
    def hit_rate(self) -> float:
        """Tokens that hit per token queried; 0.0 if the window is empty."""
        total = self.aggregated_query_total
        return self.aggregated_query_hit / total if total else 0.0


@dataclass
class KVCacheEvictionEvent:
    """Life of one sampled block, in seconds."""

    lifetime_seconds: float
    idle_seconds: float
    reuse_gaps_seconds: tuple[float, ...]


class BlockMetricsState:
    """Times of the allocation and the last accesses of one sampled block."""

    KEPT_ACCESSES = 4

    def __init__(self) -> None:
        now = time.monotonic_ns()
        self.birth_time_ns = now
        self.last_access_ns = now
        self.access_history: deque[int] = deque(maxlen=self.KEPT_ACCESSES)

    def record_access(self) -> None:
        self.last_access_ns = time.monotonic_ns()
        self.access_history.append(self.last_access_ns)

    def get_lifetime_seconds(self) -> float:
        return (time.monotonic_ns() - self.birth_time_ns) / 1e9

    def get_idle_time_seconds(self) -> float:
        return (time.monotonic_ns() - self.last_access_ns) / 1e9

    def get_reuse_gaps_seconds(self) -> list[float]:
        """Return the seconds between the recorded accesses, oldest first."""
        times = list(self.access_history)
        return [(after - before) / 1e9 for before, after in pairwise(times)]


class KVCacheMetricsCollector:
    """Follows a random sample of blocks from allocation to eviction.

    Args:
        sample_rate: Probability that a block is followed, above 0 and at most 1.

    Raises:
        SampleRateError: The rate is not a number, or is out of range.
    """

    def __init__(self, sample_rate: float = 0.01) -> None:
        try:
            rate = as_number("sample_rate", sample_rate)
        except ArgumentTypeError as error:
            raise SampleRateError(str(error)) from None
        if not 0 < rate <= 1:
            raise SampleRateError(f"sample_rate must be above 0 and at most 1, got {rate}")
        self.sample_rate = rate
        self.block_metrics: dict[int, BlockMetricsState] = {}
        self._eviction_events: list[KVCacheEvictionEvent] = []

    def should_sample_block(self) -> bool:
        """Return True with probability `sample_rate`, using Python's global generator. O(1)."""
        return random.random() < self.sample_rate

    def on_block_allocated(self, block: Any) -> None:
        """Begin to follow a block if `should_sample_block` chooses it. O(1)."""
        if self.should_sample_block():
            self.block_metrics[block.block_id] = BlockMetricsState()

    def on_block_accessed(self, block: Any) -> None:
        """Record a cache hit on a block if it is followed. O(1)."""
        state = self.block_metrics.get(block.block_id)
        if state is not None:
            state.record_access()

    def on_block_evicted(self, block: Any) -> None:
        """Report a followed block (see `drain_events`) and stop following it. O(1)."""
        state = self.block_metrics.pop(block.block_id, None)
        if state is not None:
            gaps = tuple(state.get_reuse_gaps_seconds())
            self.report(KVCacheEvictionEvent(state.get_lifetime_seconds(), state.get_idle_time_seconds(), gaps))

    def report(self, event: KVCacheEvictionEvent) -> None:
        """Keep the life of an evicted block for `drain_events`. O(1)."""
        self._eviction_events.append(event)

    def reset(self) -> None:
        """Stop following all blocks, and forget what was not drained. O(blocks followed)."""
        self.block_metrics.clear()
        self._eviction_events.clear()

    def drain_events(self) -> list[KVCacheEvictionEvent]:
        """Return and clear the reports since the last call, in order of eviction, with times in seconds. O(1)."""
        events, self._eviction_events = self._eviction_events, []
        return events
