"""vLLM's names for suites of 0.33: kvgpu's with its behaviour, and stand-ins that fail where something is not there."""

import sys
import types
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, make_dataclass
from enum import Enum
from functools import cache
from importlib.machinery import ModuleSpec
from typing import Any

from bound import bound_names, subclass
from names import VLLM_NAMES, LiveModule, install

from kvgpu import manager
from kvgpu.config import kv_cache_config, specs
from kvgpu.config.behaviour import Behaviour
from kvgpu.groups import registry

LATER_NAMES = {**VLLM_NAMES, "vllm.distributed.kv_events": ["kvgpu.events.maps", "kvgpu.events.messages"]}
"""What 0.33 has elsewhere."""
SCHEDULER = "vllm.v1.core.sched.scheduler"
FACTORY = "vllm.distributed.kv_transfer.kv_connector.factory"


class NotModelledError(Exception):
    """A test uses something of vLLM that kvgpu has not; none that a test could expect."""


class _Lacking(type):
    """Of classes that can be imported, compared and passed on; calling one, or what is in it, fails."""

    def __call__(cls, *arguments: Any, **fields: Any) -> Any:
        raise NotModelledError(f"kvgpu has no {cls.__module__}.{cls.__name__}")

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return lacking(f"{cls.__module__}.{cls.__name__}", name)


@cache
def lacking(module: str, name: str) -> type:
    """Return what stands for a class, function or value of vLLM that kvgpu has not."""
    return _Lacking(name, (), {"__module__": module})


class WithStandIns(LiveModule):
    """A module of vLLM: kvgpu's names, and stand-ins for all others."""

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("_"):
                raise
        return lacking(self.__name__, name)


class _Finder:
    """Finds modules of vLLM that have no counterpart: each consists of stand-ins."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None, target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(name, _Finder, is_package=True) if name.startswith("vllm.") else None

    @staticmethod
    def create_module(spec: ModuleSpec) -> types.ModuleType:
        return WithStandIns(spec.name, [])

    @staticmethod
    def exec_module(module: types.ModuleType) -> None:
        """There is nothing to run."""


class RequestStatus(Enum):
    """States of a request, of which kvgpu reads the name."""

    WAITING = 1
    WAITING_FOR_REMOTE_KVS = 2
    RUNNING = 3
    PREEMPTED = 4
    FINISHED_STOPPED = 5
    FINISHED_LENGTH_CAPPED = 6
    FINISHED_ABORTED = 7


class KVConnectorFactory:
    """Where a suite registers connectors, of which kvgpu has none."""

    @staticmethod
    def register_connector(*names: str) -> None:
        """None is ever made."""


class Scheduler:
    """What a test of the manager calls of a scheduler."""

    @staticmethod
    def _mamba_block_aligned_split(self: Any, request: Any, num_new_tokens: int) -> int:
        """How many tokens a step takes of a prompt of whole blocks: it ends at the junction of the request, if that
        lies inside."""
        ahead = request.shared_prefix_boundary - request.num_computed_tokens
        return ahead if 0 < ahead < num_new_tokens else num_new_tokens


@dataclass
class KVCacheGroupSpec(kv_cache_config.KVCacheGroupSpec):
    """With fields that vLLM 0.33 has, and kvgpu refuses."""

    enable_kv_transfer: bool = True
    role: Any = None
    host_resident: bool = False

    def __post_init__(self) -> None:
        if self.host_resident or self.role is not None or not self.enable_kv_transfer:
            raise NotModelledError("a group in the memory of the host")


@dataclass
class KVCacheConfig(kv_cache_config.KVCacheConfig):
    """With a field that vLLM 0.33 has, and kvgpu refuses."""

    hisparse_host_num_blocks: int | None = None

    def __post_init__(self) -> None:
        if self.hisparse_host_num_blocks is not None:
            raise NotModelledError("blocks in the memory of the host")


NEW_FIELDS: dict[type, dict[str, tuple[int | None, str]]] = {
    specs.MambaSpec: {
        "num_prefill_checkpoint_blocks": (0, "states from inside a step"),
        "prefill_checkpoint_alignment": (None, ""),
    },
    specs.MLAAttentionSpec: {"tokens_per_state": (1, ""), "max_tp_shards": (None, "")},
}
"""Spec -> fields that vLLM 0.33 has besides, each with its default and what kvgpu lacks for others, if anything."""


def _widened(kind: type) -> type:
    """A spec with its fields of `NEW_FIELDS` that kvgpu has not, which has the same manager."""
    new = {name: of for name, of in NEW_FIELDS[kind].items() if name not in {each.name for each in fields(kind)}}

    def check(self: Any) -> None:
        kind.__post_init__(self)
        for name, (default, lacked) in new.items():
            if lacked and getattr(self, name) != default:
                raise NotModelledError(lacked)

    own = [(name, Any, field(default=default, kw_only=True)) for name, (default, _) in new.items()]
    made = make_dataclass(kind.__name__, own, bases=(kind,), namespace={"__post_init__": check}, frozen=True)
    registry.spec_manager_map[made] = registry.spec_manager_map[kind]
    return made


def _bound_manager(behaviour: Behaviour) -> type:
    """kvgpu's manager with a behaviour."""

    def make(self: Any, *args: Any, **options: Any) -> None:
        lookahead = int(options.pop("num_hash_lookahead_tokens", 0))  # some tests say whether there is a token
        manager.KVCacheManager.__init__(
            self, *args, **options, num_hash_lookahead_tokens=lookahead, behaviour=behaviour
        )

    return subclass(manager.KVCacheManager, make)


def install_later(behaviour: Behaviour) -> None:
    """Make `import vllm...` work for all names: with kvgpu's behaviour where it has them, with stand-ins elsewhere."""
    over = {
        name: bound_names(name, targets, behaviour) for name, targets in LATER_NAMES.items() if "stubs" not in targets
    }
    over["vllm.v1.kv_cache_interface"].KVCacheConfig = KVCacheConfig
    over["vllm.v1.kv_cache_interface"].KVCacheGroupSpec = KVCacheGroupSpec
    for kind in NEW_FIELDS:
        setattr(over["vllm.v1.kv_cache_interface"], kind.__name__, _widened(kind))
    over["vllm.v1.request"].RequestStatus = RequestStatus
    alone = {SCHEDULER: Scheduler, FACTORY: KVConnectorFactory}
    for name, kind in alone.items():
        over[name] = types.ModuleType(name)
        setattr(over[name], kind.__name__, kind)

    def module(name: str, targets: list[str]) -> WithStandIns:
        return WithStandIns(name, targets, [over[name]] if name in over else [])

    install(LATER_NAMES | {name: [] for name in alone}, module)
    sys.meta_path.append(_Finder)
    over["vllm.v1.core.kv_cache_manager"].KVCacheManager = _bound_manager(behaviour)
