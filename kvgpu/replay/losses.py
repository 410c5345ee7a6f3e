"""What evictions and preemptions cost: tokens computed again, and blocks asked for soon after they were evicted."""

from collections.abc import Sequence as Items
from typing import Any

import numpy as np
import numpy.typing as npt

from kvgpu.replay.requests import Sequence
from kvgpu.replay.result import ReplayResult
from kvgpu.replay.traces.keys import PromptKeys

SOON_MS = 60_000.0
"""An eviction was early if the block is asked for within this time."""

NEVER_MS = -np.inf
EMPTY = -1


class EarlyEvictions:
    """Follows what lies in the blocks of a pool of full attention, and when prompts ask for what is gone.

    A key is gone once the last block with it was taken for something else. Blocks of generated tokens have none: no
    prompt asks for them.

    Args:
        keys: Of the trace.
        num_blocks: Blocks of the pool.
    """

    def __init__(self, keys: PromptKeys, num_blocks: int) -> None:
        self._keys = keys
        self._content = np.full(num_blocks, EMPTY, np.int64)
        self._copies = np.zeros(keys.num_keys, np.int32)
        self._gone_ms = np.full(keys.num_keys, NEVER_MS)

    def asked(self, request: int, now_ms: float) -> int:
        """Count the keys that a prompt asks for and that have gone a short time ago, each once. O(its blocks)."""
        keys = self._keys.of(request)[: self._keys.limits[request]]
        gone = keys[self._gone_ms[keys] >= now_ms - SOON_MS]
        self._gone_ms[keys] = NEVER_MS
        return len(gone)

    def took(self, request: int, first: int, ids: npt.NDArray[np.int64], now_ms: float) -> None:
        """Note that a request was given blocks for its places from `first` on. O(blocks)."""
        before = self._content[ids]
        before = before[before != EMPTY]
        np.subtract.at(self._copies, before, 1)
        self._gone_ms[before[self._copies[before] == 0]] = now_ms
        self._content[ids] = EMPTY
        keys = self._keys.of(request)[first : first + len(ids)]
        self._content[ids[: len(keys)]] = keys
        np.add.at(self._copies, keys, 1)
        self._gone_ms[keys] = NEVER_MS

    def never_filled(self, ids: npt.NDArray[np.int64]) -> None:
        """Note that blocks were given back before they were full: nothing is cached in them. O(blocks)."""
        keys = self._content[ids]
        np.subtract.at(self._copies, keys[keys != EMPTY], 1)
        self._content[ids] = EMPTY


class Losses:
    """Counts in a result what is computed again.

    Args:
        result: What it counts in.
        ideal_hits: Tokens of each prompt that an endless cache would hit, int64 [requests].
        early: Follows the blocks; None to count tokens only.

    Attributes:
        result: As given.
    """

    def __init__(
        self, result: ReplayResult, ideal_hits: npt.NDArray[np.int64], early: EarlyEvictions | None = None
    ) -> None:
        self.result = result
        self._ideal_hits = ideal_hits
        self._early = early
        self._held: dict[int, list[int]] = {}
        if early is not None:
            result.early_evictions = 0

    def looked_up(self, sequence: Sequence, now_ms: float) -> None:
        """Note that a request asks for its prompt. O(blocks)."""
        if self._early is not None:
            so_far = self.result.early_evictions or 0
            self.result.early_evictions = so_far + self._early.asked(sequence.index, now_ms)

    def admitted(self, sequence: Sequence, num_hits: int) -> None:
        """Note that a request begins, or begins again after it was preempted, with so many tokens hit. O(1)."""
        before = sequence.num_lost if sequence.counted else int(self._ideal_hits[sequence.index])
        self.result.recomputed_tokens += max(0, before - num_hits)

    def allocated(self, sequence: Sequence, hits: Any, new: Any, now_ms: float) -> None:
        """Note that a request got blocks: those that it hit, or None if it runs already, and new ones. O(blocks)."""
        if self._early is None:
            return
        held = self._held.setdefault(sequence.index, [])
        if hits is not None:
            held += _ids(hits)
        if ids := _ids(new):
            self._early.took(sequence.index, len(held), np.array(ids, np.int64), now_ms)
            held += ids

    def freed(self, sequence: Sequence, num_full: int) -> None:
        """Note that a request gives its blocks back, of which so many are full. O(blocks)."""
        if self._early is not None:
            held = self._held.pop(sequence.index, [])
            self._early.never_filled(np.array(held[num_full:], np.int64))


def _ids(blocks: Any) -> Items[int]:
    ids: list[int] = blocks.get_block_ids()[0]
    return ids
