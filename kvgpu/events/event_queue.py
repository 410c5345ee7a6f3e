"""`EventQueue`: the events of a pool that nobody has taken yet."""

from functools import cached_property
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from kvgpu.environment import int_block_hashes
from kvgpu.exclusive import Turn
from kvgpu.hashing.block_range import BlockRange
from kvgpu.hashing.map_keys import BlockHashWithGroupId


class EventQueue:
    """Builds events of what a pool does, and keeps them in order.

    If building an event raises, because code of a request does, the event is missing, and the call to the pool
    raises the same once it is complete.

    Args:
        enabled: Whether anybody wants events; without, none is queued.
        turn: Of the pool.

    Attributes:
        enabled: Whether events are queued; `switch` changes it.
        events: Those queued since the last `take`.

    Raises:
        ConfigError: A variable that says how hashes are written has a bad value.
    """

    def __init__(self, enabled: bool, turn: Turn) -> None:
        self.events: list[Any] = []
        self._turn = turn
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
    def _builders(self) -> ModuleType:
        """The module that builds events; it needs msgspec, which a pool without events does not need."""
        from kvgpu.events import builders

        return builders

    def _queue(self, build: Any, *about: Any) -> None:
        event = self._turn.tell(build, *about)
        if event is not None:
            self.events.append(event)

    def stored(self, request: Any, ids: npt.NDArray[np.int32], blocks: BlockRange) -> None:
        """Queue that blocks of a request were cached. O(tokens of the blocks).

        Args:
            request: See `builders.block_stored`.
            ids: int32, blocks of the range; -1 for those that were not cached.
            blocks: The range.
        """
        if self.enabled:
            self._queue(self._builders.block_stored, request, np.flatnonzero(ids != -1).tolist(), blocks)

    def removed(self, key: BlockHashWithGroupId) -> None:
        """Queue that the block with this key was evicted. O(1)."""
        if self.enabled:
            self._queue(self._builders.block_removed, key)

    def cleared(self) -> None:
        """Queue that all cached blocks were forgotten. O(1)."""
        if self.enabled:
            self._queue(self._builders.all_blocks_cleared)

    def take(self) -> list[Any]:
        """Return the events since the last call, in order; none while they are not wanted. O(1)."""
        if not self.enabled:
            return []
        events, self.events = self.events, []
        return events
