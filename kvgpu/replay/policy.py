"""In which order a replay admits the requests that wait."""

from collections import deque
from collections.abc import Callable

import numpy as np

from kvgpu.batch.ordering import longest_prefix_first
from kvgpu.batch.queries import BatchQueries
from kvgpu.errors import UnknownNameError
from kvgpu.manager import KVCacheManager
from kvgpu.replay.requests import Sequence

POLICIES = ("fcfs", "longest-prefix")
FIRST_REQUESTS, FIRST_HASHES = 64, 1 << 16


def check_policy(name: str) -> None:
    """
    Raises:
        UnknownNameError: No such policy; the message lists those there are.
    """
    if name not in POLICIES:
        raise UnknownNameError("policy", name, list(POLICIES))


class LongestPrefix:
    """The longest cached prefix first, asked for the whole queue in one call.

    Args:
        manager: Whose cache is asked.
        age_limit_ms: Who has waited longer than this goes first.
    """

    def __init__(self, manager: KVCacheManager, age_limit_ms: float) -> None:
        self._queries = BatchQueries(manager, FIRST_REQUESTS, FIRST_HASHES)
        self._age_limit_ms = age_limit_ms

    def arrange(self, waiting: deque[Sequence], waited_ms: Callable[[Sequence], float]) -> None:
        """Order a queue in place. O(waiting requests) and one lookup of all of them."""
        if len(waiting) < 2:
            return
        rows = self._rows(waiting)
        hits = self._queries.match(rows).num_tokens
        waited = [waited_ms(sequence) for sequence in waiting]
        order = longest_prefix_first(hits, waited, self._age_limit_ms)
        arranged = [waiting[place] for place in order.tolist()]
        waiting.clear()
        waiting.extend(arranged)

    def _rows(self, waiting: deque[Sequence]) -> np.ndarray:
        """Rows of those that wait: newcomers get one, those that left give theirs back.

        Who waits gets no tokens; who comes back after a preemption gets a new row.
        """
        rows = self._queries.rows
        names = {sequence.request.request_id for sequence in waiting}
        gone = [row for row in rows.all().tolist() if rows.requests[row].request_id not in names]
        rows.untrack(np.array(gone, np.int64))
        new = [s.request for s in waiting if rows.row_of(s.request.request_id) is None]
        hashes = sum(len(request.block_hashes) for request in new)
        room_requests, room_hashes = len(rows.requests), len(rows.arena)
        if len(rows) + len(new) > room_requests or 2 * (rows.num_hashes + hashes) > room_hashes:
            rows.grow(
                max(room_requests, 2 * (len(rows) + len(new))),
                max(room_hashes, 4 * (rows.num_hashes + hashes)),
            )
        rows.track(new)
        found = [rows.row_of(sequence.request.request_id) for sequence in waiting]
        return np.array(found, np.int64)
