"""Metrics of managers are what the managers count, under the names that dashboards of vLLM know."""

import subprocess
import sys

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from support.managers import admit, full, make_manager, make_request, per_backend

from kvgpu.batch.manager import BatchManager
from kvgpu.config.cache_hints import CacheHints, HintLimits
from kvgpu.errors import ArgumentError, ArgumentTypeError, ConfigError, MissingPackageError
from kvgpu.eviction.state.arrays import HINT_NUMBERS
from kvgpu.eviction.state.hints import NUM_EXPIRED
from kvgpu.metrics import KVCacheEvictionEvent
from kvgpu.monitoring.block_ages import BlockAges
from kvgpu.monitoring.prometheus import FAMILIES, ManagerCollector

LABELS = {"model_name": "m", "engine": "0"}


def counting_manager(**options):
    return make_manager(full(4), **{"num_blocks": 10, "log_stats": True, **options})


def watched(manager, **options):
    """A registry that shows a manager, and what counts its external hits."""
    collector, registry = ManagerCollector(), CollectorRegistry()
    external = collector.add(manager, "m", 0, **options)
    registry.register(collector)
    return registry, external


def serve(manager, name, tokens):
    request = make_request(name, tokens, 4)
    hits = admit(manager, request)
    manager.free(request)
    return hits


def families(registry):
    """What a server of Prometheus reads, by name."""
    text = generate_latest(registry).decode()
    return {family.name: family for family in text_string_to_metric_families(text)}


def values(registry, name, label):
    return {sample.labels[label]: sample.value for sample in families(registry)[name].samples}


def test_usage_is_that_of_the_manager():
    manager = counting_manager()
    registry, _ = watched(manager)
    admit(manager, make_request("a", 12, 4))
    assert registry.get_sample_value("vllm:kv_cache_usage_perc", LABELS) == pytest.approx(3 / 9)


def test_pinned_blocks_are_those_of_the_manager():
    manager = counting_manager(num_blocks=20, max_model_len=40)
    registry, _ = watched(manager)
    request = make_request("a", 12, 4)
    admit(manager, request)
    assert manager.pin(request) == 12
    assert registry.get_sample_value("kvgpu:kv_cache_pinned_blocks", LABELS) == 3
    manager.unpin("a")
    assert registry.get_sample_value("kvgpu:kv_cache_pinned_blocks", LABELS) == 0


@per_backend
def test_tokens_queried_and_hit_are_those_of_all_reports(backend):
    manager = counting_manager(backend=backend)
    registry, _ = watched(manager)
    serve(manager, "a", 13)
    manager.make_prefix_cache_stats()
    serve(manager, "b", 13)
    assert registry.get_sample_value("vllm:prefix_cache_queries_total", LABELS) == 26
    assert registry.get_sample_value("vllm:prefix_cache_hits_total", LABELS) == 12
    manager.make_prefix_cache_stats()
    manager.make_prefix_cache_stats()
    assert registry.get_sample_value("vllm:prefix_cache_queries_total", LABELS) == 26
    assert registry.get_sample_value("vllm:prefix_cache_hits_total", LABELS) == 12


def test_tokens_of_batches_count():
    manager = counting_manager()
    registry, _ = watched(manager)
    serve(manager, "a", 13)
    batch = BatchManager(manager, 4, 100)
    rows = batch.track([make_request("b", 13, 4)])
    batch.allocate_batch(rows, 13)
    assert registry.get_sample_value("vllm:prefix_cache_hits_total", LABELS) == 12
    assert registry.get_sample_value("vllm:prefix_cache_queries_total", LABELS) == 26


def test_requests_that_were_preempted_do_not_count():
    manager = counting_manager()
    registry, _ = watched(manager)
    request = make_request("a", 13, 4)
    request.num_preemptions = 1
    manager.get_computed_blocks(request)
    manager.make_prefix_cache_stats()
    assert registry.get_sample_value("vllm:prefix_cache_queries_total", LABELS) == 0


def test_hits_are_told_by_source():
    manager = counting_manager()
    registry, external = watched(manager, external=True)
    serve(manager, "a", 13)
    serve(manager, "b", 13)
    external.record(40, 16, source="host")
    external.record(20, 8)
    external.record(20, 8, preempted=True)
    external.record(10, 0)
    assert values(registry, "vllm:prompt_tokens_cached_by_source", "source") == {
        "device": 12,
        "host": 16,
        "external_unspecified": 8,
    }
    assert registry.get_sample_value("vllm:external_prefix_cache_queries_total", LABELS) == 70
    assert registry.get_sample_value("vllm:external_prefix_cache_hits_total", LABELS) == 24


@per_backend
@pytest.mark.parametrize("ages", [None, BlockAges(1.0)])
def test_evictions_are_told_by_reason(backend, ages):
    manager = counting_manager(backend=backend, metrics_collector=ages)
    registry, _ = watched(manager)
    serve(manager, "a", [1] * 32)
    serve(manager, "b", [2] * 20)
    manager.evict_blocks([1, 1, 2])
    manager.evict_blocks([1])
    shown = values(registry, "kvgpu:kv_block_evictions", "reason")
    assert shown == {"capacity": 4, "expired": 0, "requested": 2, "reset": 0}
    assert manager.reset_prefix_cache()
    shown = values(registry, "kvgpu:kv_block_evictions", "reason")
    assert shown == {"capacity": 4, "expired": 0, "requested": 2, "reset": 8 + 5 - 4 - 2}
    assert manager.reset_prefix_cache()
    assert values(registry, "kvgpu:kv_block_evictions", "reason")["reset"] == 7


@per_backend
def test_blocks_whose_lifetime_was_over_are_told_apart(backend):
    now = [0.0]
    manager = counting_manager(backend=backend, hints=HintLimits(clock=lambda: now[0]))
    registry, _ = watched(manager)
    short = make_request("a", [1] * 8, 4)
    short.cache_hints = CacheHints(lifetime=5)
    admit(manager, short)
    manager.free(short)
    serve(manager, "b", [2] * 20)
    now[0] = 6.0
    serve(manager, "c", [3] * 20)
    shown = values(registry, "kvgpu:kv_block_evictions", "reason")
    assert shown == {"capacity": 1, "expired": 2, "requested": 0, "reset": 0}


def test_while_blocks_that_expired_are_not_yet_counted_as_evicted_no_count_falls():
    manager = counting_manager(hints=HintLimits())
    registry, _ = watched(manager)
    serve(manager, "a", [1] * 32)
    serve(manager, "b", [2] * 20)
    assert values(registry, "kvgpu:kv_block_evictions", "reason")["capacity"] == 4
    manager.block_pool.eviction.array(HINT_NUMBERS)[NUM_EXPIRED] += 3
    shown = values(registry, "kvgpu:kv_block_evictions", "reason")
    assert (shown["capacity"], shown["expired"]) == (4, 3)


def test_a_reset_that_is_refused_evicts_nothing():
    manager = counting_manager()
    registry, _ = watched(manager)
    admit(manager, make_request("a", 12, 4))
    assert not manager.reset_prefix_cache()
    assert values(registry, "kvgpu:kv_block_evictions", "reason")["reset"] == 0


def test_ages_are_histograms():
    ages = BlockAges(bounds=[0.5, 1])
    registry, _ = watched(counting_manager(metrics_collector=ages))
    ages.report(KVCacheEvictionEvent(0.75, 3.0, (0.25, 0.5)))
    shown = {
        name: [
            registry.get_sample_value(f"vllm:kv_block_{name}_seconds_bucket", LABELS | {"le": bound})
            for bound in ("0.5", "1.0", "+Inf")
        ]
        for name in ("lifetime", "idle_before_evict", "reuse_gap")
    }
    assert shown == {"lifetime": [0, 1, 1], "idle_before_evict": [0, 0, 1], "reuse_gap": [2, 2, 2]}
    assert registry.get_sample_value("vllm:kv_block_lifetime_seconds_sum", LABELS) == 0.75
    assert registry.get_sample_value("vllm:kv_block_reuse_gap_seconds_count", LABELS) == 2


def test_what_a_manager_does_not_count_is_not_shown():
    registry, external = watched(make_manager(full(4)))
    assert external is None
    always = {"vllm:kv_cache_usage_perc", "kvgpu:kv_cache_pinned_blocks", "kvgpu:kv_block_evictions"}
    assert set(families(registry)) == always


def test_all_metrics_are_shown_where_all_is_counted():
    registry, external = watched(counting_manager(metrics_collector=BlockAges()), external=True)
    shown = families(registry)
    assert {name: family.type for name, family in shown.items()} == {family.name: family.kind for family in FAMILIES}
    assert external.read() == (0, {})
    assert registry.get_sample_value("vllm:external_prefix_cache_hits_total", LABELS) == 0


def test_managers_are_told_apart_by_their_labels():
    collector, registry = ManagerCollector(["pool"]), CollectorRegistry()
    managers = [counting_manager(num_blocks=count) for count in (10, 20)]
    for name, manager in zip("ab", managers, strict=True):
        collector.add(manager, name)
        admit(manager, make_request("r", 4, 4))
    registry.register(collector)
    assert values(registry, "vllm:kv_cache_usage_perc", "pool") == {
        "a": pytest.approx(1 / 9),
        "b": pytest.approx(1 / 19),
    }
    collector.remove(managers[0])
    collector.remove(managers[0])
    assert values(registry, "vllm:kv_cache_usage_perc", "pool").keys() == {"b"}
    collector.add(managers[0], "a")
    assert values(registry, "vllm:kv_cache_usage_perc", "pool").keys() == {"a", "b"}


def test_a_registry_refuses_a_second_collector_of_the_same_metrics():
    registry, _ = watched(counting_manager())
    with pytest.raises(ValueError, match="vllm:kv_cache_usage_perc"):
        registry.register(ManagerCollector())


@pytest.mark.parametrize(
    ("labels", "message"), [([], "need as many values"), (["m", 0, 1], "need as many"), (["m", "0"], "another manager")]
)
def test_labels_name_one_manager(labels, message):
    collector = ManagerCollector()
    collector.add(counting_manager(), "m", 0)
    with pytest.raises(ArgumentError, match=message):
        collector.add(counting_manager(), *labels)


def test_only_managers_are_shown():
    with pytest.raises(ArgumentTypeError, match="a manager is expected"):
        ManagerCollector().add(counting_manager().block_pool, "m", 0)


def test_external_is_true_or_false():
    with pytest.raises(ConfigError, match="external must be true or false"):
        ManagerCollector([]).add(counting_manager(), external=__import__("numpy").zeros(2))


@pytest.mark.parametrize(
    ("numbers", "source", "error"),
    [
        ((4, 5), "host", ArgumentError),
        ((-1, 0), "host", ArgumentError),
        ((4, "many"), "host", ArgumentTypeError),
        ((4, 4), "device", ArgumentError),
        ((4, 4), "tape", ArgumentError),
    ],
)
def test_odd_external_hits_are_refused_and_not_counted(numbers, source, error):
    _, external = watched(counting_manager(), external=True)
    with pytest.raises(error):
        external.record(*numbers, source=source)
    assert external.read() == (0, {})


def test_without_the_package_a_collector_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'kvgpu\[prometheus\]'"):
        ManagerCollector()


def test_the_package_is_imported_by_a_collector_only():
    code = (
        "import sys, kvgpu.manager, kvgpu.monitoring.block_ages, kvgpu.monitoring.prometheus as ours\n"
        "assert 'prometheus_client' not in sys.modules\n"
        "ours.ManagerCollector()\n"
        "assert 'prometheus_client' in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
