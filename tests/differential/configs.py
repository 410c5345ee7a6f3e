"""Random cache configurations, described by plain data so that two systems can build them."""

import random
from dataclasses import dataclass, field
from math import gcd, lcm
from typing import Any

from kvgpu.config.behaviour import BEHAVIOUR_0_23, Behaviour


@dataclass
class Group:
    """One cache group: class name of its spec and the keyword arguments."""

    spec: str
    kwargs: dict[str, Any]
    eagle: bool = False


@dataclass
class Config:
    """Everything that a manager is built from, and what an episode needs to know."""

    groups: list[Group]
    num_blocks: int
    max_model_len: int
    scheduler_block_size: int
    hash_block_size: int
    hash_name: str
    options: dict[str, Any]
    sample_rate: float | None = None
    retention: int | None = None
    fields: dict[str, Any] = field(default_factory=dict)
    """Fields of `KVCacheConfig` besides those that every version has."""
    mamba_align: bool = False
    num_speculative: int = 0
    block_sizes: list[int] = field(default_factory=list)


COARSE_SPECS = ("FullAttentionSpec", "MLAAttentionSpec", "MambaSpec")
"""Specs of which vLLM hits a part of a block, if it has several hashes."""

ATTENTION = {"num_kv_heads": 1, "head_size": 1}


def _group(rng: random.Random, block_size: int, kinds: list[str], mamba_mode: str) -> Group:
    kind = rng.choice(kinds)
    if kind == "full":
        name = rng.choice(["FullAttentionSpec", "MLAAttentionSpec", "FullAttentionSpec"])
        return Group(name, {"block_size": block_size, **ATTENTION})
    if kind == "window":
        name = rng.choice(["SlidingWindowSpec", "SlidingWindowMLASpec", "SlidingWindowSpec"])
        window = rng.choice([1, 2, block_size, block_size + 1, 2 * block_size, 5 * block_size])
        return Group(name, {"block_size": block_size, "sliding_window": window, **ATTENTION})
    if kind == "chunked":
        chunk = block_size * rng.choice([1, 2, 3, 4])
        return Group(
            "ChunkedLocalAttentionSpec", {"block_size": block_size, "attention_chunk_size": chunk, **ATTENTION}
        )
    spare = rng.choice([0, 0, 1, 2]) if mamba_mode == "align" else rng.choice([0, 0, 1])
    return Group(
        "MambaSpec",
        {
            "block_size": block_size,
            "shapes": ((1, 1),),
            "mamba_cache_mode": mamba_mode,
            "num_speculative_blocks": spare,
        },
    )


def random_config(rng: random.Random, behaviour: Behaviour) -> Config:
    """A configuration that an engine could have; a few are refused at construction by both."""
    config = _drawn(rng)
    return config if behaviour == BEHAVIOUR_0_23 else _later(rng, config, behaviour)


def _end_hits_with_blocks(config: Config) -> None:
    """Give no block several hashes that could hold part of a hit: kvgpu hits inside blocks as 0.33 does, only."""
    if any(group.spec in COARSE_SPECS for group in config.groups):
        smallest = config.hash_block_size = max(config.hash_block_size, min(config.block_sizes))
        for group in config.groups:
            if group.spec in COARSE_SPECS:
                group.kwargs["block_size"] = smallest
        config.block_sizes = [group.kwargs["block_size"] for group in config.groups]
        config.scheduler_block_size = lcm(*config.block_sizes)
        if len(config.groups) == 1:
            config.scheduler_block_size = config.hash_block_size = smallest * config.options["dcp_world_size"]


def _later(rng: random.Random, config: Config, behaviour: Behaviour) -> Config:
    """The same for a later vLLM."""
    options, caching = config.options, config.options["enable_caching"]
    if behaviour.clamps_to_hashes:
        for group in config.groups:
            if "mamba_cache_mode" in group.kwargs:
                group.kwargs["mamba_cache_mode"] = "align" if caching else rng.choice(["none", "align"])
    config.mamba_align = any(g.kwargs.get("mamba_cache_mode") == "align" for g in config.groups)
    if behaviour.clamps_to_hashes:
        _keep_states_inside(rng, config)
    elif behaviour.reports_junction and caching:
        _end_hits_with_blocks(config)
    scheduler = config.scheduler_block_size
    if behaviour.configures_retention:
        config.retention = None
    if behaviour.configures_retention and rng.random() < 0.7:
        sparse = any(g.spec not in ("FullAttentionSpec", "MLAAttentionSpec") for g in config.groups)
        config.fields["prefix_cache_retention_interval"] = rng.choice(
            [0, 0, 0, scheduler, 2 * scheduler] if sparse else [0]
        )
    if behaviour.waits_for_steps:
        options["max_in_flight_tokens"] = options.pop("max_num_batched_tokens")
    if rng.random() < 0.2:
        options["watermark"] = rng.choice([0.01, 0.1, 0.3])
    # As an engine has it: with look-ahead hashes, the groups of a drafter are flagged, and none drops a block.
    if options["use_eagle"] and rng.random() < 0.5:
        options["use_eagle"] = False
    return config


def _keep_states_inside(rng: random.Random, config: Config) -> None:
    """What concerns states inside a block: from inside a step, at junctions, and under hashes that look ahead."""
    if rng.random() < 0.3:
        every = config.hash_block_size * rng.choice([1, 1, 2])
        for group in config.groups:
            if group.kwargs.get("mamba_cache_mode") == "align":
                group.kwargs |= {"num_prefill_checkpoint_blocks": 1, "prefill_checkpoint_alignment": every}
    if rng.random() < 0.3:
        config.options["enable_mamba_shared_prefix_checkpoint"] = True
    if config.options["use_eagle"] and rng.random() < 0.5:
        # As an engine has it: nothing is dropped where hashes look ahead.
        lookahead = rng.choice([1, 1, 2])
        if lookahead <= config.scheduler_block_size:
            config.options |= {"use_eagle": False, "num_hash_lookahead_tokens": lookahead}
            config.options["num_prefill_lookahead"] = lookahead


def _drawn(rng: random.Random) -> Config:
    eagle = rng.random() < 0.35
    num_groups = rng.choice([1, 1, 2, 2, 3, 4])
    base = rng.choice([1, 2, 4, 8])
    uneven = num_groups > 1 and rng.random() < 0.5
    mamba_mode = rng.choice(["none", "all", "align"])
    kinds = ["full", "full", "window", "window", "mamba"]
    if not eagle and not uneven and rng.random() < 0.4:
        kinds.append("chunked")
    groups = [
        _group(rng, base * (rng.choice([1, 2, 4]) if uneven else 1), kinds, mamba_mode) for _ in range(num_groups)
    ]
    if num_groups > 1 and rng.random() < 0.7:
        groups[rng.randrange(num_groups)] = _group(rng, groups[0].kwargs["block_size"], ["full"], "")
    if eagle and num_groups > 1 and rng.random() < 0.5:
        groups[rng.randrange(num_groups)].eagle = True
    sizes = [group.kwargs["block_size"] for group in groups]
    caching = rng.random() < 0.93
    if not caching and rng.random() < 0.5:
        groups.append(Group("CrossAttentionSpec", {"block_size": base, **ATTENTION}))
        num_groups += 1
        sizes.append(base)
    dcp = 2 if num_groups == 1 and groups[0].spec == "FullAttentionSpec" and rng.random() < 0.2 else 1
    if num_groups == 1:
        scheduler = hash_size = sizes[0] * dcp
    else:
        scheduler = lcm(*sizes)
        hash_size = rng.choice([d for d in (gcd(*sizes), 1, 2) if gcd(*sizes) % d == 0])
    retention = rng.choice([0, scheduler, 2 * scheduler, 4 * scheduler])
    spare = max((g.kwargs.get("num_speculative_blocks", 0) for g in groups), default=0)
    return Config(
        groups=groups,
        num_blocks=rng.choice([12, 20, 40, 80]) * num_groups,
        max_model_len=rng.choice([scheduler * 8, scheduler * 40, 1000]),
        scheduler_block_size=scheduler,
        hash_block_size=hash_size,
        hash_name=rng.choice(["sha256", "sha256", "sha256_cbor", "xxhash", "xxhash_cbor"]),
        options={
            "max_num_batched_tokens": rng.choice([scheduler * 4, 64, 1000]),
            "enable_caching": caching,
            "use_eagle": eagle,
            "log_stats": True,
            "enable_kv_cache_events": rng.random() < 0.7,
            "dcp_world_size": dcp,
        },
        sample_rate=rng.choice([None, None, 0.4]),
        retention=retention if rng.random() < 0.3 else None,
        mamba_align=any(g.kwargs.get("mamba_cache_mode") == "align" for g in groups),
        num_speculative=spare,
        block_sizes=sizes,
    )
