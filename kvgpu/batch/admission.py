"""Policies for the order in which a scheduler admits waiting requests."""

from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kvgpu.batch.ordering import held_back, longest_prefix_first
from kvgpu.batch.queries import BatchQueries
from kvgpu.batch.rows.record import RowIds
from kvgpu.errors import UnknownNameError

if TYPE_CHECKING:
    from kvgpu.manager import KVCacheManager

AGE_LIMIT_MS = 60_000.0
"""Usual age limit of a policy."""

FIRST_REQUESTS, FIRST_HASHES = 64, 1 << 16


class Policy:
    """An order of admission that depends on what is cached of the requests.

    Args:
        manager: Manager of the cache.
        age_limit_ms: A request that has waited longer goes first, or is not held back.
        request_of: Returns the request of an entry of a queue, if entries are something else.
        arrival: Returns a key that sorts entries in the order of arrival; None if the queue is always in this order.
    """

    def __init__(
        self,
        manager: "KVCacheManager",
        age_limit_ms: float = AGE_LIMIT_MS,
        request_of: Callable[[Any], Any] = lambda entry: entry,
        arrival: Callable[[Any], Any] | None = None,
    ) -> None:
        self._manager = manager
        self._queries = BatchQueries(manager, FIRST_REQUESTS, FIRST_HASHES)
        self._age_limit_ms = age_limit_ms
        self._request_of, self._arrival = request_of, arrival
        self._hash_size = manager.coordinator.hash_block_size
        self._hit_step = manager.coordinator.scheduler_block_size

    def arrange(self, waiting: deque[Any], running: Sequence[Any], waited_ms: Callable[[Any], float]) -> int:
        """Order a queue in place, once per step.

        Args:
            waiting: The queue.
            running: Entries that were admitted and have not finished.
            waited_ms: Returns how long an entry of the queue has waited.

        Returns:
            The number of entries at the tail of the queue that must not be admitted in this step. The head of the
            queue may always be admitted, unless other requests are running.
        """
        raise NotImplementedError

    def _rows(self, requests: list[Any]) -> RowIds:
        """Return the rows of these requests: new ones get a row, and those of all other requests are freed.

        A request that has got tokens since, and waits again after a preemption, counts as new.
        """
        rows = self._queries.rows
        lengths = {request.request_id: request.num_tokens for request in requests}
        known = rows.num_tokens.tolist()
        gone = [row for row in rows.all().tolist() if lengths.get(rows.requests[row].request_id) != known[row]]
        rows.untrack(np.array(gone, np.int64))
        new = [request for request in requests if rows.row_of(request.request_id) is None]
        hashes = sum(len(request.block_hashes) for request in new)
        room_requests, room_hashes = len(rows.requests), len(rows.hashes.arena)
        if len(rows) + len(new) > room_requests or 2 * (len(rows.hashes) + hashes) > room_hashes:
            rows.grow(max(room_requests, 2 * (len(rows) + len(new))), max(room_hashes, 4 * (len(rows.hashes) + hashes)))
        rows.track(new)
        return np.array([rows.row_of(name) for name in lengths], np.int64)


class FirstCome(Policy):
    """First come, first served, where the order of eviction spares what waiting requests would hit."""

    def arrange(self, waiting: deque[Any], running: Sequence[Any], waited_ms: Callable[[Any], float]) -> int:
        """See `Policy`; changes nothing, and holds no request back. One lookup of all waiting requests."""
        self._queries.match(self._rows(list(map(self._request_of, waiting))))
        return 0


class LongestPrefix(Policy):
    """The longest cached prefix first; one call looks up the whole queue."""

    def arrange(self, waiting: deque[Any], running: Sequence[Any], waited_ms: Callable[[Any], float]) -> int:
        """See `Policy`; holds no request back. One lookup of all waiting requests, and O(n log n) to sort them."""
        if len(waiting) < 2 and not spares_waiting(self._manager):
            return 0
        hits = self._queries.match(self._rows(list(map(self._request_of, waiting)))).num_tokens
        waited = [waited_ms(entry) for entry in waiting]
        order = longest_prefix_first(hits, waited, self._age_limit_ms)
        arranged = [waiting[place] for place in order.tolist()]
        waiting.clear()
        waiting.extend(arranged)
        return 0


class HoldBack(Policy):
    """First come, first served, but no request computes what a request before it is about to compute."""

    def arrange(self, waiting: deque[Any], running: Sequence[Any], waited_ms: Callable[[Any], float]) -> int:
        """See `Policy`; requests that are held back go to the tail until the next call.

        One lookup of all waiting requests, and O(n**2) comparisons of one hash for the n requests that wait or compute
        their prompt.
        """
        if not waiting:
            return 0
        # Those at the tail return to their places.
        queue = list(waiting) if self._arrival is None else sorted(waiting, key=self._arrival)
        requests = list(map(self._request_of, queue))
        computing = [
            request
            for request in map(self._request_of, running)
            if request.num_computed_tokens < request.num_prompt_tokens
        ]
        rows = self._rows([*computing, *requests])
        hits = self._queries.match(rows[len(computing) :]).num_tokens
        num_tokens = np.array([request.num_tokens for request in requests], np.int64)
        waited = np.array([waited_ms(entry) for entry in queue], np.float64)
        # The last token is always computed, so not every prompt can hit one more block.
        may_wait = (hits + self._hit_step < num_tokens) & (waited <= self._age_limit_ms)
        computed = [request.num_computed_tokens for request in computing]
        held = held_back(
            self._queries.rows,
            rows,
            np.concatenate([np.array(computed, np.int64), hits]) // self._hash_size,
            np.concatenate([np.zeros(len(computing), np.bool_), may_wait]),
        )[len(computing) :]
        waiting.clear()
        waiting.extend(queue[place] for place in np.argsort(held, kind="stable").tolist())
        return int(held.sum())


POLICIES: dict[str, type[Policy] | None] = {"fcfs": None, "longest-prefix": LongestPrefix, "hold-back": HoldBack}
"""Policy -> its class; None leaves the queue unchanged."""


def spares_waiting(manager: Any) -> bool:
    """Return whether the order of eviction of a manager, of any engine, is to know what waiting requests hit. O(1)."""
    eviction = getattr(getattr(manager, "block_pool", None), "eviction", None)
    return eviction is not None and bool(eviction.expects)


def policy_for(name: str, manager: Any) -> type[Policy] | None:
    """Return the class of a policy, None if the queue stays as it is and need not be looked up. O(1)."""
    kind = POLICIES[name]
    return FirstCome if kind is None and spares_waiting(manager) else kind


def check_policy(name: str) -> None:
    """Check that a policy exists.

    Raises:
        UnknownNameError: There is no such policy; the message lists all policies.
    """
    if name not in POLICIES:
        raise UnknownNameError("policy", name, list(POLICIES))
