"""`Scenario`: everything that is fixed in an episode, drawn from its seed and its number."""

import math
import random
from dataclasses import dataclass
from typing import Any

from in_vllm.engines import HEADS, full, window
from in_vllm.oracle import is_0_33
from in_vllm.soak.features import MAMBA, NAMES, draw_features
from vllm.v1.kv_cache_interface import (
    ChunkedLocalAttentionSpec,
    KVCacheConfig,
    KVCacheGroupSpec,
    MambaSpec,
    MLAAttentionSpec,
)

TYPICAL_TOKENS = 120
"""Of a request, with its answer."""

METHODS = ("eagle", "draft_model", "dflash", "ngram")
"""How drafts are made; it decides how many slots a scheduler keeps for them."""


@dataclass(frozen=True)
class Scenario:
    """What an episode is made from.

    Attributes:
        seed, number: Of the run, and of the episode in it; they decide everything.
        length: Request-steps after which no request comes any more.
        layout: Kind of cache groups.
        features: The other features.
        block_size: Tokens of a block of the smallest group.
        window: Of groups with a sliding window, in tokens; a second one is a block longer.
        chunk: Of local attention, in tokens.
        most_running: Requests at once.
        load: Requests that are there, as a multiple of `most_running`.
        budget: Tokens of a step.
        threshold: Most tokens of a request in a step; 0 for no limit.
        longest: Tokens of a request.
        num_blocks: Of the pool.
        num_drafts: Draft tokens of a request in a step.
        method: How drafts are made.
        eagle_group: The group that EAGLE's layers are in; None if none is flagged.
        spare_states: Whether Mamba keeps a state for each draft.
        hash_name: Of the function for block hashes.
        retention: Interval, in tokens.
        reserves_prompts: Whether a request is admitted only if its whole prompt fits.
        max_loras: Adapters of a step; None for no limit.
        recomputes: Whether a request goes on after a failed load.
        grows_too_long: Whether sessions may become longer than `longest`.
        sample_rate: Of the collector of cache metrics.
        counts_nans: Whether the model counts NaNs in logits.
        hashes_ahead: Whether hashes cover what EAGLE reads ahead; vLLM 0.33 only.
        drafts_by_batch: Draft tokens by size of batch, as ranges with a number each; vLLM 0.33 only.
        watermark: Share of the blocks that admissions leave free; vLLM 0.33 only.
        prefill_interval: Steps from one that computes prompts to the next; vLLM 0.33 only.
        throttles: Share of the steps in which prompts should wait; vLLM 0.33 only.
        adapts_threshold: Whether few requests may compute more than `threshold`; vLLM 0.33 only.
        most_active: Requests that are admitted at once; vLLM 0.33 only.
        few_rows: Running requests from which on arrays serve; None for kvgpu's own number, which is a matter of speed.
    """

    seed: int
    number: int
    length: int
    layout: str
    features: frozenset[str]
    block_size: int
    window: int
    chunk: int
    most_running: int
    load: float
    budget: int
    threshold: int
    longest: int
    num_blocks: int
    num_drafts: int
    method: str
    eagle_group: int | None
    spare_states: bool
    hash_name: str
    retention: int
    reserves_prompts: bool
    max_loras: int | None
    recomputes: bool
    grows_too_long: bool
    sample_rate: float
    counts_nans: bool
    hashes_ahead: bool
    drafts_by_batch: list[tuple[int, int, int]] | None
    watermark: float
    prefill_interval: int
    throttles: float
    adapts_threshold: bool
    most_active: int
    few_rows: int | None

    def __contains__(self, feature: str) -> bool:
        return feature in self.features

    @property
    def all_features(self) -> list[str]:
        """The layout and the other features, in the order of the table."""
        return [name for name in NAMES if name == self.layout or name in self.features]

    @property
    def specs(self) -> list[Any]:
        """Of the cache groups, as vLLM's."""
        size = self.block_size
        windowed = window(size, self.window)
        chunked = ChunkedLocalAttentionSpec(block_size=size, attention_chunk_size=self.chunk, **HEADS)
        mamba = MambaSpec(
            block_size=size,
            shapes=((1, 1),),
            dtypes=(HEADS["dtype"],),
            mamba_cache_mode=self.layout.removeprefix("mamba_"),
            num_speculative_blocks=self.num_drafts * self.spare_states,
        )
        specs: dict[str, list[Any]] = {
            "full": [full(size)],
            "mla": [MLAAttentionSpec(block_size=size, **HEADS)],
            "window": [windowed],
            "full_window": [full(size), windowed],
            "full_window_uneven": [full(2 * size), windowed],
            "three_groups": [full(size), windowed, window(size, self.window + size)],
            "chunked_local": [chunked] if self.number % 2 else [full(size), chunked],
        }
        # A group of Mamba stands alone now and then.
        specs |= dict.fromkeys(MAMBA, [mamba] if self.number % 3 == 0 else [full(size), mamba])
        return specs[self.layout]

    @property
    def ranks(self) -> int:
        """Ranks that share the tokens of a block."""
        return 2 if "context_parallel" in self else 1

    @property
    def scheduler_block_size(self) -> int:
        """Tokens that the lengths of hits are multiples of."""
        return math.lcm(*(spec.block_size for spec in self.specs)) * self.ranks

    @property
    def hash_block_size(self) -> int:
        """Tokens of a hash."""
        return self.block_size * self.ranks

    def cache_config(self) -> KVCacheConfig:
        """The cache groups as vLLM's configuration."""
        groups = [
            KVCacheGroupSpec([f"layer{place}"], spec, is_eagle_group=place == self.eagle_group)
            for place, spec in enumerate(self.specs)
        ]
        kept = {"prefix_cache_retention_interval": self.retention} if "retention" in self and is_0_33() else {}
        return KVCacheConfig(self.num_blocks, [], groups, **kept)


def drafts_by_batch(rng: random.Random, num_drafts: int, most_running: int) -> list[tuple[int, int, int]]:
    """Fewer draft tokens for large batches: the first and last size of each range, and their number."""
    middle = rng.randint(1, most_running - 1)
    return [(1, middle, num_drafts), (middle + 1, most_running, rng.randint(0, num_drafts))]


def draw_scenario(seed: int, number: int, length: int, lead: str | None = None) -> Scenario:
    """Draw what is fixed in an episode. Features take turns in leading one, unless `lead` names one for all."""
    rng = random.Random(f"{seed} {number}")
    layout, features = draw_features(rng, lead or NAMES[number % len(NAMES)])
    size = rng.choice([4, 8, 16, 16, 32])
    most_running = rng.choice([8, 16, 24, 32, 32, 48, 48, 64])
    is_small = "preemption" in features
    longest = rng.choice([256, 384] if is_small else [256, 512, 1024])
    num_drafts = rng.randint(1, 4) if "spec_decode" in features else 0
    num_groups = {"full": 1, "mla": 1, "window": 1, "three_groups": 3}.get(layout, 2)
    share = rng.uniform(0.35, 0.7) if is_small else rng.uniform(1.2, 1.8)
    width = rng.choice([1, size, size + 1, 2 * size, 3 * size - 1, 5 * size])
    # Outside full attention a request holds few blocks.
    held = math.ceil(TYPICAL_TOKENS / size) * (layout != "window") + (num_groups - (layout != "window")) * (
        2 + math.ceil(min(width, TYPICAL_TOKENS) / size)
    )
    # One request must be able to run alone.
    least = num_groups * (math.ceil(longest / size) + num_drafts + 4)
    budget = most_running * (1 + num_drafts) + (rng.choice([16, 48]) if "chunked_prefill" in features else 1024)
    return Scenario(
        seed=seed,
        number=number,
        length=length,
        layout=layout,
        features=features,
        block_size=size,
        window=width,
        chunk=size * rng.choice([1, 2, 4]),
        most_running=most_running,
        load=rng.uniform(1.2, 1.6) if is_small else rng.uniform(0.9, 1.4),
        # Mamba that is cached at block boundaries computes at least a block of the prompt in a step.
        budget=max(budget, 4 * size),
        threshold=max(rng.choice([16, 40]), 2 * size) if "long_prefill_threshold" in features else 0,
        longest=longest,
        num_blocks=max(int(most_running * held * share), least),
        num_drafts=num_drafts,
        method="eagle" if "eagle" in features else rng.choice(METHODS[1:]),
        eagle_group=rng.choice([None, *range(num_groups)]) if "eagle" in features and num_groups > 1 else None,
        spare_states=rng.random() < 0.5,
        hash_name=rng.choice(["sha256", "sha256", "sha256_cbor", "xxhash"]),
        retention=2 * size * rng.choice([0, 1, 2, 4]),
        reserves_prompts=rng.random() < 0.5,
        max_loras=rng.choice([None, 2]) if "lora" in features else None,
        recomputes=rng.random() < 0.5,
        grows_too_long=rng.random() < 0.1,
        sample_rate=rng.choice([1.0, 0.3]),
        counts_nans="logprobs" in features and rng.random() < 0.3,
        few_rows=rng.choice([None, 4, 2, 2, 2]),
        hashes_ahead=rng.random() < 0.5,
        drafts_by_batch=drafts_by_batch(rng, num_drafts, most_running) if rng.random() < 0.2 and num_drafts else None,
        watermark=rng.choice([0.0, 0.0, 0.0, 0.05]),
        prefill_interval=rng.choice([1, 1, 1, 1, 1, 3]),
        throttles=rng.choice([0.0, 0.0, 0.0, 0.0, 0.5]),
        adapts_threshold=rng.random() < 0.3,
        most_active=rng.choice([most_running, most_running, most_running // 2]),
    )
