"""Managers and requests for tests of behaviour 0.33."""

from typing import Any

from support.managers import make_manager, make_request

from kvgpu.config.specs import KVCacheSpec
from kvgpu.manager import KVCacheManager
from kvgpu.request import Request


def later(*specs: KVCacheSpec, retention: int | None = None, **options: Any) -> KVCacheManager:
    """A manager of behaviour 0.33."""
    return make_manager(*specs, behaviour="0.33", retention=retention, **options)


def computed(manager: KVCacheManager, name: str, tokens: Any, chunk: int = 0) -> Request:
    """A request that was admitted, and all of whose tokens are computed, `chunk` at a time if that is above 0."""
    request = make_request(name, tokens, manager.block_pool.hash_block_size)
    blocks, num_hits, junction = manager.get_computed_blocks(request)
    request.shared_prefix_boundary = junction
    new = min(chunk or request.num_tokens, request.num_tokens - num_hits)
    assert manager.allocate_slots(request, new, num_hits, blocks) is not None
    request.num_computed_tokens = num_hits + new
    while request.num_computed_tokens < request.num_tokens:
        manager.new_step_starts()
        new = min(chunk, request.num_tokens - request.num_computed_tokens)
        assert manager.allocate_slots(request, new) is not None
        request.num_computed_tokens += new
    return request
