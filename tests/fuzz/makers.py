"""What is attacked without a manager: constructors, specs, configurations, statistics, hashes, single blocks."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from support.managers import full, make_manager, make_request

from kvgpu.batch.manager import BatchManager
from kvgpu.block_pool import BlockPool
from kvgpu.blocks.free_queue import FreeKVCacheBlockQueue
from kvgpu.blocks.kv_cache_blocks import KVCacheBlocks
from kvgpu.blocks.state import KVCacheBlock
from kvgpu.config.block_sizes import resolve_kv_cache_block_sizes
from kvgpu.config.cache_hints import CacheHints, HintLimits
from kvgpu.config.kv_cache_config import KVCacheConfig, KVCacheGroupSpec
from kvgpu.config.specs import (
    ChunkedLocalAttentionSpec,
    FullAttentionSpec,
    MambaSpec,
    SinkFullAttentionSpec,
    SlidingWindowSpec,
    UniformTypeKVCacheSpecs,
)
from kvgpu.hashing import functions as hashing
from kvgpu.hashing import map_keys
from kvgpu.hashing.inputs.token_ids import TokenIds
from kvgpu.hashing.kvgpu128.function import Kvgpu128
from kvgpu.hashing.request_hasher import get_request_block_hasher
from kvgpu.manager import KVCacheManager
from kvgpu.metrics import CachingMetrics, KVCacheMetricsCollector, PrefixCacheStats
from kvgpu.request import Request
from kvgpu.rules.plan import HitQuery, HitRule, PrefixPlan
from kvgpu.rules.plan_words import FULL

SIZE = 4
NUM_BLOCKS = 1000
"""A million times as many fit into no memory, so that whoever asks for them is told at once."""
HEADS = {"num_kv_heads": 1, "head_size": 1, "dtype": None}
MAMBA = {
    "block_size": SIZE,
    "shapes": ((1,),),
    "dtypes": (None,),
    "mamba_cache_mode": "align",
    "num_speculative_blocks": 1,
}
SWITCHES = {"enable_caching": True, "enable_kv_cache_events": True, "metrics_collector": None, "backend": "host"}

Case = tuple[Callable[..., Any], dict[str, Any]]


def manager_of(**group: Any) -> KVCacheManager:
    """A manager of one group."""
    config = KVCacheConfig(10, [], [KVCacheGroupSpec(**group)])
    return KVCacheManager(config, 40, hash_block_size=SIZE, scheduler_block_size=SIZE)


def of_spec(kind: Any) -> Callable[..., KVCacheManager]:
    """Makes a spec of a kind, and a manager of one group with it."""
    return lambda **fields: manager_of(layer_names=["a"], kv_cache_spec=kind(**fields))


def pool() -> BlockPool:
    return BlockPool(10, True, SIZE)


def request() -> Any:
    return make_request("a", 9, SIZE)


def cached() -> tuple[Any, Any]:
    """A pool's map with one block, and its key."""
    blocks = pool()
    blocks.cache_full_blocks(request(), blocks.get_new_blocks(1), 0, 1, SIZE, 0)
    return blocks.cached_block_hash_to_block, blocks.blocks[1].block_hash


def with_map(name: str, **more: Any) -> Case:
    """A call of a map."""
    mapped, key = cached()
    return getattr(mapped, name), {"key": key, **more}


def setting(block: KVCacheBlock, name: str, value: Any) -> Case:
    """A new value of an attribute."""
    return lambda value: setattr(block, name, value), {"value": value}


def in_batch(name: str) -> Case:
    """A call of a batch with one row that holds blocks."""
    batch = BatchManager(make_manager(full(SIZE), num_blocks=20), 4, 64)
    rows = batch.track([request()])
    batch.allocate_batch(rows, 9)
    return getattr(batch, name), {"rows": rows}


SPECS: dict[str, Callable[[], Case]] = {
    "FullAttentionSpec": lambda: (of_spec(FullAttentionSpec), {"block_size": SIZE, **HEADS}),
    "SlidingWindowSpec": lambda: (of_spec(SlidingWindowSpec), {"block_size": SIZE, "sliding_window": 8, **HEADS}),
    "ChunkedLocalAttentionSpec": lambda: (
        of_spec(ChunkedLocalAttentionSpec),
        {"block_size": SIZE, "attention_chunk_size": 8, **HEADS},
    ),
    "SinkFullAttentionSpec": lambda: (of_spec(SinkFullAttentionSpec), {"block_size": SIZE, "sink_len": 8, **HEADS}),
    "MambaSpec": lambda: (of_spec(MambaSpec), MAMBA),
    "UniformTypeKVCacheSpecs": lambda: (
        of_spec(UniformTypeKVCacheSpecs),
        {"block_size": SIZE, "kv_cache_specs": {"a": full(SIZE)}},
    ),
    "copy_with_new_block_size": lambda: (full(SIZE).copy_with_new_block_size, {"block_size": 8}),
    "KVCacheGroupSpec": lambda: (
        manager_of,
        {"layer_names": ["a"], "kv_cache_spec": full(SIZE), "is_eagle_group": False},
    ),
    "HitRule": lambda: (
        lambda **fields: PrefixPlan((HitQuery(HitRule(**fields), (0,)),)),
        {"kind": FULL, "block_size": SIZE, "alignment": SIZE, "drop": False, "extent": 0},
    ),
    "HitQuery": lambda: (
        lambda **fields: PrefixPlan((HitQuery(**fields),)),
        {"rule": HitRule(FULL, SIZE, SIZE), "groups": (0,), "stride": 1},
    ),
    "PrefixPlan": lambda: (PrefixPlan, {"queries": (HitQuery(HitRule(FULL, SIZE, SIZE), (0,)),)}),
}
"""Name -> the call and its arguments, made anew each time."""

PARTS: dict[str, Callable[[], Case]] = {
    "KVCacheConfig": lambda: (
        lambda **fields: KVCacheManager(KVCacheConfig(**fields), 40, hash_block_size=SIZE, scheduler_block_size=SIZE),
        {"num_blocks": NUM_BLOCKS, "kv_cache_tensors": [], "kv_cache_groups": [KVCacheGroupSpec(["a"], full(SIZE))]},
    ),
    "KVCacheManager": lambda: (
        KVCacheManager,
        {
            "kv_cache_config": KVCacheConfig(NUM_BLOCKS, [], [KVCacheGroupSpec(["a"], full(SIZE))]),
            "max_model_len": 40,
            "scheduler_block_size": SIZE,
            "hash_block_size": SIZE,
            "max_num_batched_tokens": 64,
            "use_eagle": False,
            "log_stats": True,
            "dcp_world_size": 1,
            "pcp_world_size": 1,
            "counts_admissions": False,
            **SWITCHES,
        },
    ),
    "CacheHints": lambda: (CacheHints, {"priority": 3, "lifetime": 5.0, "tenant": "a"}),
    "HintLimits": lambda: (
        lambda **limits: make_manager(full(SIZE), max_model_len=40, hints=HintLimits(**limits)),
        {"shares": {"a": 0.1}, "max_pinned": 0.5, "trusts_clients": False, "clock": float},
    ),
    "BlockPool": lambda: (BlockPool, {"num_gpu_blocks": NUM_BLOCKS, "hash_block_size": SIZE, **SWITCHES}),
    "BatchManager": lambda: (
        BatchManager,
        {"manager": make_manager(full(SIZE)), "max_requests": 40, "max_hashes": 1000},
    ),
    "batch.match": lambda: in_batch("match"),
    "batch.extend": lambda: in_batch("extend"),
    "resolve_kv_cache_block_sizes": lambda: (
        lambda kv_cache_config, cache, parallel: resolve_kv_cache_block_sizes(
            kv_cache_config, SimpleNamespace(cache_config=cache, parallel_config=parallel)
        ),
        {
            "kv_cache_config": KVCacheConfig(10, [], [KVCacheGroupSpec(["a"], full(SIZE))]),
            "cache": SimpleNamespace(block_size=SIZE, enable_prefix_caching=True),
            "parallel": SimpleNamespace(decode_context_parallel_size=1, prefill_context_parallel_size=1),
        },
    ),
    "Request": lambda: (
        lambda prompt_token_ids: Request(
            "a", prompt_token_ids, block_hasher=get_request_block_hasher(SIZE, hashing.sha256)
        ),
        {"prompt_token_ids": [1, 2, 3, 4, 5]},
    ),
    "append_output_token_ids": lambda: (request().append_output_token_ids, {"token_ids": [1, 2]}),
    "get_request_block_hasher": lambda: (
        lambda block_size: get_request_block_hasher(block_size, hashing.sha256),
        {"block_size": SIZE},
    ),
    "get_hash_fn_by_name": lambda: (hashing.get_hash_fn_by_name, {"name": "sha256"}),
    "hash_block_tokens": lambda: (
        lambda parent_block_hash, curr_block_token_ids: hashing.hash_block_tokens(
            hashing.sha256, parent_block_hash, curr_block_token_ids
        ),
        {"parent_block_hash": bytes(32), "curr_block_token_ids": [1, 2]},
    ),
    "make_block_hash_with_group_id": lambda: (
        map_keys.make_block_hash_with_group_id,
        {"block_hash": bytes(32), "group_id": 0},
    ),
    "get_block_hash": lambda: (map_keys.get_block_hash, {"key": bytes(36)}),
    "get_group_id": lambda: (map_keys.get_group_id, {"key": bytes(36)}),
    "Kvgpu128": lambda: (Kvgpu128, {"key": bytes(32)}),
    "TokenIds": lambda: (TokenIds, {"tokens": [1, 2, 3]}),
    "TokenIds.append": lambda: (lambda token: TokenIds([1, 2]).append(token), {"token": 1}),
    "TokenIds.extend": lambda: (lambda tokens: TokenIds([1, 2]).extend(tokens), {"tokens": [1]}),
    "KVCacheMetricsCollector": lambda: (KVCacheMetricsCollector, {"sample_rate": 0.5}),
    "PrefixCacheStats.record": lambda: (
        PrefixCacheStats().record,
        {"num_tokens": 3, "num_hits": 1, "preempted": False, "requests": 1},
    ),
    "CachingMetrics": lambda: (CachingMetrics, {"max_recent_requests": 3}),
    "CachingMetrics.observe": lambda: (CachingMetrics().observe, {"stats": PrefixCacheStats()}),
}

BLOCKS: dict[str, Callable[[], Case]] = {
    "KVCacheBlocks.get_block_ids": lambda: (
        lambda blocks, allow_none: KVCacheBlocks(blocks).get_block_ids(allow_none),
        {"blocks": (pool().blocks[1:3],), "allow_none": True},
    ),
    "KVCacheBlocks.get_unhashed_block_ids": lambda: (
        lambda blocks: KVCacheBlocks(blocks).get_unhashed_block_ids(),
        {"blocks": (pool().blocks[1:3],)},
    ),
    "KVCacheBlocks.__add__": lambda: (
        lambda blocks: KVCacheBlocks(([],)) + KVCacheBlocks(blocks),
        {"blocks": (pool().blocks[1:3],)},
    ),
    "FreeKVCacheBlockQueue": lambda: (
        lambda blocks: FreeKVCacheBlockQueue(blocks).popleft_n(1),
        {"blocks": [KVCacheBlock(1), KVCacheBlock(2)]},
    ),
    "KVCacheBlock": lambda: (KVCacheBlock, {"block_id": 3, "ref_cnt": 1}),
    "block.ref_cnt": lambda: setting(pool().blocks[3], "ref_cnt", 1),
    "block.is_null": lambda: setting(KVCacheBlock(3), "is_null", False),
    "block.block_hash": lambda: setting(pool().blocks[3], "block_hash", bytes(36)),
    "map.get_one_block": lambda: with_map("get_one_block"),
    "map.insert": lambda: with_map("insert", block=KVCacheBlock(3)),
    "map.pop": lambda: with_map("pop", block_id=1),
    "map._cache": lambda: (
        lambda key, value: cached()[0]._cache.__setitem__(key, value),
        {"key": bytes(36), "value": KVCacheBlock(3)},
    ),
}
