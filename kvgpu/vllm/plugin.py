"""`register`: the entry point of the plug-in, in the group `vllm.general_plugins`."""

import logging
from functools import cache
from types import ModuleType
from typing import Any

from kvgpu.environment import vllm_mode
from kvgpu.vllm.import_hook import when_imported

logger = logging.getLogger(__name__)

SCHEDULER, ENGINE = "vllm.v1.core.sched.scheduler", "vllm.v1.engine.core"


def make_manager(kv_cache_config: Any, *args: Any, **options: Any) -> Any:
    """`kvgpu.vllm.manager.make_manager`, which is imported when an engine makes its first manager."""
    from kvgpu.vllm import manager

    return manager.make_manager(kv_cache_config, *args, **options)


def get_request_block_hasher(*args: Any, **options: Any) -> Any:
    """`kvgpu.vllm.hasher.get_request_block_hasher`, which is imported when an engine makes its hasher."""
    from kvgpu.vllm import hasher

    return hasher.get_request_block_hasher(*args, **options)


@cache
def serves() -> bool:
    """Return whether kvgpu serves the vLLM that is installed; if not, the log says so, once."""
    import vllm

    from kvgpu.vllm.capabilities import SERVED, behaviour_of_vllm

    behaviour = behaviour_of_vllm()
    if behaviour in SERVED:
        return True
    known = "does not know it" if behaviour is None else f"does not serve what vLLM does since {behaviour.version}"
    logger.warning(
        "vLLM %s goes on with its own KVCacheManager: kvgpu %s", getattr(vllm, "__version__", "of no version"), known
    )
    return False


def _into_scheduler(module: ModuleType) -> None:
    if serves():
        vars(module)["KVCacheManager"] = make_manager


def _into_engine(module: ModuleType) -> None:
    if serves():
        vars(module)["get_request_block_hasher"] = get_request_block_hasher


def register(is_named: bool = False) -> None:
    """Have vLLM's scheduler make kvgpu's manager, and its engine core kvgpu's block hasher.

    It does nothing unless `KVGPU_VLLM` or `VLLM_PLUGINS` asks for kvgpu, and nothing the second time. Both names are
    set when vLLM imports their modules, which only the process of an engine core does: a worker pays for the import of
    this module. They stay vLLM's where kvgpu does not serve this vLLM.

    Args:
        is_named: Whether an engine was given one of kvgpu's classes by name, which asks for kvgpu too.

    Raises:
        ConfigError: `KVGPU_VLLM` has a bad value.
    """
    if vllm_mode(is_named) == "off":
        return
    when_imported(SCHEDULER, _into_scheduler)
    when_imported(ENGINE, _into_engine)
