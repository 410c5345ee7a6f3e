"""The two sides: a scheduler of vLLM as it is, and one that kvgpu serves, made from one scenario."""

import os
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from unittest import mock

from in_vllm import engines
from in_vllm.oracle import is_0_33
from in_vllm.soak.comparison import Difference
from in_vllm.soak.connector import NAME as CONNECTOR
from in_vllm.soak.grammar import GrammarManager
from in_vllm.soak.scenario import Scenario
from vllm.config import KVTransferConfig
from vllm.config.kv_events import KVEventsConfig
from vllm.utils.hashing import get_hash_fn_by_name
from vllm.v1.core import kv_cache_utils
from vllm.v1.core.encoder_cache_manager import EncoderCacheManager
from vllm.v1.core.kv_cache_manager import KVCacheManager as ManagerOfVllm
from vllm.v1.core.sched import async_scheduler
from vllm.v1.core.sched import scheduler as scheduler_module

from kvgpu.manager import KVCacheManager
from kvgpu.vllm import hasher as hasher_module
from kvgpu.vllm import manager as manager_module
from kvgpu.vllm import scheduler as array_scheduler

MODES = ("arrays", "manager only")
"""Whether kvgpu serves as vLLM's scheduler class, or as the manager in vLLM's own."""

EXPECTED_FALLBACKS: frozenset[str] = frozenset()
"""Reasons for which vLLM's manager may serve in place of kvgpu's; every layout of the soak is modelled."""

IS_0_33 = is_0_33()
ENCODER_BUDGET, ENCODER_CACHE = 64, 96
RETENTION, V2_RUNNER = "VLLM_PREFIX_CACHE_RETENTION_INTERVAL", "VLLM_USE_V2_MODEL_RUNNER"


@dataclass
class Publisher:
    """Keeps batches of KV events until they are compared."""

    batches: list[Any] = field(default_factory=list)

    def publish(self, batch: Any) -> None:
        """Keep a batch."""
        self.batches.append(batch)

    def shutdown(self) -> None:
        """Nothing is open."""


@dataclass
class Side:
    """A scheduler, the hasher that its engine would make, and the events that it published."""

    name: str
    scheduler: Any
    hasher: Any
    publisher: Publisher

    @property
    def manager(self) -> Any:
        """The KV-cache manager."""
        return self.scheduler.kv_cache_manager


def _adapt(config: Any, scenario: Scenario) -> None:
    """Write a scenario into a `VllmConfig`."""
    config.scheduler_config.policy = "priority" if "priority" in scenario else "fcfs"
    config.scheduler_config.long_prefill_token_threshold = scenario.threshold
    config.scheduler_config.scheduler_reserve_full_isl = scenario.reserves_prompts
    if IS_0_33:
        config.scheduler_config.watermark = scenario.watermark
        config.scheduler_config.prefill_schedule_interval = scenario.prefill_interval
        config.scheduler_config.long_prefill_token_threshold_adaptive = scenario.adapts_threshold
        config.scheduler_config.max_num_active_seqs = scenario.most_active
    config.cache_config.block_size = scenario.block_size
    # Since 0.30 states are only cached at ends of blocks.
    uncached = IS_0_33 and scenario.layout in ("mamba_all", "mamba_none")
    config.cache_config.enable_prefix_caching = "no_caching" not in scenario and not uncached
    if scenario.layout.startswith("mamba_"):
        config.cache_config.mamba_cache_mode = scenario.layout.removeprefix("mamba_")
    config.parallel_config.decode_context_parallel_size = scenario.ranks
    config.observability_config.kv_cache_metrics = "cache_metrics" in scenario
    config.observability_config.kv_cache_metrics_sample = scenario.sample_rate
    if "kv_events" in scenario:
        config.kv_events_config = KVEventsConfig(enable_kv_cache_events=True, publisher="null")
    if scenario.max_loras is not None:
        config.lora_config = SimpleNamespace(max_loras=scenario.max_loras)
    if scenario.num_drafts:
        config.speculative_config = SimpleNamespace(
            num_speculative_tokens=scenario.num_drafts,
            use_eagle=lambda: scenario.method == "eagle",
            uses_draft_model=lambda: scenario.method == "draft_model",
            use_dflash=lambda: scenario.method == "dflash",
            # Since 0.26.
            use_dspark=lambda: False,
            use_multi_module_mtp=lambda: False,
            use_eagle_block_drop=lambda: scenario.method == "eagle",
            needs_eagle_block_drop=lambda: scenario.method == "eagle",
            disable_eagle_block_drop=False,
            disable_lookahead_block_hashes=not scenario.hashes_ahead,
            num_speculative_tokens_per_batch_size=scenario.drafts_by_batch,
            max_num_new_slots_for_drafting=int(scenario.method == "draft_model"),
        )
    if "connector" in scenario:
        config.kv_transfer_config = KVTransferConfig(
            kv_connector=CONNECTOR,
            kv_role="kv_both",
            kv_load_failure_policy="recompute" if scenario.recomputes else "fail",
            kv_connector_extra_config={
                "seed": f"{scenario.seed} {scenario.number}",
                "unit": scenario.scheduler_block_size,
                "block_size": scenario.specs[0].block_size * scenario.ranks,
                "loads_async": "async_loads" in scenario,
            },
        )


def _make_scheduler(scenario: Scenario, kind: type, make_manager: Any, publisher: Publisher) -> Any:
    """A scheduler of a class, with a manager that a function makes."""

    def make(vllm_config: Any, **options: Any) -> Any:
        _adapt(vllm_config, scenario)
        sizes = {"block_size": scenario.scheduler_block_size, "hash_block_size": scenario.hash_block_size}
        options |= {
            "vllm_config": vllm_config,
            "kv_cache_config": scenario.cache_config(),
            "structured_output_manager": GrammarManager(),
            "include_finished_set": "finished_sets" in scenario,
            "log_stats": "without_stats" not in scenario,
        }
        # vLLM's configuration, which exists by now, would refuse this runner where Triton is missing.
        with mock.patch.dict(os.environ, {V2_RUNNER: "1" if "v2_model_runner" in scenario else "0"}):
            return kind(**options | sizes)

    options = engines.Options(
        num_blocks=scenario.num_blocks,
        is_async="async_scheduling" in scenario,
        most_running=scenario.most_running,
        budget=scenario.budget,
        longest=scenario.longest,
        scheduler=make,
    )
    # Since 0.30 it is part of the configuration.
    variables = {RETENTION: str(scenario.retention)} if "retention" in scenario and not IS_0_33 else {}
    with mock.patch.dict(os.environ), mock.patch.object(scheduler_module, "KVCacheManager", make_manager):
        for name in (RETENTION, "KVGPU_VLLM"):
            os.environ.pop(name, None)
        os.environ.update(variables)
        scheduler = engines.make_scheduler(options)
    scheduler.kv_event_publisher = publisher
    scheduler.needs_kv_cache_zeroing |= "zeroing" in scenario
    if "multimodal" in scenario:
        # The model of the tests has no encoder, so vLLM gives it no room.
        scheduler.max_num_encoder_input_tokens = ENCODER_BUDGET
        scheduler.encoder_cache_manager = EncoderCacheManager(cache_size=ENCODER_CACHE)
    return scheduler


def make_sides(scenario: Scenario, mode: str) -> tuple[list[Side], list[str]]:
    """Make vLLM's side, and then kvgpu's.

    Returns:
        The sides, and the reasons for which vLLM's manager serves on kvgpu's side.

    Raises:
        Difference: Another class serves than should, or vLLM's manager for a reason that is not expected.
    """
    is_async = "async_scheduling" in scenario
    of_vllm = async_scheduler.AsyncScheduler if is_async else scheduler_module.Scheduler
    ours, expected = of_vllm, of_vllm
    if mode == "arrays":
        ours = array_scheduler.Scheduler
        expected = array_scheduler.AsyncScheduler if is_async else array_scheduler.Scheduler
    hash_fn = get_hash_fn_by_name(scenario.hash_name)
    kv_cache_utils.init_none_hash(hash_fn)
    before = manager_module.made.copy()
    sides = []
    for name, kind, make_manager, hashing in (
        ("vLLM", of_vllm, ManagerOfVllm, kv_cache_utils),
        ("kvgpu", ours, manager_module.make_manager, hasher_module),
    ):
        publisher = Publisher()
        scheduler = _make_scheduler(scenario, kind, make_manager, publisher)
        ahead = (scheduler.num_hash_lookahead_tokens,) if IS_0_33 else ()
        hasher = hashing.get_request_block_hasher(scenario.hash_block_size, hash_fn, *ahead)
        sides.append(Side(name, scheduler, hasher, publisher))
    fallbacks = [reason for reason in (manager_module.made - before) if reason != "kvgpu"]
    if not EXPECTED_FALLBACKS.issuperset(fallbacks):
        raise Difference("manager of kvgpu's side", "kvgpu", fallbacks)
    managers = (ManagerOfVllm, ManagerOfVllm if fallbacks else KVCacheManager)
    for side, scheduler_class, manager_class in zip(sides, (of_vllm, expected), managers, strict=True):
        serving, should = (type(side.scheduler), type(side.manager)), (scheduler_class, manager_class)
        if serving != should:
            raise Difference(f"classes that serve {side.name}", should, serving)
    return sides, fallbacks
