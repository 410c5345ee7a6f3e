"""Statistics of lookups, the hit rate of recent requests, and how long blocks live."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
from support.managers import admit, full, make_manager, make_request, no_sampling, per_backend

from kvgpu import metrics
from kvgpu.batch.manager import BatchManager
from kvgpu.blocks.state import KVCacheBlock
from kvgpu.errors import ArgumentError, SampleRateError
from kvgpu.metrics import (
    BlockMetricsState,
    CachingMetrics,
    KVCacheEvictionEvent,
    KVCacheMetricsCollector,
    PrefixCacheStats,
)


@pytest.fixture
def clock(monkeypatch):
    """A clock that moves only when told to, in seconds."""
    now = SimpleNamespace(seconds=100.0)
    fake = SimpleNamespace(monotonic_ns=lambda: round(now.seconds * 1e9))
    monkeypatch.setattr(metrics, "time", fake)
    return now


# Lookups


@per_backend
def test_every_lookup_is_counted(backend):
    manager = make_manager(full(4), log_stats=True, backend=backend)
    admit(manager, make_request("a", 8, 4))
    waiting = make_request("b", 9, 4)
    manager.get_computed_blocks(waiting)
    manager.get_computed_blocks(waiting)
    expected = PrefixCacheStats(requests=3, queries=8 + 9 + 9, hits=16)
    assert manager.make_prefix_cache_stats() == expected


def test_statistics_are_taken_once():
    manager = make_manager(full(4), log_stats=True)
    manager.get_computed_blocks(make_request("a", 8, 4))
    assert manager.make_prefix_cache_stats().requests == 1
    assert manager.make_prefix_cache_stats() == PrefixCacheStats()


def test_preempted_requests_are_counted_apart():
    manager = make_manager(full(4), log_stats=True)
    request = make_request("a", 10, 4)
    admit(manager, request)
    manager.free(request)
    request.num_computed_tokens, request.num_preemptions = 0, 1
    manager.get_computed_blocks(request)
    expected = PrefixCacheStats(requests=1, queries=10, preempted_requests=1, preempted_queries=10, preempted_hits=8)
    assert manager.make_prefix_cache_stats() == expected


def test_requests_that_read_nothing_are_not_counted():
    manager = make_manager(full(4), log_stats=True)
    logprobs = no_sampling(prompt_logprobs=1)
    manager.get_computed_blocks(make_request("a", 8, 4, sampling_params=logprobs))
    assert manager.make_prefix_cache_stats() == PrefixCacheStats()


def test_a_reset_is_part_of_the_statistics():
    manager = make_manager(full(4), log_stats=True)
    manager.get_computed_blocks(make_request("a", 8, 4))
    manager.reset_prefix_cache()
    assert manager.make_prefix_cache_stats() == PrefixCacheStats(True, 1, 8, 0)


def test_a_reset_that_is_refused_is_no_part_of_the_statistics():
    manager = make_manager(full(4), log_stats=True)
    admit(manager, make_request("a", 8, 4))
    manager.reset_prefix_cache()
    assert manager.make_prefix_cache_stats().reset is False


@pytest.mark.parametrize("batched", [False, True])
def test_a_request_that_waits_is_counted_when_it_is_admitted(batched):
    manager = make_manager(full(4), num_blocks=6, log_stats=True, counts_admissions=True)
    holder, waiting = (make_request("holder", 16, 4), make_request("waiting", [*range(8), *range(50, 62)], 4))
    admit(manager, holder)
    manager.make_prefix_cache_stats()
    batch = BatchManager(manager, 2, 20)
    rows = batch.track([waiting]) if batched else None
    for _ in range(3):
        got = batch.allocate_batch(rows, 20).fits.any() if batched else admit(manager, waiting)
        assert not got
    manager.free(holder)
    assert batch.allocate_batch(rows, 20).fits.all() if batched else admit(manager, waiting)
    stats = manager.make_prefix_cache_stats()
    assert (stats.requests, stats.queries, stats.hits) == (1, 20, 8)


def test_there_are_no_statistics_unless_asked_for():
    manager = make_manager(full(4))
    manager.get_computed_blocks(make_request("a", 8, 4))
    assert manager.make_prefix_cache_stats() is None


# Hit rate


def report(requests, queries, hits, **others):
    return PrefixCacheStats(requests=requests, queries=queries, hits=hits, **others)


def test_the_hit_rate_is_tokens_hit_per_token_asked_for():
    rate = CachingMetrics()
    assert (rate.empty, rate.hit_rate) == (True, 0.0)
    rate.observe(report(1, 20, 9))
    rate.observe(report(4, 80, 16))
    assert (rate.empty, rate.hit_rate) == (False, 0.25)


def test_the_oldest_reports_leave_the_window():
    rate = CachingMetrics(max_recent_requests=5)
    rate.observe(report(2, 20, 20))
    rate.observe(report(3, 30, 0))
    assert rate.hit_rate == 0.4
    rate.observe(report(1, 10, 5))
    assert rate.hit_rate == 0.125


def test_the_window_holds_a_thousand_requests_unless_told():
    rate = CachingMetrics()
    rate.observe(report(1000, 10, 10))
    assert rate.hit_rate == 1.0
    rate.observe(report(1, 10, 0))
    assert rate.hit_rate == 0.0


def test_the_newest_report_stays_even_if_it_is_too_large():
    rate = CachingMetrics(max_recent_requests=5)
    rate.observe(report(1, 10, 0))
    rate.observe(report(100, 10, 10))
    assert rate.hit_rate == 1.0


def test_a_report_of_a_reset_empties_the_window_first():
    rate = CachingMetrics()
    rate.observe(report(1, 10, 10))
    rate.observe(report(1, 10, 0, reset=True))
    assert rate.hit_rate == 0.0
    rate.observe(PrefixCacheStats(reset=True))
    assert rate.empty


def test_reports_without_requests_do_not_count():
    rate = CachingMetrics()
    rate.observe(report(0, 10, 10, preempted_requests=1))
    assert rate.empty


# Residency


@pytest.mark.parametrize("odd", [None, 3, report(1, -1, 0), report(1, 0.5, 0), report("1", 1, 1)])
def test_something_else_than_a_report_is_refused_and_leaves_the_window(odd):
    metrics = CachingMetrics()
    metrics.observe(report(1, 10, 5))
    with pytest.raises(ArgumentError):
        metrics.observe(odd)
    assert (metrics.hit_rate, metrics.aggregated_requests) == (0.5, 1)


@pytest.mark.parametrize("odd", [{"num_tokens": None}, {"num_hits": -1}, {"preempted": np.zeros(2)}])
def test_a_lookup_without_numbers_is_not_counted(odd):
    stats = PrefixCacheStats()
    with pytest.raises(ArgumentError):
        stats.record(**{"num_tokens": 3, "num_hits": 1, "preempted": False} | odd)
    assert stats == PrefixCacheStats()


@pytest.mark.parametrize("rate", ["x", None, [0.5]])
def test_a_sample_rate_is_a_number(rate):
    with pytest.raises(SampleRateError, match="sample_rate must be a number"):
        KVCacheMetricsCollector(rate)


@pytest.mark.parametrize("rate", [0, -0.5, 1.01, float("nan")])
def test_a_sample_rate_outside_of_zero_to_one_is_refused(rate):
    with pytest.raises(SampleRateError, match=f"above 0 and at most 1, got {rate}"):
        KVCacheMetricsCollector(rate)


def test_one_block_of_a_hundred_is_followed_unless_told(monkeypatch):
    collector = KVCacheMetricsCollector()
    for dice, sampled in ((0.0099, True), (0.01, False)):
        monkeypatch.setattr(metrics.random, "random", lambda dice=dice: dice)
        assert collector.should_sample_block() is sampled


def test_a_followed_block_is_reported_when_it_is_evicted(clock):
    collector = KVCacheMetricsCollector(1.0)
    block = KVCacheBlock(3)
    collector.on_block_allocated(block)
    for seconds in (101.0, 103.0):
        clock.seconds = seconds
        collector.on_block_accessed(block)
    clock.seconds = 108.0
    collector.on_block_evicted(block)
    assert collector.drain_events() == [KVCacheEvictionEvent(8.0, 5.0, (2.0,))]
    assert collector.drain_events() == []


def test_a_block_that_nobody_used_was_idle_all_its_life(clock):
    state = BlockMetricsState()
    clock.seconds = 107.0
    assert (state.get_lifetime_seconds(), state.get_idle_time_seconds()) == (7.0, 7.0)
    assert state.get_reuse_gaps_seconds() == []


def test_gaps_are_those_of_the_last_four_accesses(clock):
    state = BlockMetricsState()
    for seconds in (101.0, 102.0, 104.0, 108.0, 116.0):
        clock.seconds = seconds
        state.record_access()
    assert state.get_reuse_gaps_seconds() == [2.0, 4.0, 8.0]


def test_blocks_that_are_not_followed_are_not_reported():
    collector = KVCacheMetricsCollector(1.0)
    collector.on_block_accessed(KVCacheBlock(1))
    collector.on_block_evicted(KVCacheBlock(1))
    assert (collector.block_metrics, collector.drain_events()) == ({}, [])


@per_backend
def test_a_manager_follows_blocks_from_allocation_over_hits_to_eviction(backend, clock):
    collector = KVCacheMetricsCollector(1.0)
    manager = make_manager(full(4), num_blocks=4, metrics_collector=collector, backend=backend)
    first = make_request("a", 8, 4)
    admit(manager, first)
    assert set(collector.block_metrics) == {1, 2}
    clock.seconds = 110.0
    second = make_request("b", 9, 4)
    admit(manager, second)
    for request in (first, second):
        manager.free(request)
    clock.seconds = 130.0
    admit(manager, make_request("c", [9] * 12, 4))
    reports = collector.drain_events()
    assert sorted(report.idle_seconds for report in reports) == [20.0, 20.0, 20.0]
    assert sorted(report.lifetime_seconds for report in reports) == [20.0, 30.0, 30.0]


@per_backend
def test_evicting_a_block_by_id_reports_it(backend):
    collector = KVCacheMetricsCollector(1.0)
    manager = make_manager(full(4), metrics_collector=collector, backend=backend)
    admit(manager, make_request("a", 8, 4))
    manager.evict_blocks([1])
    assert (set(collector.block_metrics), len(collector.drain_events())) == ({2}, 1)


def test_a_reset_forgets_all_followed_blocks_without_a_report():
    collector = KVCacheMetricsCollector(1.0)
    manager = make_manager(full(4), metrics_collector=collector)
    request = make_request("a", 8, 4)
    admit(manager, request)
    manager.free(request)
    manager.reset_prefix_cache()
    assert (collector.block_metrics, collector.drain_events()) == ({}, [])


@per_backend
def test_being_followed_changes_nothing(backend):
    def order(**options):
        random.seed(5)
        manager = make_manager(full(4), num_blocks=7, backend=backend, **options)
        for name, tokens in (("a", 12), ("b", [3] * 12), ("c", 12), ("d", [4] * 16)):
            request = make_request(name, tokens, 4)
            admit(manager, request)
            manager.free(request)
        return [block.block_hash for block in manager.block_pool.blocks]

    assert order(metrics_collector=KVCacheMetricsCollector(0.5)) == order()
