"""vLLM's module names, resolved to kvgpu's own live modules.

A suite written for vLLM patches module attributes and reads ones that change, so a name must lead
to the module that holds it and not to a copy: reads and writes are passed on.
"""

import importlib
import sys
import types
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import stubs
from support.device.packages import LACKED

VLLM_NAMES: dict[str, list[str]] = {
    "vllm.utils.hashing": ["kvgpu.hashing.functions"],
    "vllm.distributed.kv_events": ["kvgpu.events.messages"],
    "vllm.v1.core.block_pool": ["kvgpu.block_pool", "kvgpu.index.block_map", "kvgpu.events.messages"],
    "vllm.v1.core.kv_cache_utils": [
        "kvgpu.hashing.functions",
        "kvgpu.hashing.map_keys",
        "kvgpu.blocks.state",
        "kvgpu.blocks.free_queue",
        "kvgpu.hashing.inputs.extra_keys",
        "kvgpu.hashing.inputs.tagged_keys",
        "kvgpu.hashing.request_hasher",
        "kvgpu.config.block_sizes",
    ],
    "vllm.v1.core.kv_cache_manager": ["kvgpu.manager", "kvgpu.interface.manager_views"],
    "vllm.v1.core.kv_cache_coordinator": [
        "kvgpu.coordinators.base",
        "kvgpu.coordinators.unitary",
        "kvgpu.coordinators.hybrid",
        "kvgpu.coordinators.registry",
    ],
    "vllm.v1.core.single_type_kv_cache_manager": [
        "kvgpu.groups.base",
        "kvgpu.block_tables.by_request",
        "kvgpu.groups.full",
        "kvgpu.groups.sliding_window",
        "kvgpu.groups.chunked_local",
        "kvgpu.groups.mamba",
        "kvgpu.groups.cross",
        "kvgpu.groups.sink",
        "kvgpu.groups.registry",
    ],
    "vllm.v1.core.kv_cache_metrics": ["kvgpu.metrics"],
    "vllm.v1.metrics.stats": ["kvgpu.metrics"],
    "vllm.v1.kv_cache_interface": ["kvgpu.config.specs", "kvgpu.config.kv_cache_config"],
    "vllm.v1.request": ["kvgpu.request"],
    "vllm.lora.request": ["stubs"],
    "vllm.multimodal.inputs": ["stubs"],
    "vllm.sampling_params": ["stubs"],
}


class Unimportable(types.ModuleType):
    """A module that needs a package that is not installed: its classes can be named, and not called."""

    def __init__(self, name: str, error: ModuleNotFoundError) -> None:
        super().__init__(name)
        self._error, self._classes = error, {}

    def named(self, name: str) -> type:
        """What stands for a class of this name."""

        def make(*arguments: Any, **fields: Any) -> Any:
            raise self._error

        return self._classes.setdefault(name, type(name, (), {"__new__": make}))


@cache
def _imported(target: str) -> types.ModuleType:
    if target == "stubs":
        return stubs
    try:
        return importlib.import_module(target)
    except ModuleNotFoundError as error:
        if error.name not in LACKED:
            raise
        return Unimportable(target, error)


class LiveModule(types.ModuleType):
    """A module whose attributes are those of other modules, at every moment.

    Args:
        name: Of vLLM's module.
        targets: Names of the other modules, the first that has an attribute comes first.
        over: Modules that come before these.
    """

    def __init__(self, name: str, targets: list[str], over: Sequence[types.ModuleType] = ()) -> None:
        super().__init__(name)
        object.__setattr__(self, "_targets", [*over, *(_imported(target) for target in targets)])
        object.__setattr__(self, "_deleted_from", {})

    @property
    def __dict__(self) -> dict[str, Any]:  # type: ignore[override]
        """Current names and values. Pytest's `monkeypatch` restores what it finds here, deletes what it does not."""
        attributes: dict[str, Any] = {}
        for module in reversed(self._targets):
            attributes |= {k: v for k, v in vars(module).items() if not k.startswith("__")}
        return attributes | types.ModuleType.__dict__["__dict__"].__get__(self)

    def _owner(self, name: str) -> Any:
        for module in object.__getattribute__(self, "_targets"):
            if name in vars(module):
                return module
        return None

    def __getattr__(self, name: str) -> Any:
        owner = self._owner(name)
        if owner is None:
            for module in self._targets:
                if isinstance(module, Unimportable) and not name.startswith("_"):
                    return module.named(name)
            raise AttributeError(f"kvgpu has no counterpart of {self.__name__}.{name}")
        return getattr(owner, name)

    def __setattr__(self, name: str, value: Any) -> None:
        owner = None if name.startswith("__") else self._owner(name)
        # What was deleted comes back to where it was.
        owner = owner or self._deleted_from.pop(name, None)
        if owner is None:
            super().__setattr__(name, value)
        else:
            setattr(owner, name, value)

    def __delattr__(self, name: str) -> None:
        owner = self._owner(name)
        if owner is None:
            super().__delattr__(name)
        else:
            delattr(owner, name)
            self._deleted_from[name] = owner


def install(names: dict[str, list[str]] = VLLM_NAMES, make: Callable[..., types.ModuleType] = LiveModule) -> None:
    """Make ``import vllm...`` work for these names.

    Args:
        names: vLLM's module -> kvgpu's modules.
        make: Makes a module of a name and of kvgpu's modules.
    """
    for name, targets in names.items():
        parts = name.split(".")
        for depth in range(1, len(parts)):
            parent = ".".join(parts[:depth])
            if parent not in sys.modules:
                package = types.ModuleType(parent)
                package.__path__ = []
                sys.modules[parent] = package
        sys.modules[name] = make(name, targets)
    for name in sorted(n for n in sys.modules if n.split(".")[0] == "vllm" and "." in n):
        parent, _, child = name.rpartition(".")
        setattr(sys.modules[parent], child, sys.modules[name])
