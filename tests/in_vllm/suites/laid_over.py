"""kvgpu's names laid over vLLM's, in all modules that tests of vLLM's manager import from.

Whatever kvgpu has, such a test gets from kvgpu, and the rest from vLLM. Requests, specs and configurations stay vLLM's,
as in an engine; where kvgpu is given a spec it gets its own, converted.
"""

import importlib
import sys
import types
from typing import Any

from bound import bound_names, subclass
from names import VLLM_NAMES, LiveModule
from vllm.v1.kv_cache_interface import KVCacheSpec
from vllm.v1.request import Request

from kvgpu import manager
from kvgpu.config.behaviour import Behaviour
from kvgpu.vllm.config import config_of, spec_of
from kvgpu.vllm.manager import own_arguments, show_specs_of_vllm, shows_specs_of_vllm

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
        super().__init__(real.__name__, targets, over)
        object.__setattr__(self, "_targets", [*self._targets, real])
        object.__setattr__(self, "__spec__", real.__spec__)


def _own(given: Any) -> Any:
    return spec_of(given) if isinstance(given, KVCacheSpec) else given


def _bound_manager() -> type:
    """A subclass of kvgpu's manager that is made from the arguments of vLLM's."""

    def make(self: Any, kv_cache_config: Any, *args: Any, **options: Any) -> None:
        manager.KVCacheManager.__init__(self, **own_arguments(config_of(kv_cache_config), *args, **options))
        if shows_specs_of_vllm():
            show_specs_of_vllm(self)

    return subclass(manager.KVCacheManager, make)


def _own_names(module: str, targets: list[str], behaviour: Behaviour) -> types.ModuleType:
    """What comes before kvgpu's own names: classes and functions that are given vLLM's objects and a behaviour."""
    own = bound_names(module, targets, behaviour, _own)
    if module.endswith(".kv_cache_manager"):
        own.KVCacheManager, own.Request = _bound_manager(), Request
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
