"""Real schedulers of vLLM without a GPU and without weights, and requests for them."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from types import SimpleNamespace
from typing import Any

import torch
import vllm.platforms
from vllm.config import CacheConfig, DeviceConfig, ModelConfig, SchedulerConfig, VllmConfig
from vllm.platforms.cpu import CpuPlatform
from vllm.sampling_params import SamplingParams
from vllm.utils.hashing import sha256
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.core.single_type_kv_cache_manager import register_all_kvcache_specs
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec, SlidingWindowSpec
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request

vllm.platforms.current_platform = CpuPlatform()

SIZE = 16
HEADS: dict[str, Any] = {"num_kv_heads": 1, "head_size": 1, "dtype": torch.float32}
MODEL = {
    "architectures": ["OPTForCausalLM"],
    "model_type": "opt",
    "hidden_size": 64,
    "ffn_dim": 64,
    "num_attention_heads": 1,
    "num_hidden_layers": 1,
    "word_embed_proj_dim": 64,
    "max_position_embeddings": 2**20,
    "vocab_size": 50_000,
    "torch_dtype": "float16",
}


def full(size: int = SIZE) -> FullAttentionSpec:
    return FullAttentionSpec(block_size=size, **HEADS)


def window(size: int = SIZE, tokens: int = 64) -> SlidingWindowSpec:
    return SlidingWindowSpec(block_size=size, sliding_window=tokens, **HEADS)


def config_of(*specs: Any, num_blocks: int = 200) -> KVCacheConfig:
    """A cache configuration of vLLM with a group for each spec."""
    register_all_kvcache_specs(None)
    groups = [KVCacheGroupSpec([f"layer{place}"], spec) for place, spec in enumerate(specs)]
    return KVCacheConfig(num_blocks, [], groups)


@dataclass
class Options:
    """What differs between schedulers."""

    specs: tuple[Any, ...] = (full(),)
    num_blocks: int = 200
    is_async: bool = False
    most_running: int = 16
    budget: int = 256
    longest: int = 1000
    scheduler: Any = None
    """A class; None for vLLM's own."""
    prepare: Callable[[VllmConfig], None] = lambda config: None
    """Changes the configuration of the engine."""


_model: list[ModelConfig] = []


def _model_config() -> ModelConfig:
    """A model that exists as a configuration only; made once, since vLLM takes a second for it."""
    if not _model:
        folder = Path(mkdtemp())
        (folder / "config.json").write_text(json.dumps(MODEL))
        _model.append(ModelConfig(model=str(folder), dtype="float16", seed=42, skip_tokenizer_init=True))
    return _model[0]


def make_scheduler(options: Options) -> Any:
    """A scheduler of vLLM, with whatever manager its module makes now."""
    config = VllmConfig(
        model_config=_model_config(),
        device_config=DeviceConfig("cpu"),
        scheduler_config=SchedulerConfig(
            max_num_seqs=options.most_running,
            max_num_batched_tokens=options.budget,
            max_model_len=options.longest,
            enable_chunked_prefill=True,
            is_encoder_decoder=False,
        ),
        cache_config=CacheConfig(block_size=SIZE, enable_prefix_caching=True),
    )
    config.model_config.max_model_len = options.longest
    config.cache_config.num_gpu_blocks = options.num_blocks
    config.scheduler_config.async_scheduling = options.is_async
    options.prepare(config)
    return (options.scheduler or (AsyncScheduler if options.is_async else Scheduler))(
        vllm_config=config,
        kv_cache_config=config_of(*options.specs, num_blocks=options.num_blocks),
        structured_output_manager=SimpleNamespace(
            should_advance=lambda request: False,
            # vLLM since 0.24 asks of every request.
            accept_tokens=lambda request, tokens: True,
        ),
        block_size=SIZE,
        hash_block_size=SIZE,
        log_stats=True,
    )


def hasher_of_vllm(hash_fn: Any = sha256, size: int = SIZE) -> Any:
    init_none_hash(hash_fn)
    return get_request_block_hasher(size, hash_fn)


def make_request(name: str, prompt: list[int], hasher: Any = None, max_tokens: int = 20, **attributes: Any) -> Request:
    params = SamplingParams(max_tokens=max_tokens, ignore_eos=True)
    params.update_from_generation_config({}, 7)
    return Request(
        request_id=name,
        prompt_token_ids=prompt,
        sampling_params=params,
        pooling_params=None,
        arrival_time=1.0,
        block_hasher=hasher or hasher_of_vllm(),
        **attributes,
    )


def output_of(scheduler: Any, scheduled: Any, step: int) -> ModelRunnerOutput:
    """What a model would answer to a step: a token for each request whose last known token was computed in it."""
    cached = scheduled.scheduled_cached_reqs
    counts = {new.req_id: (new.num_computed_tokens, 0) for new in scheduled.scheduled_new_reqs}
    counts.update(
        zip(cached.req_ids, zip(cached.num_computed_tokens, cached.num_output_tokens, strict=True), strict=True)
    )
    tokens: list[list[int]] = []
    for place, (name, num_scheduled) in enumerate(scheduled.num_scheduled_tokens.items()):
        # A request that has ended since then is not there any more; its token is not looked at.
        request = scheduler.requests.get(name)
        num_computed, num_outputs = counts[name]
        is_last = request is None or num_computed + num_scheduled >= request.num_prompt_tokens + num_outputs
        tokens.append([(step * 31 + place) % 1000] if is_last else [])
    names = list(scheduled.num_scheduled_tokens)
    return ModelRunnerOutput(
        req_ids=names,
        req_id_to_index={name: place for place, name in enumerate(names)},
        sampled_token_ids=tokens,
        logprobs=None,
        prompt_logprobs_dict={},
        pooler_output=None,
        # As the runner of a GPU does where they are not counted.
        num_nans_in_logits={},
    )


def scheduled_plainly(output: Any) -> dict[str, Any]:
    """What a step tells the workers, as data to compare."""
    told = {name: value for name, value in vars(output).items() if not name.endswith("connector_metadata")}
    told["num_scheduled_tokens"] = list(output.num_scheduled_tokens.items())
    told["scheduled_cached_reqs"] = dict(vars(output.scheduled_cached_reqs))
    told["scheduled_new_reqs"] = [
        (new.req_id, new.block_ids, new.num_computed_tokens) for new in output.scheduled_new_reqs
    ]
    return told
