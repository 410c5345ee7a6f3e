"""`PoolEvents`: the calls of a block pool that concern its events."""

from typing import Any

from kvgpu.arguments import hashes_of
from kvgpu.events.event_queue import EventQueue
from kvgpu.exclusive import Exclusive, exclusive
from kvgpu.hashing.block_range import BlockRange
from kvgpu.integers import as_option


class PoolEvents(Exclusive):
    """Base of `BlockPool`, which sets the attributes.

    Attributes:
        events: Those that nobody has taken yet.
        hash_block_size: Tokens per block hash.
    """

    events: EventQueue
    hash_block_size: int

    @property
    def enable_kv_cache_events(self) -> bool:
        """Whether events are queued for `take_events`; can be set at any time. O(1)."""
        return self.events.enabled

    @enable_kv_cache_events.setter
    def enable_kv_cache_events(self, enabled: bool) -> None:
        self.events.switch(as_option("enable_kv_cache_events", enabled))

    @property
    def kv_event_queue(self) -> list[Any]:
        """The events that nobody has taken yet, a live list. O(1)."""
        return self.events.events

    @exclusive
    def take_events(self) -> list[Any]:
        """Return the events since the last call, in order; none if events are off. O(1)."""
        return self.events.take()

    @exclusive
    def emit_cached_block_events(
        self, request: Any, num_cached_blocks: int, block_size: int, kv_cache_group_id: int
    ) -> None:
        """Queue one event for the blocks that a lookup has hit in a group, as if they had just been cached (B93).

        Nothing else changes, and each call queues the event again. Without blocks, or with events off, none is queued.

        Args:
            request: Has `block_hashes`, `all_token_ids` and the extra-key attributes.
            num_cached_blocks: Number of blocks hit, from the first of the request on, null blocks included.
            block_size: Tokens per block, a multiple of the hash block size.
            kv_cache_group_id: Group of the blocks.

        Raises:
            ArgumentError: A number is out of range, the block size is not a multiple of the hash block size, or the
                request has fewer hashes than these blocks.
            ArgumentTypeError: An argument is not a number or a request as required.
            Exception: The code that makes events raised it. No event is queued in either case.

        O(tokens of the blocks).
        """
        hit = BlockRange.checked(0, num_cached_blocks, block_size, kv_cache_group_id, self.hash_block_size)
        if not hit.end:
            return
        hashes_of(request, getattr(request, "request_id", None), hit.end * hit.stride)
        self.events.reported(request, hit.end, hit.block_size, hit.stride, hit.group)
