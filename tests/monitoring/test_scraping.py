"""A thread that scrapes disturbs nobody, and never sees a count fall."""

import sys
from threading import Event, Thread

import pytest
from prometheus_client import CollectorRegistry
from support.managers import admit, full, make_manager, make_request

from kvgpu.allocation.lookups import PrefixLookups
from kvgpu.batch.manager import BatchManager
from kvgpu.interface.manager_views import ManagerViews
from kvgpu.metrics import KVCacheMetricsCollector
from kvgpu.monitoring.block_ages import BlockAges
from kvgpu.monitoring.prometheus import ManagerCollector
from kvgpu.monitoring.readings import ManagerReadings

NUM_SCRAPES, NUM_STEPS = 200, 300


@pytest.fixture
def many_switches():
    """Threads take turns far more often than they do in a process of a user."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


class Scraper(Thread):
    """Scrapes again and again, and notes counts that fell and hits that nobody looked for."""

    def __init__(self, collector):
        super().__init__()
        self.registry = CollectorRegistry()
        self.registry.register(collector)
        self.done, self.scrapes, self.faults = Event(), 0, []

    def run(self):
        before = {}
        try:
            while not self.done.is_set():
                now = self.scrape()
                self.faults += [(key, before[key], now[key]) for key in before if now[key] < before[key]]
                hits, queries = (now[f"vllm:prefix_cache_{name}_total", ""] for name in ("hits", "queries"))
                if hits > queries:
                    self.faults.append((hits, queries))
                before, self.scrapes = now, self.scrapes + 1
        except Exception as error:
            self.faults.append(error)

    def scrape(self):
        """All counts; usage is none."""
        return {
            (
                sample.name,
                sample.labels.get("reason") or sample.labels.get("source") or sample.labels.get("le") or "",
            ): (sample.value)
            for family in self.registry.collect()
            for sample in family.samples
            if family.type != "gauge"
        }


@pytest.mark.usefixtures("many_switches")
@pytest.mark.parametrize("served", ["in calls", "in batches"])
@pytest.mark.parametrize("ages", [False, True])
def test_scrapes_beside_an_engine_never_see_a_count_fall(served, ages):
    collector = ManagerCollector()
    metrics = BlockAges(0.5) if ages else None
    manager = make_manager(full(4), num_blocks=20, max_model_len=36, log_stats=True, metrics_collector=metrics)
    external = collector.add(manager, "m", 0, external=True)
    batch = BatchManager(manager, 4, 100)
    scrapers = [Scraper(collector) for _ in range(2)]
    for scraper in scrapers:
        scraper.start()
    queries = hits = step = 0
    while step < NUM_STEPS or min(scraper.scrapes for scraper in scrapers) < NUM_SCRAPES:
        if any(scraper.faults for scraper in scrapers):
            break
        step += 1
        request = make_request(f"r{step}", [step % 5 // 2] * 33, 4)
        if served == "in calls":
            admit(manager, request)
            manager.free(request)
        else:
            rows = batch.track([request])
            batch.allocate_batch(rows, 33)
            batch.free_batch(rows)
            batch.untrack(rows)
        external.record(3, step % 3, source=("host", "disk")[step % 2])
        if step % 4 == 0:
            manager.pin(request)
        manager.unpin(f"r{step - 2}")
        if step % 7 == 0:
            manager.evict_blocks([1, 2])
        if step % 50 == 0:
            assert manager.reset_prefix_cache()
        stats = manager.make_prefix_cache_stats()
        queries, hits = queries + stats.queries, hits + stats.hits
    for scraper in scrapers:
        scraper.done.set()
        scraper.join()
    assert [scraper.faults for scraper in scrapers] == [[], []]
    last = scrapers[0].scrape()
    assert last["vllm:prefix_cache_queries_total", ""] == queries == 33 * step
    assert last["vllm:prefix_cache_hits_total", ""] == hits > 0
    assert last["vllm:external_prefix_cache_queries_total", ""] == 3 * step
    evictions = last["kvgpu:kv_block_evictions_total", "capacity"]
    assert evictions == manager.block_pool.allocator.num_evictions > 0
    assert not ages or last["vllm:kv_block_lifetime_seconds_count", ""] > 0


class Interrupted:
    """Runs something else in the middle of a function: before one step of the interpreter, or before each."""

    def __init__(self, function, other, place=None):
        self.code, self.other, self.place, self.steps = function.__code__, other, place, 0

    def _trace(self, frame, event, _):
        frame.f_trace_opcodes = frame.f_code is self.code
        if event == "opcode":
            if self.place in (None, self.steps):
                sys.settrace(None)
                self.other()
                sys.settrace(self._trace)
            self.steps += 1
        return self._trace

    def call(self, call):
        before = sys.gettrace()
        sys.settrace(self._trace)
        try:
            return call()
        finally:
            sys.settrace(before)


class TestHandOver:
    """A report is taken from a manager while its counts are read: no token is counted twice, and none is lost."""

    @pytest.fixture
    def manager(self):
        manager = make_manager(full(4), log_stats=True)
        for name in "abc":
            admit(manager, make_request(name, 33, 4))
            if name == "a":
                manager.make_prefix_cache_stats()
        return manager

    @pytest.mark.parametrize("function", [ManagerViews.make_prefix_cache_stats.__wrapped__, PrefixLookups.take_stats])
    def test_counts_stay_the_same_at_every_step_of_the_hand_over(self, manager, function):
        readings = ManagerReadings(manager, None)
        expected = readings.read().prefix_cache
        assert expected == (99, 64)
        found = []
        handing_over = Interrupted(function, lambda: found.append(readings.read().prefix_cache))
        assert handing_over.call(manager.make_prefix_cache_stats).queries == 66
        assert len(found) > 10
        assert set(found) == {expected}

    def test_counts_stay_the_same_if_the_hand_over_is_at_any_step_of_reading_them(self, manager):
        readings, taken, steps = ManagerReadings(manager, None), [], 1
        while len(taken) < steps:
            admit(manager, make_request(f"r{len(taken)}", 33, 4))
            expected = readings.read().prefix_cache
            reading = Interrupted(
                ManagerReadings._prefix_cache, lambda: taken.append(manager.make_prefix_cache_stats()), len(taken)
            )
            assert reading.call(readings.read).prefix_cache == expected
            assert readings.read().prefix_cache == expected
            steps = reading.steps
        assert expected == (99 + 33 * steps, 64 + 32 * steps)
        assert steps > 20


class Inside(KVCacheMetricsCollector):
    """Does something in the middle of an allocation."""

    def on_block_allocated(self, block):
        self.inside()


def test_a_scrape_is_answered_while_a_call_is_in_the_middle():
    collector, stays = ManagerCollector([]), Inside()
    manager = make_manager(full(4), num_blocks=10, log_stats=True, metrics_collector=stays)
    collector.add(manager)
    scraper = Scraper(collector)
    found = []

    def scrape_in_a_thread():
        thread = Thread(target=lambda: found.append(scraper.scrape()))
        thread.start()
        thread.join(30)

    stays.inside = scrape_in_a_thread
    admit(manager, make_request("a", 9, 4))
    assert [counts["vllm:prefix_cache_queries_total", ""] for counts in found] == [9, 9, 9]
    manager.check()
