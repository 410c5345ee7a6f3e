"""`ManagerCollector`: metrics of managers for Prometheus, under vLLM's names where vLLM has them.

Needs prometheus-client (extra `prometheus`).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from kvgpu.errors import ArgumentError, ArgumentTypeError, MissingPackageError
from kvgpu.integers import as_option, shown
from kvgpu.manager import KVCacheManager
from kvgpu.monitoring.block_ages import Histogram
from kvgpu.monitoring.readings import DEVICE, ExternalHits, ManagerReadings, Numbers

if TYPE_CHECKING:
    from prometheus_client.core import Metric

LABELS = ("model_name", "engine")
"""vLLM's."""

Samples = Mapping[str, float]
"""Values by the value of a family's own label, which is empty for families without one."""


class _Family(NamedTuple):
    name: str
    kind: str
    help: str
    read: Callable[[Numbers], "Samples | Histogram | None"]
    """Returns None where a manager counts no such thing."""
    label: str = ""


def _hits_by_source(numbers: Numbers) -> Samples | None:
    found: dict[str, float] = {} if numbers.prefix_cache is None else {DEVICE: numbers.prefix_cache.hits}
    if numbers.external is not None:
        found.update(numbers.external[1])
    return found or None


FAMILIES = (
    _Family(
        "vllm:kv_cache_usage_perc",
        "gauge",
        "Share of the KV-cache blocks in use, 0 to 1.",
        lambda numbers: {"": numbers.usage},
    ),
    _Family(
        "kvgpu:kv_cache_pinned_blocks",
        "gauge",
        "KV-cache blocks that are pinned.",
        lambda numbers: {"": numbers.pinned},
    ),
    _Family(
        "vllm:prefix_cache_queries",
        "counter",
        "Tokens looked up in the prefix cache.",
        lambda numbers: numbers.prefix_cache and {"": numbers.prefix_cache.queries},
    ),
    _Family(
        "vllm:prefix_cache_hits",
        "counter",
        "Tokens found in the prefix cache.",
        lambda numbers: numbers.prefix_cache and {"": numbers.prefix_cache.hits},
    ),
    _Family(
        "vllm:external_prefix_cache_queries",
        "counter",
        "Tokens looked for by a connector.",
        lambda numbers: numbers.external and {"": numbers.external[0]},
    ),
    _Family(
        "vllm:external_prefix_cache_hits",
        "counter",
        "Tokens that a connector found.",
        lambda numbers: numbers.external and {"": sum(numbers.external[1].values())},
    ),
    _Family(
        "vllm:prompt_tokens_cached_by_source", "counter", "Tokens found, by where they were.", _hits_by_source, "source"
    ),
    _Family(
        "kvgpu:kv_block_evictions",
        "counter",
        "Cached blocks evicted, by reason.",
        lambda numbers: numbers.evictions,
        "reason",
    ),
    _Family(
        "vllm:kv_block_lifetime_seconds",
        "histogram",
        "Age of sampled blocks at eviction, since allocation.",
        lambda numbers: None if numbers.ages is None else numbers.ages.lifetime,
    ),
    _Family(
        "vllm:kv_block_idle_before_evict_seconds",
        "histogram",
        "Time from the last use of sampled blocks to eviction.",
        lambda numbers: None if numbers.ages is None else numbers.ages.idle,
    ),
    _Family(
        "vllm:kv_block_reuse_gap_seconds",
        "histogram",
        "Time between uses of sampled blocks, told at eviction.",
        lambda numbers: None if numbers.ages is None else numbers.ages.reuse_gaps,
    ),
)
"""A metric that is added here needs nothing else. A manager that does not count it shows none."""


class ManagerCollector:
    """Collector for a registry of prometheus_client. It reads its managers when it is scraped, and never enters them.

    So any thread may scrape while the engine's thread is inside a manager. Managers count as they always do.

    Args:
        label_names: Names of the labels that tell the managers apart.

    Raises:
        MissingPackageError: prometheus-client is not installed.
    """

    def __init__(self, label_names: Sequence[str] = LABELS) -> None:
        try:
            from prometheus_client import core, utils
        except ImportError:
            raise MissingPackageError("prometheus-client is missing: pip install 'kvgpu[prometheus]'") from None
        self.label_names = tuple(label_names)
        self._kinds: dict[str, Any] = {
            "gauge": core.GaugeMetricFamily,
            "counter": core.CounterMetricFamily,
            "histogram": core.HistogramMetricFamily,
        }
        self._as_text: Callable[[float], str] = utils.floatToGoString
        self._watched: dict[tuple[str, ...], ManagerReadings] = {}

    def add(self, manager: KVCacheManager, *labels: object, external: bool = False) -> ExternalHits | None:
        """Show the numbers of a manager from now on, until `remove`.

        Args:
            manager: It shows hits if it was made with `log_stats`, and ages if its metrics collector is a `BlockAges`.
            labels: A value for each label, which are made strings.
            external: Whether the engine has a connector, whose hits it records in what this returns.

        Raises:
            ArgumentError: There are more or fewer values than labels, or another manager has the same.
            ArgumentTypeError: This is no manager.
            ConfigError: `external` is neither true nor false.

        O(1).
        """
        if not isinstance(manager, KVCacheManager):
            raise ArgumentTypeError(f"a manager is expected, got {shown(manager)}")
        values = tuple(map(str, labels))
        if len(values) != len(self.label_names):
            raise ArgumentError(f"the labels {self.label_names} need as many values, got {values}")
        if values in self._watched:
            raise ArgumentError(f"another manager has the labels {values}")
        counted = ExternalHits() if as_option("external", external) else None
        self._watched[values] = ManagerReadings(manager, counted)
        return counted

    def remove(self, manager: KVCacheManager) -> None:
        """Show a manager no longer; does nothing if it was not shown. O(managers)."""
        self._watched = {labels: each for labels, each in self._watched.items() if each.manager is not manager}

    def describe(self) -> "Iterator[Metric]":
        """Return all metrics that there may be, without values: a registry learns their names."""
        return (self._metric(family) for family in FAMILIES)

    def collect(self) -> "Iterator[Metric]":
        """Return the metrics with the values of this moment. O(managers)."""
        watched = [(labels, readings.read()) for labels, readings in list(self._watched.items())]
        for family in FAMILIES:
            metric = self._metric(family)
            for labels, numbers in watched:
                found = family.read(numbers)
                if isinstance(found, Histogram):
                    self._add_histogram(metric, labels, found)
                elif found is not None:
                    for value, number in found.items():
                        metric.add_metric([*labels, value] if family.label else labels, number)
            if metric.samples:
                yield metric

    def _metric(self, family: _Family) -> Any:
        names = [*self.label_names, family.label] if family.label else self.label_names
        return self._kinds[family.kind](family.name, family.help, labels=names)

    def _add_histogram(self, metric: Any, labels: Sequence[str], histogram: Histogram) -> None:
        counts, total = histogram.read()
        bounds = map(self._as_text, (*histogram.bounds, float("inf")))
        metric.add_metric(labels, list(zip(bounds, counts, strict=True)), total)
