"""`EventQueue`: the events of a pool that nobody has taken yet."""

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from kvgpu.config.behaviour import BEHAVIOUR_0_23, Behaviour, behaviour_of
from kvgpu.environment import int_block_hashes
from kvgpu.errors import ConfigError
from kvgpu.exclusive import Turn
from kvgpu.hashing.block_range import BlockRange
from kvgpu.hashing.map_keys import BlockHashWithGroupId
from kvgpu.integers import as_size

if TYPE_CHECKING:
    from kvgpu.events.builders import EventBuilder


class EventQueue:
    """Builds events of what a pool does, and keeps them in order.

    If building an event raises, because code of a request does, the event is missing, and the call to the pool
    raises the same once it is complete.

    Args:
        enabled: Whether anybody wants events; without, none is queued.
        turn: Of the pool.
        behaviour: Says how events are written; the name of a version, or a `Behaviour`.
        num_hash_lookahead_tokens: Tokens after a block that its hash covers, too.

    Attributes:
        enabled: Whether events are queued; `switch` changes it.
        events: Those queued since the last `take`.

    Raises:
        ConfigError: A variable that says how hashes are written has a bad value; or the number of look-ahead tokens
            is no such number, or is not 0 while events are arrays, which cannot say it.
        ArgumentTypeError, UnknownNameError: As in `behaviour_of`.
    """

    def __init__(
        self, enabled: bool, turn: Turn, behaviour: str | Behaviour = BEHAVIOUR_0_23, num_hash_lookahead_tokens: int = 0
    ) -> None:
        self.events: list[Any] = []
        self._turn = turn
        self._behaviour = behaviour_of(behaviour)
        self._num_lookahead = as_size("num_hash_lookahead_tokens", num_hash_lookahead_tokens, 0)
        if self._num_lookahead and not self._behaviour.maps_events:
            raise ConfigError(
                f"num_hash_lookahead_tokens is {self._num_lookahead}, but events of behaviour "
                f"{self._behaviour.version} cannot show these tokens: it must be 0"
            )
        self.switch(enabled)

    def switch(self, enabled: bool) -> None:
        """Queue events from now on, or none. O(1).

        Raises:
            ConfigError: A variable that says how hashes are written has a bad value.
        """
        if enabled:
            int_block_hashes()  # finds a bad value now, not when the first event is made
        self.enabled = enabled

    @cached_property
    def _builder(self) -> "EventBuilder":
        """What builds events; it needs msgspec, which a pool without events does not need."""
        from kvgpu.events.builders import EventBuilder

        return EventBuilder(self._behaviour, self._num_lookahead)

    def _queue(self, build: Any, *about: Any) -> None:
        event = self._turn.tell(build, *about)
        if event is not None:
            self.events.append(event)

    def stored(self, request: Any, ids: npt.NDArray[np.int32], blocks: BlockRange) -> None:
        """Queue that blocks of a request were cached. O(tokens of the blocks).

        Args:
            request: See `EventBuilder.block_stored`.
            ids: int32, blocks of the range; -1 for those that were not cached.
            blocks: The range.
        """
        if self.enabled:
            self._queue(self._builder.block_stored, request, np.flatnonzero(ids != -1).tolist(), blocks)

    def reported(self, request: Any, num_blocks: int, block_size: int, stride: int, group: int) -> None:
        """Queue that a lookup hit the first `num_blocks` blocks of a request, if any (B93). O(their tokens).

        The event is the one that would be queued if all of them, null blocks included, had just been cached.

        Args:
            request: See `EventBuilder.block_stored`; has `num_blocks * stride` hashes at least.
            num_blocks: Number of blocks, from the first of the request on.
            block_size: Tokens per block.
            stride: Hashes per block.
            group: Group of the blocks.
        """
        if self.enabled and num_blocks:
            hit = BlockRange(0, num_blocks, block_size, stride, group)
            self._queue(self._builder.block_stored, request, list(range(num_blocks)), hit)

    def removed(self, key: BlockHashWithGroupId) -> None:
        """Queue that the block with this key was evicted. O(1)."""
        if self.enabled:
            self._queue(self._builder.block_removed, key)

    def cleared(self) -> None:
        """Queue that all cached blocks were forgotten. O(1)."""
        if self.enabled:
            self._queue(self._builder.all_blocks_cleared)

    def take(self) -> list[Any]:
        """Return the events since the last call, in order; none while they are not wanted. O(1)."""
        if not self.enabled:
            return []
        events, self.events = self.events, []
        return events
