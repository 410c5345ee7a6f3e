"""Slots for one request: what `KVCacheManager.allocate_slots` does once a guard has not answered."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from kvgpu.blocks import KVCacheBlock
from kvgpu.errors import ArgumentError, GroupCountError, RunningRequestError
from kvgpu.exclusive import exclusive
from kvgpu.kv_cache_blocks import KVCacheBlocks

if TYPE_CHECKING:
    from kvgpu.manager import KVCacheManager


@exclusive
def allocate_slots(
    manager: "KVCacheManager",
    request: Any,
    num_new_tokens: int,
    num_new_computed_tokens: int,
    new_computed_blocks: KVCacheBlocks | None,
    num_lookahead_tokens: int,
    num_external_computed_tokens: int,
    delay_cache_blocks: bool,
    num_encoder_tokens: int,
    full_sequence_must_fit: bool,
    reserved_blocks: int,
) -> KVCacheBlocks | None:
    """`KVCacheManager.allocate_slots` for a request that may need something; the arguments are its."""
    if num_new_tokens == 0 and num_external_computed_tokens == 0:
        raise ArgumentError(
            "num_new_tokens must be above 0 unless there are external computed tokens"
        )
    coordinator = manager.coordinator
    request_id = request.request_id
    computed = (new_computed_blocks or manager.empty_kv_cache_blocks).blocks
    if computed is not manager.empty_kv_cache_blocks.blocks:
        _refuse_bad_hits(manager, request_id, computed)
    num_local = request.num_computed_tokens + num_new_computed_tokens
    num_elsewhere = num_local + num_external_computed_tokens
    total_computed = min(num_elsewhere, manager.max_model_len)
    caches = manager.enable_caching and not delay_cache_blocks
    # Draft tokens may be rejected, so only what the request has is cached.
    num_cacheable = min(total_computed + num_new_tokens, request.num_tokens) if caches else 0
    if len(request.block_hashes) < num_cacheable // coordinator.hash_block_size:
        raise ArgumentError(
            f"request {request_id} has {len(request.block_hashes)} block hashes, "
            f"{num_cacheable // coordinator.hash_block_size} are needed; give it a block_hasher"
        )
    if manager.arrays is not None and manager.arrays.ready():
        num_prompt = getattr(request, "num_prompt_tokens", None)
        words = [
            request.num_computed_tokens, num_new_computed_tokens, num_external_computed_tokens,
            num_new_tokens, num_lookahead_tokens, request.num_tokens,
            -1 if num_prompt is None else num_prompt, manager.max_model_len, reserved_blocks,
            full_sequence_must_fit, computed is not manager.empty_kv_cache_blocks.blocks, caches,
        ]  # fmt: skip
        done = manager.arrays.allocate(
            request_id, request.block_hashes, computed, words, num_cacheable
        )
        if done is None or isinstance(done, tuple):
            return None if done is None else manager.create_kv_cache_blocks(done)
    num_free = manager.block_pool.get_num_free_blocks()
    if full_sequence_must_fit:
        full = min(request.num_tokens, manager.max_model_len)
        needed = coordinator.get_num_blocks_to_allocate(
            request_id, full, computed, num_encoder_tokens, total_computed, full, True
        )
        if needed > num_free:
            return None
    coordinator.remove_skipped_blocks(request_id, total_computed)
    num_main = total_computed + num_new_tokens
    num_slots = min(num_main + num_lookahead_tokens, manager.max_model_len)
    # Blocks for external tokens are not cut to the length of the model, so they are counted.
    needed = coordinator.get_num_blocks_to_allocate(
        request_id, max(num_slots, num_elsewhere), computed, num_encoder_tokens,
        total_computed, num_main,
    )  # fmt: skip
    if needed > manager.block_pool.get_num_free_blocks() - reserved_blocks:
        return None
    if computed is not manager.empty_kv_cache_blocks.blocks or num_external_computed_tokens > 0:
        coordinator.allocate_new_computed_blocks(
            request_id, computed, num_local, num_external_computed_tokens
        )
    new_blocks = coordinator.allocate_new_blocks(
        request_id, num_slots, num_main, num_encoder_tokens
    )
    if caches:
        coordinator.cache_blocks(request, num_cacheable)
    if manager.first_tables is not None:
        quiet = coordinator.quiet_until(request_id, total_computed)
        manager.first_tables[request_id].quiet_until = quiet
    return manager.create_kv_cache_blocks(new_blocks)


def _refuse_bad_hits(
    manager: "KVCacheManager", request_id: str, computed: tuple[Sequence[KVCacheBlock], ...]
) -> None:
    """Bad input must be noticed before anything is given back or taken."""
    if not manager.enable_caching and any(map(len, computed)):
        raise ArgumentError(f"request {request_id}: computed blocks without prefix caching")
    num_groups = len(manager.coordinator.single_type_managers)
    if len(computed) != num_groups:
        raise GroupCountError(
            f"request {request_id}: computed blocks of {len(computed)} groups, there are {num_groups}"
        )
    for single, blocks in zip(manager.coordinator.single_type_managers, computed, strict=True):
        if len(blocks) and request_id in single.num_cached_block:
            raise RunningRequestError(
                f"request {request_id} is running: it cannot take computed blocks; free it first"
            )
