"""In which order a replay admits the requests that wait."""

from collections import deque
from collections.abc import Callable

import numpy as np

from kvgpu.batch.ordering import held_back, longest_prefix_first
from kvgpu.batch.queries import BatchQueries
from kvgpu.batch.rows.record import RowIds
from kvgpu.errors import UnknownNameError
from kvgpu.manager import KVCacheManager
from kvgpu.replay.requests import Sequence

FIRST_REQUESTS, FIRST_HASHES = 64, 1 << 16


class Policy:
    """An order of admission, from what is cached of the requests.

    Args:
        manager: Whose cache is asked.
        age_limit_ms: Who has waited longer comes first, or is not held.
    """

    def __init__(self, manager: KVCacheManager, age_limit_ms: float) -> None:
        self._queries = BatchQueries(manager, FIRST_REQUESTS, FIRST_HASHES)
        self._age_limit_ms = age_limit_ms
        self._hash_size = manager.coordinator.hash_block_size
        self._hit_step = manager.coordinator.scheduler_block_size

    def arrange(self, waiting: deque[Sequence], running: list[Sequence], waited_ms: Callable[[Sequence], float]) -> int:
        """Order a queue in place, once per step.

        Args:
            waiting: The queue.
            running: Those that were admitted and have not left.
            waited_ms: How long one of the queue has waited.

        Returns:
            How many at the tail of the queue must not be admitted in this step. The head of a queue may
            always be, unless something runs.
        """
        raise NotImplementedError

    def _rows(self, sequences: list[Sequence]) -> RowIds:
        """Rows of these requests and of no others: newcomers get one, the rest give theirs back.

        Who got tokens since, and waits again after a preemption, is a newcomer.
        """
        rows = self._queries.rows
        lengths = {s.request.request_id: s.request.num_tokens for s in sequences}
        known = rows.num_tokens.tolist()
        gone = [row for row in rows.all().tolist() if lengths.get(rows.requests[row].request_id) != known[row]]
        rows.untrack(np.array(gone, np.int64))
        new = [s.request for s in sequences if rows.row_of(s.request.request_id) is None]
        hashes = sum(len(request.block_hashes) for request in new)
        room_requests, room_hashes = len(rows.requests), len(rows.arena)
        if len(rows) + len(new) > room_requests or 2 * (len(rows.hashes) + hashes) > room_hashes:
            rows.grow(max(room_requests, 2 * (len(rows) + len(new))), max(room_hashes, 4 * (len(rows.hashes) + hashes)))
        rows.track(new)
        return np.array([rows.row_of(name) for name in lengths], np.int64)


class LongestPrefix(Policy):
    """The longest cached prefix first, asked for the whole queue in one call."""

    def arrange(self, waiting: deque[Sequence], running: list[Sequence], waited_ms: Callable[[Sequence], float]) -> int:
        """See `Policy`; holds nobody. O(waiting requests) and one lookup of all of them."""
        if len(waiting) < 2:
            return 0
        hits = self._queries.match(self._rows(list(waiting))).num_tokens
        waited = [waited_ms(sequence) for sequence in waiting]
        order = longest_prefix_first(hits, waited, self._age_limit_ms)
        arranged = [waiting[place] for place in order.tolist()]
        waiting.clear()
        waiting.extend(arranged)
        return 0


class HoldBack(Policy):
    """First come, first served, but nobody computes what one before them is about to compute."""

    def arrange(self, waiting: deque[Sequence], running: list[Sequence], waited_ms: Callable[[Sequence], float]) -> int:
        """See `Policy`; those that are held go to the tail until the next call.

        One lookup of all that wait, and O(n**2) comparisons of one hash for those that wait or compute
        their prompt.
        """
        if not waiting:
            return 0
        # Who was at the tail goes back to its place; a trace is in the order of arrival.
        queue = sorted(waiting, key=lambda sequence: sequence.index)
        computing = [
            sequence
            for sequence in running
            if sequence.request.num_computed_tokens < sequence.request.num_prompt_tokens
        ]
        rows = self._rows([*computing, *queue])
        hits = self._queries.match(rows[len(computing) :]).num_tokens
        num_tokens = np.array([sequence.request.num_tokens for sequence in queue], np.int64)
        waited = np.array([waited_ms(sequence) for sequence in queue], np.float64)
        # The last token is always computed: not every prompt can hit a block more.
        may_wait = (hits + self._hit_step < num_tokens) & (waited <= self._age_limit_ms)
        computed = [sequence.request.num_computed_tokens for sequence in computing]
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
"""What makes each from a manager and an age limit in ms; None leaves the queue as it is."""


def check_policy(name: str) -> None:
    """
    Raises:
        UnknownNameError: No such policy; the message lists those there are.
    """
    if name not in POLICIES:
        raise UnknownNameError("policy", name, list(POLICIES))
