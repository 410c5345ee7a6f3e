"""What the vLLM that is installed does: read off its classes, never off a version, which forks and builds keep."""

from dataclasses import fields, replace
from functools import cache
from importlib import import_module
from inspect import signature
from types import ModuleType
from typing import Any, NamedTuple

from kvgpu.config.behaviour import BEHAVIOUR_0_23, BEHAVIOURS, Behaviour

SERVED = tuple(BEHAVIOURS.values())
"""What kvgpu has been compared with; vLLM's own manager serves all else."""

_MODULES = {
    "manager": "vllm.v1.core.kv_cache_manager",
    "pool": "vllm.v1.core.block_pool",
    "utils": "vllm.v1.core.kv_cache_utils",
    "config": "vllm.v1.kv_cache_interface",
    "events": "vllm.distributed.kv_events",
}

_PARAMETERS = {
    "self",
    "kv_cache_config",
    "max_model_len",
    "scheduler_block_size",
    "hash_block_size",
    "enable_caching",
    "use_eagle",
    "log_stats",
    "enable_kv_cache_events",
    "dcp_world_size",
    "pcp_world_size",
    "metrics_collector",
    "max_num_batched_tokens",
    "max_in_flight_tokens",
    "num_prefill_lookahead",
    "num_hash_lookahead_tokens",
    "watermark",
    "enable_mamba_fine_grained_prefix_cache",
    "enable_mamba_shared_prefix_checkpoint",
}
"""Parameters of all known constructors of `KVCacheManager`: one more says that it can do more."""


class _Step(NamedTuple):
    """Signs that came with one version, and what it does since then."""

    version: str
    signs: tuple[str, ...]
    switches: dict[str, bool]


_STEPS = (
    _Step(
        "0.24",
        ("splits freed blocks", "events are maps"),
        {
            "splits_freed_blocks": True,
            "notes_junction": True,
            "thins_states": True,
            "keys_by_last_hash": True,
            "maps_events": True,
            "trusts_hits": True,
        },
    ),
    _Step(
        "0.26",
        ("max_in_flight_tokens",),
        {
            "waits_for_steps": True,
            "retires_states": True,
            "zeroes_by_config": True,
            "notes_junction": False,
            "reports_junction": True,
        },
    ),
    _Step("0.27", ("record_prefix_cache_stats",), {"counts_lookups": False}),
    _Step("0.28", ("num_prefill_lookahead",), {"finds_items": True}),
    _Step(
        "0.29",
        ("get_none_hash_seed", "prefix_cache_retention_interval"),
        {"fixes_root_hash": True, "configures_retention": True, "keeps_boundaries": True},
    ),
    _Step("0.30", ("unpin_blocks",), {}),
    _Step(
        "0.31",
        ("to_event_extra_keys", "dcp_sharded"),
        {"tags_extra_keys": True, "shares_by_spec": True, "gives_hits_alone": True},
    ),
    _Step(
        "0.32",
        ("cache_hit_alignment_tokens",),
        {"looks_beyond_limit": True, "counts_shared_blocks": False, "keeps_inside": True},
    ),
    _Step(
        "0.33",
        ("num_hash_lookahead_tokens",),
        {"clamps_to_hashes": True, "drops_on_request": True, "keeps_below_junctions": True, "counts_null_users": False},
    ),
)
"""How 0.23 became 0.33. From 0.26 to 0.31, what is kept of states and ends of prompts, and what a drafter looks up, is
neither the one nor the other of what a `Behaviour` can say; kvgpu serves none of these."""


def _signs(modules: dict[str, Any]) -> set[str] | None:
    """Which signs of `_STEPS` there are; None if the constructor has a parameter that nobody knows.

    Raises:
        AttributeError, TypeError, ValueError: A class or function that all versions have is missing, or is no such.
    """
    manager, pool, config = (modules[name] for name in ("manager", "pool", "config"))
    parameters = set(signature(manager.KVCacheManager.__init__).parameters)
    if not parameters <= _PARAMETERS:
        return None
    event = modules["events"].KVCacheEvent
    found = {
        "splits freed blocks": "prepend" not in signature(pool.BlockPool.free_blocks).parameters,
        "events are maps": not event.__struct_config__.array_like,
        "record_prefix_cache_stats": hasattr(manager.KVCacheManager, "record_prefix_cache_stats"),
        "unpin_blocks": hasattr(pool.BlockPool, "unpin_blocks"),
        "dcp_sharded": "dcp_sharded" in {each.name for each in fields(config.KVCacheSpec)},
    }
    of_config = {each.name for each in fields(config.KVCacheConfig)}
    for step in _STEPS:
        for sign in step.signs:
            found.setdefault(sign, sign in parameters | of_config or hasattr(modules["utils"], sign))
    return {sign for sign, there in found.items() if there}


def _compared(behaviour: Behaviour) -> Behaviour:
    """The same of `SERVED`, if it is there."""
    return next((each for each in SERVED if each == behaviour), behaviour)


def behaviour_in(modules: dict[str, Any]) -> Behaviour | None:
    """Return what a vLLM does whose modules these are; None if it has some signs of a version, but not all before it.

    Args:
        modules: `manager`, `pool`, `utils`, `config` and `events`: modules of vLLM.

    O(signs).
    """
    try:
        signs = _signs(modules)
    except (AttributeError, TypeError, ValueError):
        return None
    if signs is None:
        return None
    behaviour = BEHAVIOUR_0_23
    for number, step in enumerate(_STEPS):
        if not signs.issuperset(step.signs):
            later = {sign for each in _STEPS[number:] for sign in each.signs}
            return None if signs & later else _compared(behaviour)
        behaviour = replace(behaviour, version=step.version, **step.switches)
    return _compared(behaviour)


def _imported(name: str) -> ModuleType | None:
    try:
        return import_module(name)
    except ImportError:
        return None


@cache
def behaviour_of_vllm() -> Behaviour | None:
    """Return what the installed vLLM does; None if kvgpu does not know it.

    It imports vLLM's manager. O(signs) at first, then O(1): names that are replaced later change nothing.
    """
    return behaviour_in({name: _imported(module) for name, module in _MODULES.items()})


def values_of_lookup(behaviour: Behaviour) -> int:
    """Return how many values `get_computed_blocks` returns: the third is the junction. O(1)."""
    return 2 + behaviour.reports_junction
