"""What a scheduler of vLLM serves itself: features, and steps, of which arrays do not know enough."""

from typing import Any

from kvgpu.config.behaviour import BEHAVIOUR_0_23, BEHAVIOUR_0_33
from kvgpu.manager import KVCacheManager


def is_left_to_vllm(scheduler: Any) -> bool:
    """Whether a scheduler has features with which vLLM serves all running requests, in every step. O(1)."""
    manager = scheduler.kv_cache_manager
    if (
        not isinstance(manager, KVCacheManager)
        or scheduler.use_pp
        or scheduler.is_encoder_decoder
        or scheduler.need_mamba_block_aligned_split
    ):
        return True
    if manager.behaviour == BEHAVIOUR_0_23:
        # Without a connector of blocks, that of encoders would not see requests that arrays serve.
        return scheduler.ec_connector is not None and scheduler.connector is None
    if manager.behaviour != BEHAVIOUR_0_33:
        return True  # arrays follow the schedulers of these two
    drafter = scheduler.vllm_config.speculative_config
    return bool(
        # Models that pool or diffuse, or encode only, do not generate a token a step.
        scheduler.num_sampled_tokens_per_step != 1
        or scheduler.is_mm_encoder_only
        # Chunks of prompts may not end anywhere.
        or scheduler.num_prefill_lookahead > 1
        # The input of a step has a limit of its own.
        or (drafter is not None and drafter.max_num_new_slots_for_drafting)
        or scheduler.max_num_scheduled_tokens > scheduler.scheduler_config.max_num_batched_tokens
    )


def takes_all(scheduler: Any, waits: bool, throttles: bool) -> bool:
    """Whether vLLM has to see all running requests in this step, since the others depend on them. O(requests).

    Args:
        scheduler: Of which no feature `is_left_to_vllm`.
        waits: Whether requests wait.
        throttles: Whether the engine wants prompts to wait in this step.
    """
    # The adapters of running requests limit which of the others may run.
    if scheduler.lora_config and waits:
        return True
    if scheduler.kv_cache_manager.behaviour == BEHAVIOUR_0_23:
        return False
    # These are asked, or told, of single requests.
    if scheduler.ec_connector is not None or scheduler.aux_output_connector is not None:
        return True
    # Instead of requests that give way, the step waits for blocks.
    if scheduler.connector is not None and scheduler.connector.has_pending_block_frees():
        return True
    # Prompts wait only while others generate, and for so many steps since one was computed.
    if throttles or scheduler.local_prefill_interval > 1:
        if waits and not scheduler.prefill_capacity_bound:
            return True
        if any(request.is_prefill_chunk for request in scheduler.running):
            return True
    # Whether others are scheduled, and are computing their prompts, decides how many tokens a drafter adds to a request
    # that is admitted.
    room = scheduler.max_num_active_reqs - len(scheduler.running) - scheduler.num_waiting_for_streaming_input
    return bool(scheduler.num_spec_tokens and waits and room > 0)


def longest_chunk(scheduler: Any) -> int:
    """Return how many tokens of one request a step computes at most; 0 for no limit. O(1)."""
    config = scheduler.scheduler_config
    chunk = int(config.long_prefill_token_threshold)
    if chunk <= 0 or scheduler.kv_cache_manager.behaviour == BEHAVIOUR_0_23:
        return chunk
    count = sum(scheduler.get_request_counts())
    if count <= 1:
        return 0
    return max(chunk, config.max_num_batched_tokens // count) if scheduler.adaptive_long_prefill_threshold else chunk
