"""Compiles what an engine will call, or loads it from the cache of compiled code, before the first request is there."""

import logging
import math
import os
from dataclasses import dataclass, replace
from typing import Any

from kvgpu.errors import KVGPUError
from kvgpu.manager import KVCacheManager
from kvgpu.specs import KVCacheConfig, cdiv

logger = logging.getLogger(__name__)

SPARE = 16
"""Blocks of a group beyond those of its tokens: for drafts, and the null block."""


@dataclass
class _Request:
    """What a manager reads of a request of an engine."""

    request_id: str
    block_hashes: list[bytes]
    num_tokens: int
    num_prompt_tokens: int
    num_computed_tokens: int = 0
    num_preemptions: int = 0
    skip_reading_prefix_cache: bool = False
    lora_request: None = None
    cache_salt: None = None
    prompt_embeds: None = None
    mm_features: tuple[()] = ()

    @property
    def all_token_ids(self) -> list[int]:
        return [0] * self.num_tokens


def warm_up(config: KVCacheConfig, *args: Any, **options: Any) -> None:
    """Serve two requests with a small manager of the same kind, and forget it.

    Args:
        config: Of the engine's manager.
        args, options: Its other arguments; a metrics collector is not told of this.

    A second where the code is in the cache; where it must be compiled, up to a minute. If the small manager refuses a
    call, the log says so: the engine then compiles the rest as it serves.
    """
    try:
        _serve_two(config, *args, **{**options, "metrics_collector": None})
    except KVGPUError as error:
        logger.warning("kvgpu is not warm: %s", error)


def _serve_two(config: KVCacheConfig, *args: Any, **options: Any) -> None:
    specs = [group.kv_cache_spec for group in config.kv_cache_groups]
    longest = 4 * math.lcm(*(spec.block_size for spec in specs))
    num_blocks = 1 + sum(
        cdiv(longest + (getattr(spec, "sink_len", None) or 0), spec.block_size) + SPARE for spec in specs
    )
    manager = KVCacheManager(replace(config, num_blocks=num_blocks), *args, **options)
    unit, step = manager.coordinator.hash_block_size, manager.coordinator.scheduler_block_size
    prompt = min(2 * step + 1, manager.max_model_len - 1)
    hashes = [os.urandom(32) for _ in range(4 * step // unit)]
    for name in ("first", "second"):
        # The second hits what the first has left.
        request = _Request(name, hashes[: prompt // unit], prompt, prompt)
        manager.new_step_starts()
        blocks, num_hits = manager.get_computed_blocks(request)
        manager.allocate_slots(request, prompt - num_hits, num_hits, blocks)
        manager.get_num_common_prefix_blocks(name)
        manager.get_block_ids(name)
        for num_computed in range(prompt, min(prompt + unit + 1, manager.max_model_len)):
            request.num_computed_tokens, request.num_tokens = num_computed, num_computed + 1
            request.block_hashes = hashes[: request.num_tokens // unit]
            manager.allocate_slots(request, 1)
            manager.cache_blocks(request, request.num_tokens)
        manager.free(request)
    manager.evict_blocks({1})
    manager.take_new_block_ids()
    manager.take_events()
    manager.reset_prefix_cache()
