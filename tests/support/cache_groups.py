"""Short ways to build the manager of one cache group, and to ask it about a planted pattern."""

from typing import Any

from support.managers import cached_ids, free_order, make_request

from kvgpu.block_pool import BlockPool
from kvgpu.config.specs import KVCacheSpec
from kvgpu.groups.base import SingleTypeKVCacheManager
from kvgpu.groups.registry import get_manager_for_kv_cache_spec, manager_class
from kvgpu.manager import KVCacheManager
from kvgpu.request import Request


def make_group(
    spec: KVCacheSpec,
    num_blocks: int = 100,
    backend: str | None = None,
    max_num_batched_tokens: int = 64,
    max_model_len: int = 4096,
    **options: Any,
) -> SingleTypeKVCacheManager:
    """A group with a pool of its own."""
    pool = BlockPool(num_blocks, True, spec.block_size, backend=backend)
    options = {"enable_caching": True, "scheduler_block_size": spec.block_size, **options}
    return get_manager_for_kv_cache_spec(
        spec, max_num_batched_tokens, max_model_len, block_pool=pool, kv_cache_group_id=0, **options
    )


def plant(pool: BlockPool, request: Request, cached: str, size: int, group: int = 0) -> list[int]:
    """Take a block per letter and cache those of a T; returns the ids."""
    blocks = pool.get_new_blocks(len(cached))
    keep = [letter == "T" for letter in cached]
    pool.cache_full_blocks(request, blocks, 0, len(cached), size, group, keep)
    return [block.block_id for block in blocks]


def hit_in(
    spec: KVCacheSpec,
    cached: str,
    drop: bool = False,
    alignment: int | None = None,
    tokens: int | None = None,
    backend: str | None = None,
) -> list[int]:
    """Block ids of the hit where a T says that a block is cached: block i has id i + 1, null is 0."""
    size = spec.block_size
    pool = BlockPool(len(cached) + 1, True, size, backend=backend)
    request = make_request("planted", len(cached) * size, size)
    plant(pool, request, cached, size)
    limit = len(cached) * size if tokens is None else tokens
    (blocks,) = manager_class(spec).find_longest_cache_hit(
        request.block_hashes, limit, [0], pool, spec, drop, alignment or size
    )
    return [block.block_id for block in blocks]


def ids_of(group: SingleTypeKVCacheManager, request_id: str = "a") -> list[int]:
    """Ids of the blocks that a request holds."""
    return [block.block_id for block in group.req_to_blocks[request_id]]


def hold(group: SingleTypeKVCacheManager, tokens: int, request_id: str = "a") -> list[int]:
    """Give a request slots for so many tokens in all; returns all that it holds."""
    group.allocate_new_blocks(request_id, tokens, tokens)
    return ids_of(group, request_id)


def free_ids(group: SingleTypeKVCacheManager) -> list[int]:
    """Free block ids of the group's pool, the next to be taken first."""
    queue = group.block_pool.free_block_queue
    return [block.block_id for block in queue.get_all_free_blocks()]


def reusable_before_cached(manager: KVCacheManager) -> bool:
    """True if no cached block is taken while a free one without content is left."""
    cached = cached_ids(manager)
    order = [block_id in cached for block_id in free_order(manager)]
    return order == sorted(order)
