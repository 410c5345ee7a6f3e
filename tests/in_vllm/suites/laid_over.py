"""kvgpu's names laid over vLLM's, in all modules that tests of vLLM's manager import from.

Whatever kvgpu has, such a test gets from kvgpu, and the rest from vLLM. Requests, specs and configurations stay vLLM's,
as in an engine; where kvgpu is given a spec it gets its own, converted.
"""

import functools
import importlib
import inspect
import sys
import types
from typing import Any

from names import VLLM_NAMES, LiveModule
from vllm.v1.kv_cache_interface import KVCacheSpec
from vllm.v1.request import Request

from kvgpu import block_pool, manager
from kvgpu.config.behaviour import Behaviour
from kvgpu.groups.registry import spec_manager_map
from kvgpu.hashing import request_hasher
from kvgpu.vllm.config import config_of, spec_of
from kvgpu.vllm.manager import own_arguments

KEPT = {
    "vllm.lora.request",
    "vllm.multimodal.inputs",
    "vllm.sampling_params",
    "vllm.utils.hashing",
    "vllm.v1.kv_cache_interface",
    "vllm.v1.request",
}
"""Modules whose objects an engine makes, and gives to kvgpu."""
SCHEDULERS = ("vllm.v1.core.sched.scheduler", "vllm.v1.core.sched.async_scheduler", "vllm.v1.engine.core")


class LaidOver(LiveModule):
    """A module of vLLM in which kvgpu's names come first."""

    def __init__(self, real: types.ModuleType, over: list[types.ModuleType], targets: list[str]) -> None:
        super().__init__(real.__name__, targets)
        object.__setattr__(self, "_targets", [*over, *self._targets, real])
        object.__setattr__(self, "__spec__", real.__spec__)


def _takes_behaviour(function: Any) -> bool:
    return "behaviour" in inspect.signature(function).parameters


def _bound(kind: type, behaviour: Behaviour) -> type:
    """A subclass that is made with a behaviour, if it takes one, and with kvgpu's specs."""
    given = {"behaviour": behaviour} if _takes_behaviour(kind.__init__) else {}

    def make(self: Any, *args: Any, **options: Any) -> None:
        args = tuple(spec_of(each) if isinstance(each, KVCacheSpec) else each for each in args)
        options = {name: spec_of(each) if isinstance(each, KVCacheSpec) else each for name, each in options.items()}
        kind.__init__(self, *args, **{**given, **options})

    return _subclass(kind, make)


def _bound_manager() -> type:
    """A subclass of kvgpu's manager that is made from the arguments of vLLM's."""

    def make(self: Any, kv_cache_config: Any, *args: Any, **options: Any) -> None:
        manager.KVCacheManager.__init__(self, **own_arguments(config_of(kv_cache_config), *args, **options))

    return _subclass(manager.KVCacheManager, make)


def _subclass(kind: type, make: Any) -> type:
    return type(kind.__name__, (kind,), {"__init__": make, "__module__": kind.__module__, "__doc__": kind.__doc__})


def _bound_functions(module: types.ModuleType, behaviour: Behaviour) -> dict[str, Any]:
    """Functions of a module that take a behaviour, with this one."""
    return {
        name: functools.partial(value, behaviour=behaviour)
        for name, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__ and _takes_behaviour(value)
    }


def _hasher(behaviour: Behaviour) -> Any:
    """kvgpu's maker of hashers with the parameters of vLLM's."""

    def get_request_block_hasher(hash_block_size: int, caching_hash_fn: Any, num_hash_lookahead_tokens: int = 0) -> Any:
        lookahead = int(num_hash_lookahead_tokens)  # some tests say whether there is a token
        return request_hasher.get_request_block_hasher(hash_block_size, caching_hash_fn, lookahead, behaviour=behaviour)

    return get_request_block_hasher


def _own_names(module: str, targets: list[str], behaviour: Behaviour) -> types.ModuleType:
    """What comes before kvgpu's own names: classes and functions that are given vLLM's objects and a behaviour."""
    own = types.ModuleType(f"kvgpu for {module}")
    for target in targets:
        vars(own).update(_bound_functions(importlib.import_module(target), behaviour))
    if module.endswith(".kv_cache_manager"):
        own.KVCacheManager, own.Request = _bound_manager(), Request
    elif module.endswith(".kv_cache_utils"):
        own.get_request_block_hasher = _hasher(behaviour)
    elif module.endswith(".block_pool"):
        own.BlockPool = _bound(block_pool.BlockPool, behaviour)
    elif module.endswith(".single_type_kv_cache_manager"):
        for kind in set(spec_manager_map.values()):
            setattr(own, kind.__name__, _bound(kind, behaviour))
    return own


def lay_over(behaviour: Behaviour) -> None:
    """Lay kvgpu's names over vLLM's for all that is imported from now on."""
    # What is imported now keeps vLLM's names: schedulers get kvgpu's manager from the plug-in.
    for name in SCHEDULERS:
        importlib.import_module(name)
    modules = {name: importlib.import_module(name) for name in VLLM_NAMES if name not in KEPT}
    for name, real in modules.items():
        over = LaidOver(real, [_own_names(name, VLLM_NAMES[name], behaviour)], VLLM_NAMES[name])
        sys.modules[name] = over
        parent, _, child = name.rpartition(".")
        setattr(sys.modules[parent], child, over)
