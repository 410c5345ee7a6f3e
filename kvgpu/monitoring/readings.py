"""`ManagerReadings`: the numbers of one manager, read by any thread while another is inside the manager.

A manager refuses a second thread, so nothing here calls a method that takes a turn: it reads single words, each of
which only grows, in an order in which no sum is ever too large. What is still too small, since a report is just being
handed over, is replaced by what was read before.
"""

from collections import Counter
from threading import Lock
from typing import NamedTuple

from kvgpu.errors import ArgumentError
from kvgpu.integers import as_integers, as_switch, shown
from kvgpu.manager import KVCacheManager
from kvgpu.metrics import MOST_COUNTED
from kvgpu.monitoring.block_ages import BlockAges

DEVICE = "device"
UNKNOWN_SOURCE = "external_unspecified"
SOURCES = (DEVICE, "host", "p2p", "disk", UNKNOWN_SOURCE)
"""Where cached tokens came from, in vLLM 0.33's words: `device` is the prefix cache of the manager itself."""
CAPACITY, EXPIRED = "capacity", "expired"


class TokenCounts(NamedTuple):
    """Tokens that were looked up, and those of them that were found."""

    queries: int
    hits: int


class ExternalHits:
    """Counts what a connector found of what the prefix cache had not. One thread counts, any thread may read.

    vLLM's scheduler counts these too, beside its manager, which never hears of a connector that found nothing.
    """

    def __init__(self) -> None:
        self._queries = 0
        self._hits: Counter[str] = Counter()

    def record(self, num_tokens: int, num_hits: int, preempted: bool = False, source: str = UNKNOWN_SOURCE) -> None:
        """Count a request that a connector was searched for.

        Args:
            num_tokens: Tokens of the request that the prefix cache had not.
            num_hits: Those of them that the connector brings.
            preempted: Whether the request was preempted before; then it does not count, as in vLLM.
            source: Where they come from, one of `SOURCES` but the first.

        Raises:
            ArgumentError: A number is below 0, more was found than was looked for, or the source is unknown.
            ArgumentTypeError: A number is not an integer. Nothing is counted in either case.

        O(1).
        """
        num_tokens, num_hits = as_integers(("num_tokens", "num_hits"), (num_tokens, num_hits), high=MOST_COUNTED)
        if num_hits > num_tokens:
            raise ArgumentError(f"{num_hits} tokens cannot be found where {num_tokens} are looked for")
        if source not in SOURCES[1:]:
            raise ArgumentError(f"source must be one of {', '.join(SOURCES[1:])}, got {shown(source)}")
        if not as_switch("preempted", preempted):
            self._queries += num_tokens
            self._hits[source] += num_hits

    def read(self) -> tuple[int, dict[str, int]]:
        """Return tokens looked up so far, and those found, by source. O(sources)."""
        hits = dict(self._hits)
        return self._queries, hits


class Numbers(NamedTuple):
    """What a manager showed at one moment."""

    usage: float
    """Fraction of the blocks in use, 0.0 to 1.0."""
    pinned: int
    """Blocks that are pinned, which are in use."""
    prefix_cache: TokenCounts | None
    """Of requests that were not preempted before; None without `log_stats`."""
    external: tuple[int, dict[str, int]] | None
    """What `ExternalHits.read` returned; None without a connector."""
    evictions: dict[str, int]
    """Cached blocks that were evicted, by reason."""
    ages: BlockAges | None
    """Of evicted blocks; None if the manager's metrics collector does not count them."""


class ManagerReadings:
    """Reads the numbers of one manager.

    Args:
        manager: The manager.
        external: What its engine's connector counts; None without one.
    """

    def __init__(self, manager: KVCacheManager, external: ExternalHits | None) -> None:
        self.manager, self.external = manager, external
        self._lock = Lock()
        self._last = TokenCounts(0, 0)
        self._last_capacity = 0

    def read(self) -> Numbers:
        """Return the numbers of this moment; counts are never below those that were returned before.

        O(pinned blocks).
        """
        manager = self.manager
        allocator, collector = manager.block_pool.allocator, manager.metrics_collector
        return Numbers(
            manager.usage,
            manager.num_pinned_blocks,
            self._prefix_cache(),
            None if self.external is None else self.external.read(),
            {**self._taken(), **allocator.num_forgotten},
            collector if isinstance(collector, BlockAges) else None,
        )

    def _taken(self) -> dict[str, int]:
        pool = self.manager.block_pool
        with self._lock:
            # A block expires before it is counted as evicted: in between there seem to be fewer of the others.
            num_evictions = pool.allocator.num_evictions
            num_expired = 0 if pool.eviction is None else pool.eviction.num_expired
            self._last_capacity = max(self._last_capacity, num_evictions - num_expired)
            return {CAPACITY: self._last_capacity, EXPIRED: num_expired}

    def _prefix_cache(self) -> TokenCounts | None:
        # In this order: a report that is handed over in between is missing, and not counted twice.
        queries_before, hits_before = self.manager.reported_tokens
        current = self.manager.prefix_cache_stats
        if current is None:
            return None
        hits = hits_before + current.hits
        queries = queries_before + current.queries
        with self._lock:
            self._last = TokenCounts(max(self._last.queries, queries), max(self._last.hits, hits))
            return self._last
