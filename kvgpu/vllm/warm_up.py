"""Compiles what an engine will call, or loads it from the cache of compiled code, before the first request is there."""

import logging
import math
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from kvgpu.allocation.running_slots import RunningSlots
from kvgpu.allocation.running_tokens import COLUMNS, LIMITS, plan_tokens
from kvgpu.compiled.cache import code_folder
from kvgpu.config.kv_cache_config import KVCacheConfig
from kvgpu.config.specs import cdiv
from kvgpu.errors import KVGPUError
from kvgpu.manager import KVCacheManager
from kvgpu.warmup.parts import FOR_VLLM
from kvgpu.warmup.processes import compile_parts, is_cold
from kvgpu.warmup.requests import PlainRequest

logger = logging.getLogger(__name__)

SPARE = 16
"""Blocks of a group beyond those of its tokens: for drafts, and the null block."""


def warm_up(
    config: KVCacheConfig, *args: Any, make: Callable[..., KVCacheManager] = KVCacheManager, **options: Any
) -> None:
    """Serve two requests with a small manager of the same kind, and forget it.

    Args:
        config: Of the engine's manager.
        args, options: Its other arguments; a metrics collector is not told of this.
        make: Makes the small manager from such arguments.

    A second where the code is in the cache, or came with kvgpu. Where it must be compiled, processes beside each other
    do it, in 15 s on two processors, and the log says so. If something goes wrong, the log says so too: the engine then
    compiles the rest as it serves.
    """
    try:
        if is_cold() and code_folder().path is not None:
            logger.info("kvgpu is compiled for this machine, once; `kvgpu warmup` does this beforehand")
            for done, name in enumerate(compile_parts(FOR_VLLM), 1):
                logger.info("compiled %s, %d of %d", name, done, len(FOR_VLLM))
        _serve_two(config, *args, make=make, **{**options, "metrics_collector": None})
    except KVGPUError as error:
        logger.warning("kvgpu is not warm: %s", error)


def _serve_two(config: KVCacheConfig, *args: Any, make: Callable[..., KVCacheManager], **options: Any) -> None:
    specs = [group.kv_cache_spec for group in config.kv_cache_groups]
    longest = 4 * math.lcm(*(spec.block_size for spec in specs))
    num_blocks = 1 + sum(
        cdiv(longest + (getattr(spec, "sink_len", None) or 0), spec.block_size) + SPARE for spec in specs
    )
    manager = make(replace(config, num_blocks=num_blocks), *args, **options)
    unit, step = manager.coordinator.hash_block_size, manager.coordinator.scheduler_block_size
    prompt = min(2 * step + 1, manager.max_model_len - 1)
    hashes = [os.urandom(32) for _ in range(4 * step // unit)]
    for name in ("first", "second"):
        # The second hits what the first has left.
        request = PlainRequest(name, hashes[: prompt // unit], prompt, prompt)
        manager.new_step_starts()
        blocks, num_hits, *_ = manager.get_computed_blocks(request)  # the junction, if it is told, is for schedulers
        manager.allocate_slots(request, prompt - num_hits, num_hits, blocks)
        manager.get_num_common_prefix_blocks(name)
        manager.get_block_ids(name)
        for num_computed in range(prompt, min(prompt + unit + 1, manager.max_model_len)):
            request.num_computed_tokens, request.num_tokens = num_computed, num_computed + 1
            request.block_hashes = hashes[: request.num_tokens // unit]
            manager.allocate_slots(request, 1)
            manager.cache_blocks(request, request.num_tokens)
        _serve_running(manager, request)
        manager.free(request)
    manager.evict_blocks({1})
    manager.take_new_block_ids()
    manager.take_events()
    manager.reset_prefix_cache()


def _serve_running(manager: KVCacheManager, request: PlainRequest) -> None:
    """One call for all running requests, which need nothing."""
    slots = RunningSlots(manager.slots)
    if slots.serves() and slots.enter([request]):
        numbers = [[request.num_computed_tokens], [request.num_tokens], [1]]
        num_computed, num_tokens, num_new = np.array(numbers, np.int64)
        slots.allocate(num_computed, num_tokens, num_new)
        plan_tokens(np.zeros((COLUMNS, 1), np.int64), np.zeros(LIMITS, np.int64))
