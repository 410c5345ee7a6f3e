"""kvgpu and vLLM 0.23.0 behind one face, for benchmarks that run both in one process.

Where vLLM is not installed its place is taken by kvgpu's own reference, a plain dict, which answers are compared
with and which is not timed.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

from harness import benchmark_options

BLOCK = 16
WINDOW = 1024


class Side:
    """One implementation: makes managers and requests of its own kind."""

    name: str
    timed = True
    """Whether it is a rival; else it only says what is right."""

    def __init__(self, hash_name: str) -> None:
        self.modules = self._modules()
        self.options: dict[str, Any] = {}
        self.hash_fn = self.modules.get_hash_fn_by_name(hash_name)
        self.modules.init_none_hash(self.hash_fn)
        self.hasher = self.modules.get_request_block_hasher(BLOCK, self.hash_fn)

    def _modules(self) -> SimpleNamespace:
        raise NotImplementedError

    def request(self, request_id: str, tokens: list[int]) -> Any:
        """A request with the hashes of its full blocks."""
        raise NotImplementedError

    def manager(self, case: str, num_blocks: int, max_model_len: int = 262_144) -> Any:
        """A manager with one full group, or with two sliding windows beside it (`hybrid`)."""
        made = self.modules
        common = {"block_size": BLOCK, "num_kv_heads": 1, "head_size": 1, "dtype": made.dtype}
        specs = [made.FullAttentionSpec(**common)]
        if case == "hybrid":
            specs += [made.SlidingWindowSpec(**common, sliding_window=WINDOW) for _ in range(2)]
        groups = [made.KVCacheGroupSpec([f"layer{i}"], spec) for i, spec in enumerate(specs)]
        return made.KVCacheManager(
            made.KVCacheConfig(num_blocks, [], groups),
            max_model_len=max_model_len,
            scheduler_block_size=BLOCK,
            enable_caching=True,
            hash_block_size=BLOCK,
            log_stats=True,
            **self.options,
        )


class Kvgpu(Side):
    """This project."""

    name = "kvgpu"

    def _modules(self) -> SimpleNamespace:
        import kvgpu

        return SimpleNamespace(**{name: getattr(kvgpu, name) for name in kvgpu.__all__}, dtype="float32")

    def request(self, request_id: str, tokens: list[int]) -> Any:
        return self.modules.Request(request_id, tokens, block_hasher=self.hasher)


class Reference(Kvgpu):
    """This project's reference, in place of a rival."""

    name = ""
    timed = False

    def __init__(self, hash_name: str) -> None:
        super().__init__(hash_name)
        self.options = {"backend": "reference"}


class Vllm(Side):
    """vLLM 0.23.0, which must be importable."""

    name = "vllm 0.23.0"

    def _modules(self) -> SimpleNamespace:
        import torch
        import vllm
        from vllm.sampling_params import SamplingParams
        from vllm.utils.hashing import get_hash_fn_by_name
        from vllm.v1.core import kv_cache_manager, kv_cache_utils
        from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec, SlidingWindowSpec

        if not vllm.__version__.startswith("0.23.0"):
            raise SystemExit(f"vLLM 0.23.0 is the peer, this is {vllm.__version__}")
        logging.disable(logging.WARNING)
        return SimpleNamespace(
            KVCacheManager=kv_cache_manager.KVCacheManager,
            Request=kv_cache_manager.Request,
            SamplingParams=SamplingParams,
            get_hash_fn_by_name=get_hash_fn_by_name,
            get_request_block_hasher=kv_cache_utils.get_request_block_hasher,
            init_none_hash=kv_cache_utils.init_none_hash,
            FullAttentionSpec=FullAttentionSpec,
            SlidingWindowSpec=SlidingWindowSpec,
            KVCacheConfig=KVCacheConfig,
            KVCacheGroupSpec=KVCacheGroupSpec,
            dtype=torch.float32,
        )

    def request(self, request_id: str, tokens: list[int]) -> Any:
        params = self.modules.SamplingParams(max_tokens=17)
        params.update_from_generation_config({}, eos_token_id=100)
        return self.modules.Request(
            request_id=request_id,
            prompt_token_ids=tokens,
            mm_features=None,
            sampling_params=params,
            pooling_params=None,
            lora_request=None,
            cache_salt=None,
            block_hasher=self.hasher,
        )


def two_sides(hash_name: str, with_peers: bool) -> list[Side]:
    """kvgpu, and vLLM, or the reference where vLLM cannot be imported.

    Raises:
        ImportError: It cannot, although it was asked for.
    """
    try:
        return [Kvgpu(hash_name), Vllm(hash_name)]
    except ImportError as error:
        if with_peers:
            raise
        print(f"without vLLM 0.23.0, whose columns stay empty: {error}", file=sys.stderr)
        return [Kvgpu(hash_name), Reference(hash_name)]


def make_requests(side: Side, prompts: Sequence[list[int]], prefix: str = "") -> list[Any]:
    """Requests for prompts; ids are `prefix` and the position."""
    return [side.request(f"{prefix}{i}", tokens) for i, tokens in enumerate(prompts)]


class Workload(NamedTuple):
    """Prompts, and what they are called."""

    name: str
    prompts: list[list[int]]

    def __str__(self) -> str:
        return f"{self.name}, {len(self.prompts):,} requests"


def workload(path: Path | None, count: int) -> Workload:
    """The first `count` prompts of a trace, or of the embedded workload."""
    from kvgpu.replay.traces.tokens import prompt_tokens
    from kvgpu.replay.traces.trace import read_trace
    from kvgpu.replay.traces.workload import conversations

    trace = (conversations() if path is None else read_trace(path)).head(count)
    return Workload(trace.name, [prompt_tokens(trace, i).tolist() for i in range(len(trace))])


def trace_options(doc: str | None, rounds: int | None = None, peers: bool = True) -> argparse.ArgumentParser:
    """The options of every benchmark of a trace."""
    parser = benchmark_options(doc, rounds)
    parser.add_argument("trace", type=Path, nargs="?", help="the embedded workload if left out")
    parser.add_argument("--requests", type=int, default=1000, help="of the trace")
    if peers:
        parser.add_argument("--peers", action="store_true", help="fail where a peer is not installed")
    return parser
