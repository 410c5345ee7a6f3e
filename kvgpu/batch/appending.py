"""`Appending`: generated tokens on their way into rows, as one change."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from kvgpu.batch.delivery import Delivery
from kvgpu.batch.growth import Growth
from kvgpu.batch.rows.full_blocks import RowHashesMade, append_made, hashes_of_full_blocks
from kvgpu.batch.rows.pending_tokens import Appended, PendingTokens
from kvgpu.batch.rows.record import UNDECIDED, RowIds
from kvgpu.batch.rows.requests import RequestRows
from kvgpu.hashing.inputs.token_arrays import Tokens

Places = npt.NDArray[np.int64]
"""Of rows in the batch, int64 [any]."""


class Appending:
    """Appends tokens to rows, of which some have to give theirs to requests: what can fail is prepared, and taken
    back if it does; then all is made final.

    Args:
        rows, pending: Where they go.
        delivery: To the requests of rows that cannot keep them.
        chosen: int64 [n], valid rows.
        tokens: int64 [any], those of chosen[i] from starts[i] to starts[i + 1].
        starts: int64 [n + 1].
        got: What came of appending them all, to those that can keep them.
        tail: What `unhashed_tail` says of a row.
    """

    def __init__(
        self,
        rows: RequestRows,
        pending: PendingTokens,
        delivery: Delivery,
        chosen: RowIds,
        tokens: npt.NDArray[np.int64],
        starts: npt.NDArray[np.int64],
        got: Appended,
        tail: Callable[[int], Tokens | None],
    ) -> None:
        self._rows, self._pending, self._delivery = rows, pending, delivery
        self._chosen, self._tokens, self._starts, self._tail = chosen, tokens, starts, tail
        self._growth = Growth()
        self._saved: Any = None
        self._got, self._left = got, got.left
        """Places of rows that have not taken their tokens: they are more than the row can keep."""

    def run(self) -> BaseException | None:
        """Append.

        Returns:
            What the first request of another engine has raised; all others are served.

        Raises:
            ArgumentError, ArgumentTypeError: As `RequestBlockHasher.update`, and whatever a hash function raises.
                Nothing is changed.
        """
        rows, chosen = self._rows, self._chosen
        try:
            full, behind = self._append()
            made: list[RowHashesMade] = []
            if len(full):
                made = hashes_of_full_blocks(rows, self._pending, chosen[full])
            width = rows.common_width([each.hashes for each in made])
            mine, others = self._shared_out(behind), self._shared_out(self._left)
            beside = self._delivery.give(self._growth, chosen[mine[0]])
            for place in others[0].tolist():
                self._growth.give(rows.requests[chosen[place]], self._of(place))
            self._growth.hash()
            grown = chosen[np.concatenate([mine[0], others[0]])]
            more = sum(int(each.counts.sum()) for each in made)
            self._delivery.refuse_hashes(self._growth, grown, width, more)
            self._growth.keep()
        except BaseException:
            self._take_back()
            raise
        append_made(rows, made, width)
        self._delivery.taken(chosen[mine[0]], beside)
        self._pending.forget(rows.records, chosen[others[0]])
        rows.extend(grown)
        return self._serve(mine[1], others[1])

    def _append(self) -> tuple[Places, Places]:
        """Append to the rows that can keep their tokens and have not got them; places of those that have filled a
        block and are hashed from the row, and of those whose requests hash it."""
        records, pending, chosen = self._rows.records, self._pending, self._chosen
        got = self._got
        if not len(got.left):
            return got.full, got.behind
        undecided = records["way"][chosen[got.left]] == UNDECIDED
        ours, others = self._shared_out(got.left[~undecided])
        self._make_room(chosen[ours])
        again = np.concatenate([got.left[undecided], ours])
        for row in chosen[again].tolist():
            if records["way"][row] == UNDECIDED:
                pending.decide(records, row, self._tail(row))
        more = pending.append(records, chosen, again, self._tokens, self._starts)
        self._left = np.concatenate([others, more.left])
        return np.concatenate([got.full, more.full]), np.concatenate([got.behind, more.behind])

    def _make_room(self, rows: RowIds) -> None:
        """Give requests of ours what is pending of their rows."""
        if len(rows):
            self._saved = self._pending.saved(self._rows.records, rows)
            beside = self._delivery.give(self._growth, rows)
            self._delivery.taken(rows, beside)

    def _take_back(self) -> None:
        """Let all be as before."""
        records = self._rows.records
        self._growth.take_back()
        taken = np.delete(np.arange(len(self._chosen)), self._left)
        self._pending.take_back(records, self._chosen[taken], np.diff(self._starts)[taken])
        if self._saved is not None:
            self._pending.restore(records, self._saved)

    def _shared_out(self, places: Places) -> tuple[Places, Places]:
        """Places of rows whose requests are ours, and of the others."""
        ours = self._delivery.ours(self._chosen[places])
        return places[ours], places[~ours]

    def _of(self, place: int) -> list[int]:
        """The tokens for a row."""
        listed: list[int] = self._tokens[self._starts[place] : self._starts[place + 1]].tolist()
        return listed

    def _serve(self, behind: Places, left: Places) -> BaseException | None:
        """Give requests of other engines their tokens; those of `left` are not in their rows."""
        records, pending, failure = self._rows.records, self._pending, None
        for place in (*behind.tolist(), *left.tolist()):
            row = self._chosen[place : place + 1]
            tokens, kept = pending.of(records, row)[0], place in behind
            error = self._delivery.serve(int(row[0]), tokens if kept else tokens + self._of(place), True)
            failure = failure or error
            if error is None or not records["num_pending"][row[0]]:
                if not kept:
                    pending.forget(records, row)
            elif kept:
                pending.take_back(records, row, np.array([len(self._of(place))]))
        return failure
