"""Makes the manager of an engine: kvgpu's, or vLLM's own where kvgpu does not model something."""

import logging
from collections import Counter
from functools import cache, partial
from inspect import signature
from typing import Any

from vllm.v1.core import kv_cache_coordinator as coordinators
from vllm.v1.core import kv_cache_manager as manager_of_vllm
from vllm.v1.core import single_type_kv_cache_manager as groups
from vllm.v1.kv_cache_interface import KVCacheSpec

from kvgpu.config.behaviour import BEHAVIOUR_0_23, BEHAVIOUR_0_33
from kvgpu.config.cache_hints import HintLimits
from kvgpu.config.kv_cache_config import KVCacheConfig
from kvgpu.coordinators.hybrid import HybridKVCacheCoordinator
from kvgpu.coordinators.unitary import KVCacheCoordinatorNoPrefixCache, UnitaryKVCacheCoordinator
from kvgpu.environment import vllm_eviction, vllm_hint_shares, vllm_mode
from kvgpu.errors import ConfigError
from kvgpu.eviction.names import LRU
from kvgpu.groups.registry import spec_manager_map
from kvgpu.integers import MOST_TOKENS
from kvgpu.manager import KVCacheManager
from kvgpu.vllm.capabilities import behaviour_of_vllm
from kvgpu.vllm.checked_manager import CheckedManager
from kvgpu.vllm.config import config_of
from kvgpu.vllm.warm_up import warm_up

logger = logging.getLogger(__name__)

made: Counter[str] = Counter()
"""Managers that this process made, by who serves: `kvgpu`, `check`, or `vllm: ` and why."""


@cache
def _declare_subclasses() -> None:
    """Make kvgpu's managers of groups, and its coordinators, pass for those of vLLM, which connectors look for."""
    for ours in set(spec_manager_map.values()):
        getattr(groups, ours.__name__).register(ours)
    for kind in (HybridKVCacheCoordinator, UnitaryKVCacheCoordinator, KVCacheCoordinatorNoPrefixCache):
        getattr(coordinators, kind.__name__).register(kind)


def own_arguments(config: KVCacheConfig, *args: Any, **options: Any) -> dict[str, Any]:
    """Return the arguments of a manager of kvgpu that does what the installed vLLM does. O(groups).

    Args:
        config: The groups, converted.
        args, options: The other arguments of vLLM's `KVCacheManager`, whose order is another one in each version.

    Raises:
        ConfigError: kvgpu does not model what is asked for.
    """
    given = signature(manager_of_vllm.KVCacheManager).bind(config, *args, **options).arguments
    behaviour = behaviour_of_vllm()
    if behaviour == BEHAVIOUR_0_23:
        return given
    if "num_hash_lookahead_tokens" in given:
        given["num_hash_lookahead_tokens"] = int(
            given["num_hash_lookahead_tokens"]
        )  # a switch where one token is usual
    return {**given, "behaviour": behaviour}


def own_manager(*args: Any, keeps_shares: bool = True, **options: Any) -> KVCacheManager:
    """Make kvgpu's manager from the arguments of vLLM's, of which the configuration is converted.

    `KVGPU_EVICTION` and `KVGPU_CACHE_HINTS` say what vLLM's has no argument for; tenants have no shares in a small pool
    that does not keep them.

    Raises:
        ConfigError: kvgpu does not model what is asked for, or it cannot work.

    O(blocks of the pool).
    """
    shares = vllm_hint_shares()
    hints = None if shares is None else HintLimits(shares if keeps_shares else {}, trusts_clients=True)
    manager = KVCacheManager(**own_arguments(*args, **options), eviction=vllm_eviction(), hints=hints)
    if manager.coordinator.enable_partial_hash_hits and manager.behaviour != BEHAVIOUR_0_33:
        raise ConfigError("blocks of states are hit inside, which kvgpu does as vLLM 0.33 only (partial hash hits)")
    return manager


def shows_specs_of_vllm() -> bool:
    """Return whether vLLM's specs say whether blocks are cached, and so can stand for kvgpu's. O(1)."""
    return hasattr(KVCacheSpec, "prefix_cacheable")


def show_specs_of_vllm(manager: KVCacheManager) -> None:
    """Have the managers of groups name vLLM's own specs, whose class an engine since 0.30 looks at. O(groups)."""
    for group in manager.coordinator.single_type_managers:
        group.kv_cache_spec = group.kv_cache_spec.origin


def make_manager(kv_cache_config: Any, *args: Any, **options: Any) -> Any:
    """Make the KV-cache manager that vLLM's scheduler asks for, and log once who serves.

    Args:
        kv_cache_config: A `KVCacheConfig` of vLLM.
        args, options: The other arguments of vLLM's `KVCacheManager`.

    Returns:
        A `kvgpu.KVCacheManager`; with `KVGPU_VLLM=check` a `CheckedManager`; or vLLM's own manager if there is
        something that kvgpu does not model.

    Raises:
        Exception: Neither can be made from the arguments; the error is vLLM's.

    O(blocks of the pool), and what `warm_up` takes.
    """
    checks = vllm_mode() == "check"
    try:
        if checks and (vllm_eviction() != LRU or vllm_hint_shares() is not None):
            raise ConfigError("KVGPU_EVICTION and KVGPU_CACHE_HINTS make other hits than vLLM's manager has")
        config = config_of(kv_cache_config)
        # A collector must not hear of every block twice.
        ours = own_manager(config, *args, **{**options, "metrics_collector": None} if checks else options)
        ours.slots.lowest = -MOST_TOKENS  # of a session, or after blocks could not be loaded
        warm_up(config, *args, make=partial(own_manager, keeps_shares=False), **options)
    except ConfigError as reason:
        theirs = manager_of_vllm.KVCacheManager(kv_cache_config, *args, **options)
        made[f"vllm: {reason}"] += 1
        logger.warning("vLLM's own KVCacheManager serves, since kvgpu does not model this: %s", reason)
        return theirs
    _declare_subclasses()
    if shows_specs_of_vllm():
        show_specs_of_vllm(ours)
    if checks:
        made["check"] += 1
        logger.info("vLLM's KVCacheManager serves, and kvgpu's is compared with it")
        return CheckedManager(manager_of_vllm.KVCacheManager(kv_cache_config, *args, **options), ours)
    made["kvgpu"] += 1
    logger.info(
        "kvgpu's KVCacheManager serves, with %d groups and %d blocks", len(config.kv_cache_groups), config.num_blocks
    )
    return ours
