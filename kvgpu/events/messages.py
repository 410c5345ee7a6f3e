"""KV events: what was stored and removed, for routers and other caches.

Wire format: msgpack arrays, tagged with the class name, in the order of the fields (fact 56).
"""

import logging
from collections.abc import Sequence
from typing import Any

import msgspec

from kvgpu.config.kv_cache_config import KVCacheGroupSpec, get_kv_cache_spec_kind, get_kv_cache_spec_sliding_window
from kvgpu.hashing.map_keys import ExternalBlockHash

MEDIUM_GPU = "GPU"


class KVCacheEvent(msgspec.Struct, array_like=True, omit_defaults=True, gc=False, tag=True):
    """Base of the events."""


class BlockStored(KVCacheEvent):
    """Blocks that became reusable by one call.

    block_hashes: external hashes of the stored blocks; blocks that were not stored are missing here,
    although token_ids covers the whole range (fact 57). parent_block_hash: hash of the block before
    the range; None if there is none. extra_keys: one entry per hash.
    """

    block_hashes: list[ExternalBlockHash]
    parent_block_hash: ExternalBlockHash | None
    token_ids: list[int]
    block_size: int
    lora_id: int | None
    medium: str | None
    lora_name: str | None
    extra_keys: list[tuple[Any, ...] | None] | None = None
    group_idx: int | None = None
    kv_cache_spec_kind: str | None = None
    kv_cache_spec_sliding_window: int | None = None

    def __hash__(self) -> int:
        return hash((tuple(self.block_hashes), self.parent_block_hash, self.group_idx))


class BlockRemoved(KVCacheEvent):
    """Blocks that can no longer be reused."""

    block_hashes: list[ExternalBlockHash]
    medium: str | None
    group_idx: int | None = None

    def __hash__(self) -> int:
        return hash((tuple(self.block_hashes), self.medium, self.group_idx))


class AllBlocksCleared(KVCacheEvent):
    """The whole cache was reset."""


class EventBatch(msgspec.Struct, array_like=True, omit_defaults=True, gc=False):
    """The events of one step, with their time `ts` in seconds."""

    ts: float
    events: list[Any]
    data_parallel_rank: int | None = None


class KVEventBatch(EventBatch):
    """An `EventBatch` of KV events."""

    events: list[BlockStored | BlockRemoved | AllBlocksCleared]


def annotate(
    events: list[KVCacheEvent], groups: Sequence[KVCacheGroupSpec], logger: logging.Logger
) -> list[KVCacheEvent]:
    """Set the kind and window of its group in each stored event, in place (fact 59).

    An event of an unknown group is unchanged, and a warning is logged.
    """
    for event in events:
        if not isinstance(event, BlockStored) or event.group_idx is None:
            continue
        if not 0 <= event.group_idx < len(groups):
            logger.warning("Group index `%d` not in KV cache metadata", event.group_idx)
            continue
        spec = groups[event.group_idx].kv_cache_spec
        event.kv_cache_spec_kind = get_kv_cache_spec_kind(spec).value
        event.kv_cache_spec_sliding_window = get_kv_cache_spec_sliding_window(spec)
    return events
