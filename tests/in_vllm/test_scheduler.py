"""`kvgpu.vllm.Scheduler` says what vLLM's schedulers say, and serves from arrays what it can."""

import logging
import time
from dataclasses import replace

import pytest
from in_vllm.oracle import require_vllm

require_vllm("0.23", "0.33")

from in_vllm import engines
from in_vllm.engines import Options, make_request
from in_vllm.workloads import KINDS, serve
from vllm.v1.core.kv_cache_manager import KVCacheManager as ManagerOfVllm
from vllm.v1.core.sched import scheduler as scheduler_module
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.interface import PauseState

from kvgpu.errors import UnknownNameError
from kvgpu.manager import KVCacheManager
from kvgpu.vllm import Scheduler
from kvgpu.vllm import scheduler as module
from kvgpu.vllm.checked_manager import CheckedManager
from kvgpu.vllm.manager import make_manager

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def engine(monkeypatch):
    """kvgpu's manager, and arrays for any number of requests."""
    monkeypatch.delenv("KVGPU_VLLM", raising=False)
    monkeypatch.setattr(scheduler_module, "KVCacheManager", make_manager)
    monkeypatch.setattr(module, "FEW_ROWS", 1)


def make(**options):
    return engines.make_scheduler(Options(**{"scheduler": Scheduler, "most_running": 8, "budget": 512, **options}))


def plain(options, monkeypatch):
    """A scheduler of vLLM's with vLLM's manager."""
    with monkeypatch.context() as patch:
        patch.setattr(scheduler_module, "KVCacheManager", ManagerOfVllm)
        return engines.make_scheduler(options)


def running(scheduler, count=4, max_tokens=50):
    """Run that many requests for two steps."""
    for i in range(count):
        scheduler.add_request(make_request(f"r{i}", list(range(20 + i)), max_tokens=max_tokens))
    for number in range(2):
        step(scheduler, number)
    return scheduler


def step(scheduler, number=0):
    output = scheduler.schedule()
    return output, scheduler.update_from_output(output, engines.output_of(scheduler, output, number))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("threshold", [0, 30])
def test_every_step_is_that_of_vllm(kind, seed, threshold, monkeypatch):
    schedulers = [plain(KINDS[kind], monkeypatch), engines.make_scheduler(replace(KINDS[kind], scheduler=Scheduler))]
    for each in schedulers:
        each.scheduler_config.long_prefill_token_threshold = threshold
    ours = schedulers[1]
    assert serve(ours, seed, steps=120) == serve(schedulers[0], seed, steps=120)
    assert type(ours.kv_cache_manager) is KVCacheManager
    ours.kv_cache_manager.check()
    assert ours.served.array_rows > 0.5 * ours.served.rows > 0


class TestOneName:
    @pytest.mark.parametrize("is_async", [False, True])
    def test_it_is_asynchronous_where_the_configuration_says_so(self, is_async):
        scheduler = make(is_async=is_async)
        assert isinstance(scheduler, Scheduler)
        assert isinstance(scheduler, AsyncScheduler) is is_async

    def test_naming_the_class_brings_the_manager(self, monkeypatch):
        monkeypatch.setattr(scheduler_module, "KVCacheManager", ManagerOfVllm)
        module.register(is_named=True)
        assert type(make().kv_cache_manager) is KVCacheManager

    @pytest.mark.parametrize(("mode", "manager"), [("0", ManagerOfVllm), ("check", CheckedManager)])
    def test_with_another_manager_vllm_serves_everything(self, mode, manager, monkeypatch):
        monkeypatch.setenv("KVGPU_VLLM", mode)
        if mode == "0":
            monkeypatch.setattr(scheduler_module, "KVCacheManager", ManagerOfVllm)
            module.register(is_named=True)
        scheduler = running(make())
        assert type(scheduler.kv_cache_manager) is manager
        assert (scheduler.served.array_rows, scheduler.served.rows) == (0, 4)


class TestWhoServes:
    def test_arrays_serve_decode_steps_and_their_answers(self):
        scheduler = running(make())
        for number in range(5):
            step(scheduler, number)
        served = scheduler.served
        assert (served.rows, served.array_rows) == (24, 24)
        assert served.array_answers == 24

    def test_vllm_serves_few_requests(self, monkeypatch):
        monkeypatch.setattr(module, "FEW_ROWS", 5)
        assert running(make()).served.array_rows == 0

    def test_nobody_is_served_while_all_is_paused(self):
        scheduler = running(make())
        scheduler.set_pause_state(PauseState.PAUSED_ALL)
        assert step(scheduler)[0].num_scheduled_tokens == {}

    def test_a_request_that_ends_is_answered_by_vllm(self):
        scheduler = running(make(), max_tokens=3)
        before = scheduler.served.array_answers
        _, answers = step(scheduler)
        assert [each.finish_reason is not None for each in answers[0].outputs] == [True] * 4
        assert scheduler.served.array_answers == before
        assert scheduler.running == []

    def test_an_answer_to_an_older_step_is_taken_by_vllm(self):
        scheduler = running(make(is_async=True))
        outputs = [scheduler.schedule() for _ in range(module.IN_FLIGHT + 1)]
        before = scheduler.served.array_answers
        scheduler.update_from_output(outputs[0], engines.output_of(scheduler, outputs[0], 0))
        assert scheduler.served.array_answers == before
        scheduler.update_from_output(outputs[1], engines.output_of(scheduler, outputs[1], 1))
        assert scheduler.served.array_answers == before + 4

    def test_counts_of_nans_are_told_in_later_answers_too(self):
        scheduler = running(make())
        output = scheduler.schedule()
        answer = engines.output_of(scheduler, output, 0)
        answer.num_nans_in_logits = {"r1": 3}
        told = [scheduler.update_from_output(output, answer), step(scheduler)[1]]
        assert [[each.num_nans_in_logits for each in answers[0].outputs] for answers in told] == [[0, 3, 0, 0]] * 2

    def test_it_says_at_the_end_who_has_served(self, caplog):
        scheduler = running(make())
        with caplog.at_level(logging.INFO, "kvgpu"):
            scheduler.shutdown()
        assert caplog.messages[-1] == (
            "kvgpu served 1 of 2 steps, 4 of 4 running requests in them, and 4 of 8 answers from arrays"
        )


class TestPolicies:
    hasher = staticmethod(engines.hasher_of_vllm())

    def queue(self, scheduler, **prompts):
        for name, prompt in prompts.items():
            request = make_request(name, prompt, self.hasher)
            request.arrival_time = time.time()
            scheduler.add_request(request)

    def test_an_unknown_policy_lists_the_known(self, monkeypatch):
        monkeypatch.setenv("KVGPU_VLLM_POLICY", "random")
        with pytest.raises(UnknownNameError, match="known: fcfs, hold-back, longest-prefix"):
            make()

    def test_the_longest_cached_prefix_goes_first(self, monkeypatch):
        monkeypatch.setenv("KVGPU_VLLM_POLICY", "longest-prefix")
        scheduler = make(most_running=1)
        known = list(range(64))
        self.queue(scheduler, first=known)
        step(scheduler)
        self.queue(scheduler, nothing=[7] * 20, some=[*known[:40], 1], most=[*known, 2])
        scheduler.schedule()
        assert [request.request_id for request in scheduler.waiting] == ["most", "some", "nothing"]

    def test_requests_that_share_what_is_about_to_be_computed_wait_for_it(self, monkeypatch):
        monkeypatch.setenv("KVGPU_VLLM_POLICY", "hold-back")
        scheduler = make()
        shared = list(range(100))
        self.queue(scheduler, first=[*shared, 1], second=[*shared, 2], other=[9] * 30)
        first, _ = step(scheduler)
        assert list(first.num_scheduled_tokens) == ["first", "other"]
        second, _ = step(scheduler)
        assert second.num_scheduled_tokens["second"] == 101 - 96

    def test_by_default_nothing_is_ordered(self):
        assert make()._order is None

    def test_without_prefix_caching_a_policy_changes_nothing_and_the_log_says_so(self, monkeypatch, caplog):
        monkeypatch.setenv("KVGPU_VLLM_POLICY", "hold-back")
        monkeypatch.setattr(scheduler_module, "KVCacheManager", ManagerOfVllm)
        assert make()._order is None
        assert "KVGPU_VLLM_POLICY=hold-back changes nothing" in caplog.text
