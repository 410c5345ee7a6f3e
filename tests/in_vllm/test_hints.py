"""Inside vLLM: what clients send along with requests decides what stays cached, where the operator allows it."""

import logging

import pytest
from in_vllm.oracle import require_vllm

require_vllm("0.23", "0.33")

from in_vllm import engines
from in_vllm.engines import SIZE, Options, full
from vllm.v1.core.kv_cache_manager import KVCacheManager as ManagerOfVllm
from vllm.v1.core.sched import scheduler as scheduler_module

from kvgpu.allocation.request_hints import RequestHints
from kvgpu.vllm import scheduler as own_scheduler
from kvgpu.vllm.manager import make_manager

pytestmark = pytest.mark.filterwarnings("ignore")

HASHER = engines.hasher_of_vllm()
PROMPT = list(range(20 * SIZE))


@pytest.fixture
def scheduler_of(monkeypatch):
    monkeypatch.delenv("KVGPU_VLLM", raising=False)
    monkeypatch.setattr(scheduler_module, "KVCacheManager", make_manager)
    return lambda kind: engines.make_scheduler(
        Options(specs=(full(),), num_blocks=100, longest=500, budget=512, scheduler=kind)
    )


def serve(scheduler, name, prompt, hints=None):
    """Serve a request to its end; return how many of its tokens were cached."""
    request = engines.make_request(name, prompt, HASHER, max_tokens=3)
    if hints is not None:
        request.kv_transfer_params = {"cache_hints": hints}
    scheduler.add_request(request)
    scheduled = []
    for step in range(20):
        output = scheduler.schedule()
        scheduled.append(output.num_scheduled_tokens.get(name, 0))
        scheduler.update_from_output(output, engines.output_of(scheduler, output, step))
        if not scheduler.requests:
            break
    return len(prompt) - scheduled[0]


@pytest.mark.parametrize("kind", [None, own_scheduler.Scheduler], ids=["vllm", "kvgpu"])
@pytest.mark.parametrize("value", [None, "1", "other=0.1"])
def test_a_priority_outlasts_a_flood(scheduler_of, monkeypatch, kind, value):
    if value is not None:
        monkeypatch.setenv("KVGPU_CACHE_HINTS", value)
    scheduler = scheduler_of(kind)
    serve(scheduler, "first", PROMPT, {"priority": 90})
    for number in range(12):
        serve(scheduler, f"flood{number}", [1000 + number] * (15 * SIZE))
    hits = serve(scheduler, "again", PROMPT)
    assert hits == (0 if value is None else 19 * SIZE)


@pytest.mark.parametrize("kind", [None, own_scheduler.Scheduler], ids=["vllm", "kvgpu"])
def test_a_tenant_keeps_its_share(scheduler_of, monkeypatch, kind):
    monkeypatch.setenv("KVGPU_CACHE_HINTS", "a=0.25")
    scheduler = scheduler_of(kind)
    serve(scheduler, "first", PROMPT, {"tenant": "a"})
    for number in range(12):
        serve(scheduler, f"flood{number}", [1000 + number] * (15 * SIZE), {"priority": 100, "tenant": "b"})
    assert serve(scheduler, "again", PROMPT) == 19 * SIZE


@pytest.mark.parametrize("kind", [None, own_scheduler.Scheduler], ids=["vllm", "kvgpu"])
def test_requests_that_grow_leave_a_tenant_its_share(scheduler_of, monkeypatch, kind):
    monkeypatch.setenv("KVGPU_CACHE_HINTS", "a=0.25")
    scheduler = scheduler_of(kind)
    serve(scheduler, "first", PROMPT, {"tenant": "a"})
    for number in range(40):  # so many that arrays serve them
        scheduler.add_request(
            engines.make_request(f"grows{number}", [1000 + number] * (1 + number % SIZE), HASHER, max_tokens=100)
        )
    for step in range(60):
        output = scheduler.schedule()
        scheduler.update_from_output(output, engines.output_of(scheduler, output, step))
    again = engines.make_request("again", PROMPT, HASHER)
    assert scheduler.kv_cache_manager.get_computed_blocks(again)[1] == 19 * SIZE


@pytest.mark.parametrize("kind", [None, own_scheduler.Scheduler], ids=["vllm", "kvgpu"])
def test_a_lifetime_ends_while_others_only_decode(scheduler_of, monkeypatch, kind):
    now = [1]
    monkeypatch.setattr(RequestHints, "now", lambda self: now[0])
    monkeypatch.setenv("KVGPU_CACHE_HINTS", "1")
    scheduler = scheduler_of(kind)
    other = [number + 5000 for number in PROMPT]
    serve(scheduler, "other", other)
    serve(scheduler, "first", PROMPT, {"priority": 90, "lifetime": 5})
    for number in range(40):  # so many that arrays serve them
        scheduler.add_request(engines.make_request(f"r{number}", [1000 + number], HASHER, max_tokens=100))
    pool = scheduler.kv_cache_manager.block_pool
    for step in range(60):
        output = scheduler.schedule()
        scheduler.update_from_output(output, engines.output_of(scheduler, output, step))
        now[0] = 6 * 10**9
        if pool.get_num_free_blocks() < 25:
            break
    assert pool.allocator.num_evictions > 0
    assert kind is None or scheduler.served.array_steps > 0
    hits = [
        scheduler.kv_cache_manager.get_computed_blocks(engines.make_request(name, prompt, HASHER))[1]
        for name, prompt in (("a", PROMPT), ("b", other))
    ]
    assert hits == [0, 19 * SIZE]


def test_another_order_of_eviction_cannot_be_compared_with_vllm(monkeypatch, caplog):
    monkeypatch.setenv("KVGPU_VLLM", "check")
    monkeypatch.setenv("KVGPU_EVICTION", "arc")
    options = {"max_model_len": 500, "scheduler_block_size": SIZE, "hash_block_size": SIZE}
    with caplog.at_level(logging.WARNING, "kvgpu"):
        manager = make_manager(engines.config_of(full()), **options)
    assert type(manager) is ManagerOfVllm
    assert "KVGPU_EVICTION" in caplog.text
