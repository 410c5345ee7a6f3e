"""`TrackedRequests`: the request objects of rows, and how they and their rows learn of each other's changes."""

import numpy as np
import numpy.typing as npt

from kvgpu.batch.appending import Appending
from kvgpu.batch.rows.full_blocks import hash_full_blocks
from kvgpu.batch.rows.pending_tokens import NewTokens, PendingTokens
from kvgpu.batch.rows.record import RowIds
from kvgpu.batch.rows.requests import RequestRows
from kvgpu.batch.rows.usual_rows import UsualRows
from kvgpu.batch.token_delivery import TokenDelivery
from kvgpu.errors import ArgumentError
from kvgpu.exclusive import Turn
from kvgpu.integers import as_integer
from kvgpu.request import check_tokens


class TrackedRequests:
    """Request objects whose `num_tokens` and `num_computed_tokens` their rows own.

    Args:
        rows: The rows.
        hash_block_size: Tokens per block hash.
        max_model_len: Most tokens of a request.
        turn: Calls code of others, such as the setter of an attribute.

    Attributes:
        usual: Serves usual calls.
    """

    def __init__(self, rows: RequestRows, hash_block_size: int, max_model_len: int, turn: Turn) -> None:
        self._rows = rows
        self._turn = turn
        self._pending = PendingTokens(len(rows.records), hash_block_size)
        self._delivery = TokenDelivery(rows, self._pending)
        self.usual = UsualRows(rows, self._pending, max_model_len)

    def grow(self, max_requests: int) -> None:
        """Reserve more rows. O(capacity)."""
        self.usual.forget()
        self._pending.grow(max_requests)

    def append(self, rows: RowIds, tokens: npt.ArrayLike, counts: npt.ArrayLike | None) -> None:
        """Append generated tokens to valid rows; see `BatchManager.append_batch`."""
        pending, records = self._pending, self._rows.records
        given, starts = pending.checked(rows, tokens, counts)
        check_tokens((self._rows.requests[row] for row in rows), given)
        self._rows.hashes.refuse_tokens(rows, starts, pending.block_size)
        got = pending.append(records, np.arange(len(rows)), rows, given, starts)
        if len(got.for_request) or len(got.refused):
            new = NewTokens(rows, given, starts)
            failure = Appending(self._rows, pending, self._delivery, new, got).run()
            if failure is not None:
                raise failure
        elif len(got.full):
            try:
                hash_full_blocks(self._rows, pending, rows[got.full])
            except BaseException:
                pending.take_back(records, rows, np.diff(starts))
                raise

    def sync(self, rows: RowIds) -> None:
        """Bring the request objects of valid rows up to date; see `BatchManager.sync`. O(rows and pending tokens)."""
        failure = self._delivery.flush(rows)
        computed = self._rows.records["num_computed"][rows].tolist()
        for row, num_computed in zip(rows.tolist(), computed, strict=True):
            self._turn.tell(setattr, self._rows.requests[row], "num_computed_tokens", num_computed)
        self._rows.seen[rows] = computed
        if failure is not None:
            raise failure

    def extend(self, rows: RowIds, num_computed: npt.NDArray[np.int64]) -> None:
        """Take over into valid rows what their requests have become.

        Args:
            rows: int64 [n], which `RequestRows.refuse_shorter` has accepted.
            num_computed: What `computed` has answered for them.

        Raises:
            ArgumentError: As `RequestRows.extend`. Nothing is changed.

        O(new hashes and pending tokens).
        """
        failure = self._delivery.flush(rows)
        if failure is not None:
            raise failure
        self._pending.forget(self._rows.records, rows)
        self._rows.extend(rows)
        self._rows.records["num_computed"][rows] = self._rows.seen[rows] = num_computed

    def computed(self, rows: RowIds) -> npt.NDArray[np.int64]:
        """Return the computed tokens of rows, int64 [n]: what a request says if it was changed, else its row. O(rows).

        Raises:
            ArgumentError: A row and its request have both been changed, or the request says no number.
        """
        by_row, seen, found = self._rows.records["num_computed"][rows].tolist(), self._rows.seen[rows].tolist(), []
        for row, known, agreed in zip(rows.tolist(), by_row, seen, strict=True):
            name = self._rows.names[row]
            said = as_integer(
                f"request {name}: num_computed_tokens", getattr(self._rows.requests[row], "num_computed_tokens", known)
            )
            if said not in (agreed, known) and known != agreed:
                raise ArgumentError(
                    f"request {name} has {said} computed tokens, its row {known}, and {agreed} when they "
                    "last agreed: sync() before the request is changed"
                )
            found.append(known if said == agreed else said)
        return np.array(found, np.int64)

    def preemptions(self, rows: RowIds) -> list[int]:
        """Return how often the requests of rows were preempted. O(rows).

        Raises:
            ArgumentTypeError: One does not say.
        """
        names, requests = self._rows.names, self._rows.requests
        return [
            as_integer(f"request {names[row]}: num_preemptions", getattr(requests[row], "num_preemptions", None))
            for row in rows.tolist()
        ]

    def set_preemptions(self, rows: RowIds, counts: list[int]) -> None:
        """Tell requests how often they were preempted; their next lookups count as those of preempted ones. O(rows)."""
        self._rows.records["preempted"][rows] = True
        for row, count in zip(rows.tolist(), counts, strict=True):
            self._turn.tell(setattr, self._rows.requests[row], "num_preemptions", count)

    def refuse_renamed(self, rows: RowIds) -> None:
        """Check that requests go by the names under which they were tracked. O(rows).

        Raises:
            ArgumentError: One goes by another name.
        """
        for row in rows.tolist():
            name, request = self._rows.names[row], self._rows.requests[row]
            if request.request_id != name:
                raise ArgumentError(f"request {name} is now called {request.request_id}: untrack() and track() it")
