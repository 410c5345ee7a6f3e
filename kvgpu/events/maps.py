"""KV events as maps, which vLLM has written since 0.24: the fields of `kvgpu.events.messages`, and more.

Wire format: msgpack maps of field name -> value, with the class name under "type"; fields that have their default
are left out. The batch around them is still an array (B90).
"""

from kvgpu.events import messages
from kvgpu.events.messages import MEDIUM_GPU, EventBatch, KVCacheEvent, annotate

__all__ = [
    "MEDIUM_GPU",
    "AllBlocksCleared",
    "BlockRemoved",
    "BlockStored",
    "EventBatch",
    "KVCacheEvent",
    "KVEventBatch",
    "annotate",
]


class BlockStored(messages.BlockStored, array_like=False, tag=True):
    """Blocks that became reusable by one call, or that one lookup hit (B91, B93).

    locality and ownership: where the blocks are and whose they are, for caches beyond the engine's; a pool leaves
    them out. session_id: of the request. lookahead_token_ids: for each hash, the tokens after its block that it also
    covers; None if hashes cover their blocks only.
    """

    locality: str | None = None
    ownership: str | None = None
    session_id: str | None = None
    lookahead_token_ids: list[list[int]] | None = None


class BlockRemoved(messages.BlockRemoved, array_like=False, tag=True):
    """Blocks that can no longer be reused: one for each key (B92)."""

    locality: str | None = None
    ownership: str | None = None


class AllBlocksCleared(messages.AllBlocksCleared, array_like=False, tag=True):
    """The whole cache was reset."""


class KVEventBatch(EventBatch):
    """An `EventBatch` of KV events that are maps."""

    events: list[BlockStored | BlockRemoved | AllBlocksCleared]
