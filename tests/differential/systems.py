"""The two systems behind one face: the same calls, and all state as comparable plain data."""

import os
from types import ModuleType, SimpleNamespace
from typing import Any

from configs import Config

from kvgpu.config.behaviour import Behaviour

RETENTION = "VLLM_PREFIX_CACHE_RETENTION_INTERVAL"
SEED = "PYTHONHASHSEED"


class System:
    """One implementation: its modules, a manager, and requests by id."""

    def __init__(self, modules: dict[str, ModuleType], config: Config) -> None:
        self.modules = modules
        interface, hashing = modules["specs"], modules["hashing"]
        self.hash_fn = hashing.get_hash_fn_by_name(config.hash_name)
        os.environ[SEED] = "0"
        modules["none_hash"].init_none_hash(self.hash_fn)
        os.environ.pop(RETENTION, None)
        if config.retention is not None:
            os.environ[RETENTION] = str(config.retention)
        groups = []
        for place, group in enumerate(config.groups):
            kwargs = dict(group.kwargs)
            if group.spec == "MambaSpec":
                kwargs["dtypes"] = (modules["dtype"],)
            else:
                kwargs["dtype"] = modules["dtype"]
            spec = getattr(interface, group.spec)(**kwargs)
            groups.append(interface.KVCacheGroupSpec([f"layer{place}"], spec, group.eagle))
        made = interface.KVCacheConfig(config.num_blocks, [], groups, **config.fields)
        collector = modules["metrics"].KVCacheMetricsCollector
        self.collector = None if config.sample_rate is None else collector(config.sample_rate)
        self.manager = modules["manager"].KVCacheManager(
            made,
            max_model_len=config.max_model_len,
            scheduler_block_size=config.scheduler_block_size,
            hash_block_size=config.hash_block_size,
            metrics_collector=self.collector,
            **config.options,
            **modules["options"],
        )
        os.environ.pop(RETENTION, None)
        lookahead = config.options.get("num_hash_lookahead_tokens")
        self.hasher = modules["hasher"].get_request_block_hasher(
            config.hash_block_size, self.hash_fn, *([] if lookahead is None else [lookahead]), **modules["options"]
        )
        self.requests: dict[str, Any] = {}

    def create(self, request_id: str, tokens: list[int], extra: dict[str, Any]) -> None:
        inputs = self.modules["inputs"]
        features = [
            inputs.MultiModalFeatureSpec(
                data=None, modality="image", identifier=name, mm_position=inputs.PlaceholderRange(offset, length)
            )
            for name, offset, length in extra.get("items", [])
        ]
        lora = extra.get("lora")
        params = self.modules["params"].SamplingParams(max_tokens=9, prompt_logprobs=extra.get("logprobs"))
        self.requests[request_id] = self.modules["request"].Request(
            request_id=request_id,
            prompt_token_ids=list(tokens),
            sampling_params=params,
            pooling_params=None,
            mm_features=features or None,
            lora_request=self.modules["lora"].LoRARequest(lora, 7, "/x") if lora else None,
            cache_salt=extra.get("salt"),
            block_hasher=self.hasher,
        )

    def call(self, name: str, request_id: str | None, *args: Any, **kwargs: Any) -> Any:
        """Call a method of the manager; requests are named by id, results are plain data."""
        if request_id is not None:
            args = (self.requests[request_id], *args)
        return getattr(self.manager, name)(*args, **kwargs)

    def state(self) -> dict[str, Any]:
        """All that is to be equal, as plain data."""
        pool = self.manager.block_pool
        blocks = list(pool.blocks)
        managers = self.manager.coordinator.single_type_managers
        cache = pool.cached_block_hash_to_block._cache
        return {
            # The count of the null block has no meaning (fact 11).
            "ref_cnt": [b.ref_cnt for b in blocks if not b.is_null],
            "hashes": [b.block_hash for b in blocks],
            "free": [b.block_id for b in pool.free_block_queue.get_all_free_blocks()],
            "map": {key: list(entry) if isinstance(entry, dict) else entry.block_id for key, entry in cache.items()},
            # Empty tables come and go by accident of defaultdict.
            "tables": [
                {r: [b.block_id for b in blocks] for r, blocks in m.req_to_blocks.items() if blocks} for m in managers
            ],
            "num_cached": [dict(m.num_cached_block) for m in managers],
            "aliases": {b: set(keys) for b, keys in getattr(pool, "cached_block_hashes_by_block", {}).items()},
            "keeps junctions": getattr(self.manager, "mamba_shared_prefix_checkpoint", False),
            "usage": self.manager.usage,
            "residency": None
            if self.collector is None
            else (
                {i: len(s.access_history) for i, s in self.collector.block_metrics.items()},
                len(self.collector.drain_events()),
            ),
        }


def plain(result: Any) -> Any:
    """KVCacheBlocks, events and statistics as data that compares across systems."""
    if hasattr(result, "get_block_ids"):
        return "blocks", result.get_block_ids(), result.get_block_ids(allow_none=True)
    if isinstance(result, tuple):
        return tuple(plain(part) for part in result)
    if hasattr(result, "preempted_hits"):
        # By source only connectors count, which have statistics of their own.
        return "stats", sorted((name, value) for name, value in vars(result).items() if name != "hits_by_source")
    if isinstance(result, list) and result and hasattr(result[0], "block_id"):
        return "blocks", [block.block_id for block in result]
    if isinstance(result, list) and result and hasattr(result[0], "__struct_fields__"):
        import msgspec

        return [msgspec.msgpack.encode(event) for event in result]
    return result


def kvgpu_modules(dtype: Any, behaviour: str | Behaviour) -> dict[str, Any]:
    """kvgpu, with data-only stand-ins for the inputs."""
    import stubs

    import kvgpu.config.kv_cache_config
    import kvgpu.config.specs
    import kvgpu.hashing.functions
    import kvgpu.hashing.request_hasher
    import kvgpu.manager
    import kvgpu.metrics
    import kvgpu.request

    return {
        "manager": kvgpu.manager,
        "metrics": kvgpu.metrics,
        "specs": SimpleNamespace(**vars(kvgpu.config.specs) | vars(kvgpu.config.kv_cache_config)),
        "options": {"behaviour": behaviour},
        "hashing": kvgpu.hashing.functions,
        "none_hash": kvgpu.hashing.functions,
        "hasher": kvgpu.hashing.request_hasher,
        "request": kvgpu.request,
        "inputs": stubs,
        "params": stubs,
        "lora": stubs,
        "dtype": dtype,
    }


def vllm_modules(dtype: Any) -> dict[str, Any]:
    """The real vLLM."""
    import vllm.lora.request
    import vllm.multimodal.inputs
    import vllm.sampling_params
    import vllm.utils.hashing
    import vllm.v1.core.kv_cache_manager
    import vllm.v1.core.kv_cache_metrics
    import vllm.v1.core.kv_cache_utils
    import vllm.v1.kv_cache_interface
    import vllm.v1.request

    return {
        "manager": vllm.v1.core.kv_cache_manager,
        "metrics": vllm.v1.core.kv_cache_metrics,
        "specs": vllm.v1.kv_cache_interface,
        "options": {},
        "hashing": vllm.utils.hashing,
        "none_hash": vllm.v1.core.kv_cache_utils,
        "hasher": vllm.v1.core.kv_cache_utils,
        "request": vllm.v1.request,
        "inputs": vllm.multimodal.inputs,
        "params": vllm.sampling_params,
        "lora": vllm.lora.request,
        "dtype": dtype,
    }
