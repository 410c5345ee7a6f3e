"""What vLLM 0.33's schedulers do besides: the scheduler class says the same, and leaves the rest to vLLM."""

from types import SimpleNamespace

import pytest
from in_vllm.oracle import require_vllm

require_vllm("0.33")

from in_vllm import engines
from in_vllm.engines import Options, full, make_request, window
from in_vllm.workloads import serve
from vllm.outputs import RequestError
from vllm.v1.core.kv_cache_manager import KVCacheManager as ManagerOfVllm
from vllm.v1.core.sched import scheduler as scheduler_module

from kvgpu.vllm import Scheduler
from kvgpu.vllm import scheduler as module
from kvgpu.vllm.manager import make_manager

pytestmark = pytest.mark.filterwarnings("ignore")


def of_scheduler(**fields):
    """Changes fields of the scheduler's configuration."""

    def prepare(config):
        for name, value in fields.items():
            setattr(config.scheduler_config, name, value)

    return prepare


SETTINGS = {
    "a watermark": of_scheduler(watermark=0.1),
    "fewer active requests": of_scheduler(max_num_active_seqs=5),
    "steps between prompts": of_scheduler(prefill_schedule_interval=4),
    "short chunks": of_scheduler(long_prefill_token_threshold=30),
    "chunks that adapt": of_scheduler(long_prefill_token_threshold=20, long_prefill_token_threshold_adaptive=True),
}


@pytest.fixture(autouse=True)
def engine(monkeypatch):
    """kvgpu's manager, and arrays for any number of requests."""
    monkeypatch.delenv("KVGPU_VLLM", raising=False)
    monkeypatch.setattr(scheduler_module, "KVCacheManager", make_manager)
    monkeypatch.setattr(module, "FEW_ROWS", 1)


def pair(monkeypatch, **options):
    """A scheduler of vLLM's with vLLM's manager, and one of the class."""
    with monkeypatch.context() as patch:
        patch.setattr(scheduler_module, "KVCacheManager", ManagerOfVllm)
        theirs = engines.make_scheduler(Options(**options))
    return theirs, engines.make_scheduler(Options(scheduler=Scheduler, **options))


def same(theirs, ours, seed=3):
    """Serve a workload with both, and compare all that they say."""
    assert serve(ours, seed, steps=100) == serve(theirs, seed, steps=100)
    ours.kv_cache_manager.check()
    return ours.served


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("setting", SETTINGS)
def test_every_step_is_that_of_vllm(setting, is_async, monkeypatch):
    theirs, ours = pair(
        monkeypatch, prepare=SETTINGS[setting], is_async=is_async, specs=(full(), window()), num_blocks=80
    )
    assert same(theirs, ours).array_rows > 0
    for counter in ("num_executed_steps", "last_prefill_step", "prefill_capacity_bound", "max_num_active_reqs"):
        assert getattr(ours, counter) == getattr(theirs, counter)


def test_so_it_is_with_the_second_model_runner(monkeypatch):
    theirs, ours = pair(monkeypatch, is_async=True)
    for each in (theirs, ours):
        each.use_v2_model_runner = True
    assert same(theirs, ours).array_rows > 0
    assert ours.prev_step_scheduled_req_ids == theirs.prev_step_scheduled_req_ids == set()


def test_so_it_is_where_freed_blocks_wait_for_a_step(monkeypatch):
    theirs, ours = pair(monkeypatch, is_async=True)
    for each in (theirs, ours):
        each.defer_block_free = True
    assert same(theirs, ours).array_rows > 0
    assert (ours.sched_step_seq, ours.processed_step_seq) == (theirs.sched_step_seq, theirs.processed_step_seq)


@pytest.mark.parametrize("throttles", [False, True])
def test_prompts_that_should_wait_do_so_while_others_generate(throttles, monkeypatch):
    told = []
    for scheduler in pair(monkeypatch):
        for name in "ab":
            scheduler.add_request(make_request(name, list(range(20))))
        output = scheduler.schedule()
        scheduler.update_from_output(output, engines.output_of(scheduler, output, 0))
        scheduler.add_request(make_request("late", list(range(40))))
        told.append(list(scheduler.schedule(throttles).num_scheduled_tokens))
    assert told == [["a", "b"] if throttles else ["a", "b", "late"]] * 2


def test_a_refused_request_is_told_in_a_step_that_arrays_serve(monkeypatch):
    told = []
    for scheduler in pair(monkeypatch):
        for name in ("a", "b", "refused"):
            scheduler.add_request(make_request(name, list(range(20)), client_index=int(name == "refused")))
        for number in range(3):
            output = scheduler.schedule()
            if number == 2:
                scheduler.grammar_compile_error_reqs = {"refused": RequestError("validation_error", "no grammar")}
            answers = scheduler.update_from_output(output, engines.output_of(scheduler, output, number))
        told.append({client: [each.finish_reason for each in outs.outputs] for client, outs in answers.items()})
    assert told[0] == told[1]
    assert told[1][1][-1] is not None


LEFT = {
    "models that pool": {"num_sampled_tokens_per_step": 0},
    "drafters of several modules": {"num_prefill_lookahead": 3},
    "drafts that take slots of the step": {
        "vllm_config": SimpleNamespace(speculative_config=SimpleNamespace(max_num_new_slots_for_drafting=1))
    },
    "steps above the limit of their input": {"max_num_scheduled_tokens": 10_000},
}


@pytest.mark.parametrize("feature", LEFT)
def test_vllm_serves_alone(feature, monkeypatch):
    _, ours = pair(monkeypatch)
    assert not module.is_left_to_vllm(ours)
    for name, value in LEFT[feature].items():
        monkeypatch.setattr(ours, name, value)
    assert module.is_left_to_vllm(ours)


@pytest.mark.parametrize("name", ["ec_connector", "aux_output_connector"])
def test_vllm_sees_all_requests_where_something_is_told_of_each(name, monkeypatch):
    _, ours = pair(monkeypatch)
    assert not module.takes_all(ours, waits=False, throttles=False)
    monkeypatch.setattr(ours, name, object())
    assert module.takes_all(ours, waits=False, throttles=False)
