"""Which manager serves an engine of vLLM, and that its scheduler decides the same with either."""

import logging
from dataclasses import dataclass, replace

import pytest
from in_vllm.oracle import require_vllm

require_vllm()

from in_vllm import engines
from in_vllm.engines import SIZE, full, window
from in_vllm.workloads import KINDS, serve
from vllm.v1.core import single_type_kv_cache_manager as groups
from vllm.v1.core.kv_cache_manager import KVCacheManager as ManagerOfVllm
from vllm.v1.core.sched import scheduler as scheduler_module
from vllm.v1.kv_cache_interface import FullAttentionSpec

from kvgpu.manager import KVCacheManager
from kvgpu.vllm import manager as manager_module
from kvgpu.vllm.checked_manager import CheckedManager
from kvgpu.vllm.manager import make_manager

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def own_counts(monkeypatch):
    monkeypatch.delenv("KVGPU_VLLM", raising=False)
    monkeypatch.setattr(manager_module, "made", type(manager_module.made)())


def make(*specs, **options):
    return make_manager(
        engines.config_of(*specs),
        **{"max_model_len": 1000, "scheduler_block_size": SIZE, "hash_block_size": SIZE, **options},
    )


class TestWhoServes:
    def test_kvgpu_serves_what_it_models(self):
        assert type(make(full(), window())) is KVCacheManager
        assert manager_module.made == {"kvgpu": 1}

    def test_vllm_serves_a_spec_that_brings_its_own_manager(self, caplog, monkeypatch):
        @dataclass(frozen=True)
        class OwnSpec(FullAttentionSpec):
            pass

        class OwnManager(groups.FullAttentionManager):
            pass

        registry = engines.vllm.v1.kv_cache_spec_registry
        monkeypatch.setattr(registry, "_REGISTRY_KVCACHESPEC_LIST", dict(registry._REGISTRY_KVCACHESPEC_LIST))
        registry.KVCacheSpecRegistry.register(OwnSpec, OwnManager, FullAttentionSpec)
        with caplog.at_level(logging.WARNING, "kvgpu"):
            manager = make(OwnSpec(block_size=SIZE, **engines.HEADS))
        assert type(manager) is ManagerOfVllm
        (message,) = caplog.messages
        assert "OwnSpec is served by a manager of its own" in message

    def test_vllm_refuses_what_neither_can_make(self):
        with pytest.raises(AssertionError):
            make(full(), hash_block_size=SIZE, scheduler_block_size=SIZE, dcp_world_size=2)

    def test_groups_pass_for_those_of_vllm(self):
        first, second = make(full(), window()).coordinator.single_type_managers
        assert isinstance(first, groups.FullAttentionManager)
        assert isinstance(second, groups.SlidingWindowManager)

    def test_check_compares(self, monkeypatch):
        monkeypatch.setenv("KVGPU_VLLM", "check")
        assert type(make(full())) is CheckedManager


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(3))
class TestInTheScheduler:
    def test_every_step_is_that_of_vllm(self, kind, seed, monkeypatch):
        options = replace(KINDS[kind])
        expected = serve(engines.make_scheduler(options), seed)
        monkeypatch.setattr(scheduler_module, "KVCacheManager", make_manager)
        scheduler = engines.make_scheduler(options)
        assert serve(scheduler, seed) == expected
        assert type(scheduler.kv_cache_manager) is KVCacheManager
        scheduler.kv_cache_manager.check()

    def test_a_checked_manager_finds_no_difference(self, kind, seed, monkeypatch):
        options = replace(KINDS[kind])
        expected = serve(engines.make_scheduler(options), seed)
        monkeypatch.setattr(scheduler_module, "KVCacheManager", make_manager)
        monkeypatch.setenv("KVGPU_VLLM", "check")
        scheduler = engines.make_scheduler(options)
        assert serve(scheduler, seed) == expected
        manager = scheduler.kv_cache_manager
        assert manager.difference is None
        assert manager.num_compared > 100
