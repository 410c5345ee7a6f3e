"""The manager of the installed vLLM, 0.23 or 0.33, and its requests, for a replay that kvgpu's scheduler drives."""

import logging
import os
from typing import Any

import numpy as np

from kvgpu.config.specs import KVCacheSpec, MambaSpec
from kvgpu.replay.requests import RequestFactory, Sequence
from kvgpu.replay.result import ReplayResult
from kvgpu.replay.run import Replayer

RETENTION = "VLLM_PREFIX_CACHE_RETENTION_INTERVAL"


class VllmRequests(RequestFactory):
    """Makes requests of vLLM, which vLLM's own hasher hashes."""

    def __init__(self, replayer: Replayer) -> None:
        from vllm.utils.hashing import get_hash_fn_by_name
        from vllm.v1.core import kv_cache_utils

        decode = replayer.options.limits.decode
        super().__init__(replayer.trace, replayer.hasher, decode, keep_hashes=False)
        hash_fn = get_hash_fn_by_name(replayer.options.hash_name)
        kv_cache_utils.init_none_hash(hash_fn)
        self._hasher = kv_cache_utils.get_request_block_hasher(replayer.hash_block_size, hash_fn)

    def make(self, index: int, prompt: np.ndarray) -> Sequence:
        """Make the request at `index` of the trace, with its hashes."""
        from vllm.sampling_params import SamplingParams
        from vllm.v1.request import Request

        num_outputs = self.output_length(index)
        request = Request(
            request_id=str(index),
            prompt_token_ids=prompt.tolist(),
            sampling_params=SamplingParams(max_tokens=max(num_outputs, 1), ignore_eos=True),
            pooling_params=None,
            block_hasher=self._hasher,
        )
        return Sequence(index, request, num_outputs)


class VllmManagers:
    """Makes vLLM's managers, and replays traces with them.

    Attributes:
        name: vLLM and its version.
        behaviour: What kvgpu calls the behaviour of this version.

    Raises:
        ImportError: vLLM is missing, or is a version that kvgpu does not behave like.
    """

    def __init__(self) -> None:
        import vllm

        from kvgpu.vllm.capabilities import behaviour_of_vllm

        behaviour = behaviour_of_vllm()
        if behaviour is None:
            raise ImportError(f"kvgpu does not behave like vLLM {vllm.__version__}")
        logging.disable(logging.WARNING)
        self.name = f"vllm {vllm.__version__}"
        self.behaviour = behaviour

    def manager(self, replayer: Replayer, num_blocks: int) -> Any:
        """vLLM's manager of the groups, sizes and retention of a replay."""
        from vllm.v1.core.kv_cache_manager import KVCacheManager
        from vllm.v1.core.single_type_kv_cache_manager import register_all_kvcache_specs
        from vllm.v1.kv_cache_interface import KVCacheConfig, KVCacheGroupSpec

        register_all_kvcache_specs(None)
        ours = replayer.options.config(num_blocks)
        groups = [
            KVCacheGroupSpec(group.layer_names, self._spec(group.kv_cache_spec)) for group in ours.kv_cache_groups
        ]
        most = replayer.options.limits.max_batched_tokens
        if self.behaviour.keeps_boundaries:
            config = KVCacheConfig(
                num_blocks, [], groups, prefix_cache_retention_interval=ours.prefix_cache_retention_interval
            )
            options = {"max_in_flight_tokens": most}
        else:
            config, options = KVCacheConfig(num_blocks, [], groups), {"max_num_batched_tokens": most}
        return KVCacheManager(config, **replayer.manager_sizes(), **options, enable_caching=True, log_stats=True)

    def _spec(self, spec: KVCacheSpec) -> Any:
        """vLLM's spec of the same name."""
        import torch
        from vllm.v1 import kv_cache_interface

        kind = getattr(kv_cache_interface, type(spec).__name__)
        if isinstance(spec, MambaSpec):
            states = {"shapes": spec.shapes, "dtypes": (torch.float32,), "mamba_cache_mode": spec.mamba_cache_mode}
            return kind(block_size=spec.block_size, **states)
        extents = ("sliding_window", "attention_chunk_size")
        extent = {name: value for name in extents if (value := getattr(spec, name, None)) is not None}
        return kind(block_size=spec.block_size, num_kv_heads=1, head_size=1, dtype=torch.float32, **extent)

    def run(self, replayer: Replayer, num_blocks: int, advance: Any) -> ReplayResult:
        """Replay once with vLLM's manager and requests.

        Raises:
            AssertionError: The replay counted other hits than vLLM itself, which counts admissions since 0.27.
        """
        if RETENTION in os.environ:
            raise AssertionError(f"{RETENTION} is set")
        manager = self.manager(replayer, num_blocks)
        result = ReplayResult(num_blocks, backend=self.name, behaviour=self.behaviour.version)
        replayer.serve(manager, VllmRequests(replayer), result, advance)
        counted = manager.make_prefix_cache_stats()
        if not self.behaviour.counts_lookups and (counted.queries, counted.hits) != (
            result.prompt_tokens,
            result.hit_tokens,
        ):
            raise AssertionError(f"vLLM counted {counted}, the replay {result.prompt_tokens}, {result.hit_tokens}")
        return result
