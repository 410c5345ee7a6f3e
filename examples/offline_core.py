"""An engine core of vLLM without a GPU, weights or a download: everything but the model is vLLM's own."""

import argparse
import json
from pathlib import Path
from tempfile import TemporaryDirectory

import vllm.platforms
from stand_in import BLOCK_SIZE, VOCABULARY, StandIn
from vllm.config import CacheConfig, DeviceConfig, ModelConfig, ParallelConfig, SchedulerConfig, VllmConfig
from vllm.platforms.cpu import CpuPlatform
from vllm.sampling_params import SamplingParams
from vllm.v1.engine import EngineCoreRequest
from vllm.v1.engine.core import EngineCore

MAX_MODEL_LEN = 512
MODEL = {
    "architectures": ["OPTForCausalLM"],
    "model_type": "opt",
    "hidden_size": 64,
    "ffn_dim": 64,
    "num_attention_heads": 1,
    "num_hidden_layers": 1,
    "word_embed_proj_dim": 64,
    "max_position_embeddings": MAX_MODEL_LEN,
    "vocab_size": VOCABULARY,
    "torch_dtype": "float16",
}
"""A model that exists as a configuration only."""


def make_core(options: argparse.Namespace, scheduler: str | None, plants: bool) -> EngineCore:
    """An engine core with the stand-in in place of a model.

    Args:
        options: Those of vllm_cpu.py.
        scheduler: The name of a class; None for vLLM's own.
        plants: Whether the stand-in gets a block table wrong.
    """
    # vLLM's source alone was built for no platform, and finds none.
    vllm.platforms.current_platform = CpuPlatform()
    with TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(MODEL))
        model = ModelConfig(model=folder, dtype="float16", max_model_len=MAX_MODEL_LEN, skip_tokenizer_init=True)
    config = VllmConfig(
        model_config=model,
        device_config=DeviceConfig("cpu"),
        parallel_config=ParallelConfig(distributed_executor_backend=StandIn),
        scheduler_config=SchedulerConfig(
            max_num_seqs=options.running,
            max_num_batched_tokens=options.budget,
            max_model_len=MAX_MODEL_LEN,
            enable_chunked_prefill=True,
            is_encoder_decoder=False,
            scheduler_cls=scheduler,
            disable_hybrid_kv_cache_manager=False,
        ),
        cache_config=CacheConfig(
            block_size=BLOCK_SIZE, enable_prefix_caching=True, num_gpu_blocks_override=options.blocks
        ),
        additional_config={"window": options.window, "plant": plants},
    )
    # vLLM turns it off for any CPU, since its worker for CPUs gains nothing by it.
    config.scheduler_config.async_scheduling = options.is_async
    return EngineCore(config, StandIn, log_stats=True)


def add_request(core: EngineCore, name: str, prompt: list[int], most: int, stop_token_ids: list[int]) -> None:
    """Add a request as the process of an engine core does when a client sends one. O(tokens)."""
    params = SamplingParams(max_tokens=most, ignore_eos=True, stop_token_ids=stop_token_ids)
    request = EngineCoreRequest(
        request_id=name,
        prompt_token_ids=prompt,
        mm_features=None,
        sampling_params=params,
        pooling_params=None,
        arrival_time=0.0,
        lora_request=None,
        cache_salt=None,
        data_parallel_rank=None,
    )
    core.add_request(*core.preprocess_add_request(request))
