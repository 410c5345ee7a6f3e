"""`register`: the entry point of the plug-in, in the group `vllm.general_plugins`."""

import logging
from types import ModuleType
from typing import Any

from kvgpu.environment import vllm_mode
from kvgpu.vllm.import_hook import when_imported

logger = logging.getLogger(__name__)

SCHEDULER, ENGINE = "vllm.v1.core.sched.scheduler", "vllm.v1.engine.core"
SERVED_VERSION = "0.23.0"
"""The version of vLLM whose behaviour kvgpu has been compared with. Others are served by their own manager."""


def make_manager(kv_cache_config: Any, *args: Any, **options: Any) -> Any:
    """`kvgpu.vllm.manager.make_manager`, which is imported when an engine makes its first manager."""
    from kvgpu.vllm import manager

    return manager.make_manager(kv_cache_config, *args, **options)


def get_request_block_hasher(hash_block_size: int, caching_hash_fn: Any, num_hash_lookahead_tokens: int = 0) -> Any:
    """`kvgpu.vllm.hasher.get_request_block_hasher`, which is imported when an engine makes its hasher."""
    from kvgpu.vllm import hasher

    return hasher.get_request_block_hasher(hash_block_size, caching_hash_fn, num_hash_lookahead_tokens)


def _into_scheduler(module: ModuleType) -> None:
    vars(module)["KVCacheManager"] = make_manager


def _into_engine(module: ModuleType) -> None:
    vars(module)["get_request_block_hasher"] = get_request_block_hasher


def register(is_named: bool = False) -> None:
    """Have vLLM's scheduler make kvgpu's manager, and its engine core kvgpu's block hasher.

    It does nothing unless `KVGPU_VLLM` or `VLLM_PLUGINS` asks for kvgpu, and nothing the second time. Both names are
    set when vLLM imports their modules, which only the process of an engine core does: a worker pays for the import of
    this module.

    Args:
        is_named: Whether an engine was given one of kvgpu's classes by name, which asks for kvgpu too.

    Raises:
        ConfigError: `KVGPU_VLLM` has a bad value.
    """
    if vllm_mode(is_named) == "off":
        return
    import vllm

    if not str(vllm.__version__).startswith(SERVED_VERSION):
        logger.warning(
            "kvgpu serves vLLM %s, and this is %s: it goes on with its own KVCacheManager",
            SERVED_VERSION,
            vllm.__version__,
        )
        return
    when_imported(SCHEDULER, _into_scheduler)
    when_imported(ENGINE, _into_engine)
