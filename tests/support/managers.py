"""Short ways to build specs, managers and requests, and to look at all of a manager's state."""

from collections.abc import Iterable, Sequence
from math import gcd, lcm
from types import SimpleNamespace
from typing import Any

import pytest

from kvgpu.blocks.kv_cache_blocks import KVCacheBlocks
from kvgpu.config.kv_cache_config import KVCacheConfig, KVCacheGroupSpec
from kvgpu.config.specs import ChunkedLocalAttentionSpec, FullAttentionSpec, KVCacheSpec, MambaSpec, SlidingWindowSpec
from kvgpu.hashing import functions as hashing
from kvgpu.hashing.request_hasher import get_request_block_hasher
from kvgpu.manager import KVCacheManager
from kvgpu.request import Request

HEADS: dict[str, Any] = {"num_kv_heads": 1, "head_size": 1, "dtype": None}

CPU_BACKENDS = ("host", "reference")
"""Those that hold the control plane's state; the others only answer lookups from a copy of it."""

per_backend = pytest.mark.parametrize("backend", CPU_BACKENDS)

hashing.init_none_hash(hashing.sha256)


def full(block_size: int) -> FullAttentionSpec:
    return FullAttentionSpec(block_size, **HEADS)


def window(block_size: int, tokens: int) -> SlidingWindowSpec:
    return SlidingWindowSpec(block_size, **HEADS, sliding_window=tokens)


def chunked(block_size: int, tokens: int) -> ChunkedLocalAttentionSpec:
    return ChunkedLocalAttentionSpec(block_size, **HEADS, attention_chunk_size=tokens)


def mamba(block_size: int, mode: str = "all", spare: int = 0) -> MambaSpec:
    return MambaSpec(block_size, ((1,),), (None,), mamba_cache_mode=mode, num_speculative_blocks=spare)


def make_config(*specs: KVCacheSpec, num_blocks: int = 100, eagle_groups: Iterable[int] = ()) -> KVCacheConfig:
    groups = [KVCacheGroupSpec([f"layer{i}"], spec, is_eagle_group=i in eagle_groups) for i, spec in enumerate(specs)]
    return KVCacheConfig(num_blocks, [], groups)


def make_manager(
    *specs: KVCacheSpec,
    num_blocks: int = 100,
    eagle_groups: Iterable[int] = (),
    max_model_len: int = 4096,
    retention: int | None = None,
    **options: Any,
) -> KVCacheManager:
    """A manager whose scheduler and hash block sizes fit the groups, unless given."""
    sizes = [spec.block_size for spec in specs]
    options.setdefault("scheduler_block_size", lcm(*sizes))
    options.setdefault("hash_block_size", gcd(*sizes))
    config = make_config(*specs, num_blocks=num_blocks, eagle_groups=eagle_groups)
    config.prefix_cache_retention_interval = retention
    return KVCacheManager(config, max_model_len=max_model_len, **options)


def make_request(
    request_id: str,
    tokens: int | Sequence[int],
    block_size: int,
    hash_fn: hashing.HashFunction = hashing.sha256,
    **attributes: Any,
) -> Request:
    """A request of the given tokens, or of tokens 0, 1, 2, ... if only their number is given."""
    token_ids = list(range(tokens)) if isinstance(tokens, int) else list(tokens)
    hasher = get_request_block_hasher(block_size, hash_fn)
    return Request(request_id, token_ids, block_hasher=hasher, **attributes)


def no_sampling(**attributes: Any) -> SimpleNamespace:
    """Sampling parameters that hold nothing else."""
    return SimpleNamespace(**attributes)


def admit(manager: KVCacheManager, request: Request, **options: Any) -> KVCacheBlocks | None:
    """Look a new request up and give it slots for all its tokens."""
    computed, num_hits, *_ = manager.get_computed_blocks(request)
    blocks = manager.allocate_slots(request, request.num_tokens - num_hits, num_hits, computed, **options)
    if blocks is not None:
        request.num_computed_tokens = request.num_tokens
    return blocks


def decode(manager: KVCacheManager, request: Request, tokens: int = 1) -> KVCacheBlocks | None:
    """Generate so many tokens, one step each."""
    blocks = None
    for _ in range(tokens):
        request.append_output_token_ids(7)
        blocks = manager.allocate_slots(request, 1)
        if blocks is None:
            return None
        request.num_computed_tokens += 1
    return blocks


def held(manager: KVCacheManager, request: Request, group: int = 0) -> list[int]:
    """Block ids of a request in one group."""
    return manager.get_block_ids(request.request_id)[group] if request else []


def free_order(manager: KVCacheManager) -> list[int]:
    """Free block ids, the next to be taken first."""
    queue = manager.block_pool.free_block_queue
    return [block.block_id for block in queue.get_all_free_blocks()]


def cached_ids(manager: KVCacheManager) -> set[int]:
    """Ids of all blocks that a lookup could return."""
    found: set[int] = set()
    for entry in manager.block_pool.cached_block_hash_to_block._cache.values():
        found |= set(entry) if isinstance(entry, dict) else {entry.block_id}
    return found


def cached_id(manager: KVCacheManager, block_hash: hashing.BlockHash) -> int | None:
    """Id of the block that a lookup of one hash returns in group 0, None if it returns no block."""
    found = manager.block_pool.get_cached_block(block_hash, [0])
    return None if found is None else found[0].block_id


def cached_places(manager: KVCacheManager, request: Request, group: int = 0) -> set[int]:
    """Logical blocks of a request that are cached in a group."""
    spec = manager.kv_cache_config.kv_cache_groups[group].kv_cache_spec
    stride = spec.block_size // manager.block_pool.hash_block_size
    hashes = list(request.block_hashes)
    places = set()
    for place in range(len(hashes) // stride):
        coarse = hashing.BlockHash(b"".join(hashes[place * stride : (place + 1) * stride]))
        if manager.block_pool.get_cached_block(coarse, [group]) is not None:
            places.add(place)
    return places


def accounts_balance(manager: KVCacheManager) -> bool:
    """True if every block is free, in use or the null block, and in one of these only."""
    pool = manager.block_pool
    free = set(free_order(manager))
    used = {b.block_id for b in pool.blocks if b.ref_cnt > 0 and not b.is_null}
    null = {pool.null_block.block_id}
    everything = set(range(pool.num_gpu_blocks))
    disjoint = len(free) + len(used) + len(null) == pool.num_gpu_blocks
    return disjoint and free | used | null == everything


def snapshot(manager: KVCacheManager) -> dict[str, Any]:
    """All state that a caller could notice, as plain data."""
    pool = manager.block_pool
    cache = pool.cached_block_hash_to_block._cache
    return {
        "ref_cnt": [block.ref_cnt for block in pool.blocks if not block.is_null],
        "hashes": [block.block_hash for block in pool.blocks],
        "free": free_order(manager),
        "num_free": pool.get_num_free_blocks(),
        "cache": {key: list(entry) if isinstance(entry, dict) else entry.block_id for key, entry in cache.items()},
        "tables": [
            {name: [b.block_id for b in blocks] for name, blocks in m.req_to_blocks.items()}
            for m in manager.coordinator.single_type_managers
        ],
        "cached": [dict(m.num_cached_block) for m in manager.coordinator.single_type_managers],
        "events": len(pool.kv_event_queue),
        "usage": manager.usage,
    }
