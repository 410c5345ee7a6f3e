"""Models that batches are tested with, and random requests for them in pairs of equals."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from support.managers import HEADS, chunked, full, make_manager, make_request, mamba, window

from kvgpu.config.specs import SinkFullAttentionSpec
from kvgpu.hashing import functions as hashing
from kvgpu.manager import KVCacheManager
from kvgpu.metrics import KVCacheMetricsCollector
from kvgpu.request import Request

RETENTION = "VLLM_PREFIX_CACHE_RETENTION_INTERVAL"
MAX_MODEL_LEN = 200


@dataclass
class Model:
    """Cache groups, options of their manager, and which requests it gets."""

    specs: tuple[Any, ...]
    options: dict[str, Any] = field(default_factory=dict)
    retention: str | None = None
    """Value of the environment variable; None leaves it unset."""
    hash_fn: hashing.HashFunction = hashing.sha256
    foreign: float = 0.0
    """Share of requests that are no `kvgpu.Request`."""
    odd_neighbours: bool = False
    """Whether requests beside the batch have hashes of another width."""
    metrics: bool = False

    def manager(self, num_blocks: int, backend: str) -> KVCacheManager:
        """One of two equal managers."""
        options = {"max_model_len": MAX_MODEL_LEN, "log_stats": True, **self.options}
        if self.metrics:
            options["metrics_collector"] = KVCacheMetricsCollector(sample_rate=1.0)
        return make_manager(*self.specs, num_blocks=num_blocks, backend=backend, **options)


WINDOWS = (full(4), window(4, 9), window(4, 14))
EVENTS = {"enable_kv_cache_events": True}
LATER = {"behaviour": "0.33"}

MODELS = {
    "full": Model((full(4),)),
    "full_eagle": Model((full(4),), {"use_eagle": True}),
    "full_foreign": Model((full(4),), foreign=0.5),
    "full_16_bytes": Model((full(4),), hash_fn=hashing.xxhash),
    "full_metrics": Model((full(4),), metrics=True),
    "full_ranks": Model((full(4),), {"dcp_world_size": 2, "hash_block_size": 8, "scheduler_block_size": 8}),
    "sink": Model((SinkFullAttentionSpec(4, **HEADS, sink_len=8),)),
    "no_caching": Model((full(4),), {"enable_caching": False}),
    "no_caching_window": Model((full(4), window(4, 9)), {"enable_caching": False}),
    "short": Model((full(4), window(4, 9)), {"max_model_len": 30}),
    "windows": Model(WINDOWS),
    "windows_eagle": Model(WINDOWS, {"use_eagle": True}),
    "windows_one_eagle": Model((full(4), window(4, 9)), {"eagle_groups": [1]}),
    "windows_foreign": Model((full(4), window(4, 9)), foreign=1.0),
    "windows_capped": Model((full(4), window(4, 9)), {"max_num_batched_tokens": 8}),
    "windows_odd_neighbours": Model((full(4), window(4, 9)), odd_neighbours=True),
    "window_events": Model((full(4), window(4, 9)), EVENTS),
    "window_first": Model((window(4, 9), full(4))),
    "window_first_events": Model((window(4, 9), full(4)), EVENTS),
    "window": Model((window(4, 10),)),
    "window_of_one": Model((window(4, 1),)),
    "window_retention": Model((window(4, 6),), retention="16"),
    "windows_retention": Model((full(4), window(4, 5)), retention="16"),
    "windows_retention_eagle": Model((full(4), window(4, 5)), {"use_eagle": True}, retention="24"),
    "windows_prompt_ends": Model((full(4), window(4, 9)), retention="0"),
    "windows_prompt_ends_foreign": Model((full(4), window(4, 9)), retention="0", foreign=0.5),
    "windows_aligned": Model((full(4), window(4, 6)), {"scheduler_block_size": 12, "hash_block_size": 4}),
    "windows_aligned_eagle": Model(
        (full(4), window(4, 6)), {"scheduler_block_size": 12, "hash_block_size": 4, "use_eagle": True}
    ),
    "chunked": Model((chunked(4, 12),)),
    "chunked_odd": Model((chunked(4, 10),)),
    "full_chunked": Model((full(4), chunked(4, 8))),
    "uneven": Model((full(8), window(4, 8))),
    "uneven_events": Model((full(8), window(4, 8)), EVENTS),
    "mamba_align": Model((mamba(4, "align", spare=1),)),
    "mamba_align_hybrid": Model((full(4), mamba(4, "align", spare=1))),
    "mamba_all": Model((full(4), mamba(8, "all"))),
    "later_full": Model((full(4),), LATER),
    "later_full_eagle": Model((full(4),), {**LATER, "use_eagle": True}),
    "later_no_caching": Model((full(4), window(4, 9)), {**LATER, "enable_caching": False}),
    "later_windows": Model(WINDOWS, LATER),
    "later_windows_eagle": Model(WINDOWS, {**LATER, "use_eagle": True}),
    "later_windows_prompt_ends": Model((full(4), window(4, 9)), {**LATER, "retention": 0}),
    "later_windows_retention_eagle": Model((full(4), window(4, 5)), {**LATER, "use_eagle": True, "retention": 24}),
    "later_windows_foreign": Model((full(4), window(4, 9)), {**LATER, "retention": 0}, foreign=0.5),
    "later_window_events": Model((full(4), window(4, 9)), {**LATER, **EVENTS, "retention": 0}),
    "later_uneven": Model((full(8), window(4, 8)), {**LATER, "retention": 0}),
    "later_parts": Model((full(8), mamba(8, "align", spare=1)), {**LATER, "retention": 0, "hash_block_size": 4}),
    "later_states": Model((full(4), mamba(4, "align", spare=1)), {**LATER, "retention": 0}),
}


class ForeignRequest:
    """A request of another engine: its hashes are a list of bytes, and little else is known."""

    def __init__(self, twin: Request) -> None:
        self._own = twin
        self.request_id = twin.request_id
        self.skip_reading_prefix_cache = twin.skip_reading_prefix_cache
        self.num_computed_tokens = 0
        self.num_preemptions = 0

    @property
    def num_tokens(self) -> int:
        return self._own.num_tokens

    @property
    def all_token_ids(self) -> list[int]:
        return self._own.all_token_ids

    @property
    def block_hashes(self) -> list[bytes]:
        return list(self._own.block_hashes)

    def append_output_token_ids(self, token_ids: Any) -> None:
        self._own.append_output_token_ids(token_ids)


class Prompts:
    """Random prompts of one model: parts of few documents, with short tails.

    Args:
        model: Whose requests they are for.
        hash_block_size: Tokens per hash.
        rng: Where chance comes from.
    """

    def __init__(self, model: Model, hash_block_size: int, rng: np.random.Generator) -> None:
        self._model, self._size, self._rng = model, hash_block_size, rng
        self._documents = [rng.integers(0, 9, 60).tolist() for _ in range(2)]
        self._last = [1]
        self._made = 0

    def pair(self, odd: bool = False) -> tuple[Any, Any]:
        """Two equal requests; `odd` ones have hashes that are not of the model's width."""
        rng = self._rng
        if rng.random() < 0.7:
            document = self._documents[int(rng.integers(2))]
            tail = rng.integers(0, 2, int(rng.integers(0, 10))).tolist()
            self._last = [*document[: int(rng.integers(0, 60))], *tail] or [3]
        hash_fn = hashing.xxhash if odd else self._model.hash_fn
        foreign, skips = rng.random() < self._model.foreign, bool(rng.random() < 0.1)
        self._made += 1
        pair = []
        for _ in range(2):
            request: Any = make_request(f"r{self._made}", self._last, self._size, hash_fn)
            request.skip_reading_prefix_cache = skips
            pair.append(ForeignRequest(request) if foreign else request)
        return pair[0], pair[1]
