"""kvgpu's classes and functions with a behaviour: suites of a later vLLM give none."""

import functools
import importlib
import inspect
import types
from collections.abc import Callable
from typing import Any

from kvgpu import block_pool
from kvgpu.config.behaviour import Behaviour
from kvgpu.groups.registry import spec_manager_map
from kvgpu.hashing import request_hasher


def _takes_behaviour(function: Any) -> bool:
    return "behaviour" in inspect.signature(function).parameters


def subclass(kind: type, make: Callable[..., None]) -> type:
    """Return a subclass of the same name that is made by `make`."""
    return type(kind.__name__, (kind,), {"__init__": make, "__module__": kind.__module__, "__doc__": kind.__doc__})


def _bound(kind: type, behaviour: Behaviour, own: Callable[[Any], Any]) -> type:
    """A subclass that is made with a behaviour, if it takes one, and with kvgpu's own arguments."""
    given = {"behaviour": behaviour} if _takes_behaviour(kind.__init__) else {}

    def make(self: Any, *args: Any, **options: Any) -> None:
        options = {name: own(each) for name, each in options.items()}
        kind.__init__(self, *map(own, args), **{**given, **options})

    return subclass(kind, make)


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


def bound_names(
    module: str, targets: list[str], behaviour: Behaviour, own: Callable[[Any], Any] = lambda given: given
) -> types.ModuleType:
    """Return what comes before kvgpu's own names in a module of vLLM: what takes a behaviour, with this one.

    Args:
        module: Name of vLLM's module.
        targets: Names of kvgpu's.
        behaviour: That of the version that the suite is for.
        own: Makes an argument of the suite one of kvgpu's.
    """
    names = types.ModuleType(f"kvgpu for {module}")
    for target in targets:
        vars(names).update(_bound_functions(importlib.import_module(target), behaviour))
    if module.endswith(".kv_cache_utils"):
        names.get_request_block_hasher = _hasher(behaviour)
    elif module.endswith(".block_pool"):
        names.BlockPool = _bound(block_pool.BlockPool, behaviour, own)
    elif module.endswith(".single_type_kv_cache_manager"):
        for kind in set(spec_manager_map.values()):
            setattr(names, kind.__name__, _bound(kind, behaviour, own))
    return names
