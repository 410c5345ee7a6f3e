"""`Appending`: generated tokens on their way into rows, as one change."""

from typing import Any

import numpy as np
import numpy.typing as npt

from kvgpu.batch.growth import Growth
from kvgpu.batch.rows.full_blocks import (
    FullBlockHashes,
    append_made,
    hashes_of_full_blocks,
    kind_of_hasher,
    lookahead_of,
    unhashed_tail,
)
from kvgpu.batch.rows.pending_tokens import Appended, NewTokens, PendingTokens
from kvgpu.batch.rows.record import UNDECIDED, RowIds
from kvgpu.batch.rows.requests import RequestRows
from kvgpu.batch.token_delivery import TokenDelivery

Places = npt.NDArray[np.int64]
"""Places of rows in the batch, int64 [any]."""


class Appending:
    """Appends tokens to rows, some of which have to give theirs to their requests.

    Everything that can fail is prepared first, and rolled back if it fails; then all is made final.

    Args:
        rows, pending: What the tokens are appended to.
        delivery: To the requests of rows that cannot keep their tokens.
        new: The tokens, for valid rows.
        got: The result of appending to all rows at once.
    """

    def __init__(
        self, rows: RequestRows, pending: PendingTokens, delivery: TokenDelivery, new: NewTokens, got: Appended
    ) -> None:
        self._rows, self._pending, self._delivery = rows, pending, delivery
        self._new, self._got = new, got
        self._growth = Growth()
        self._saved: Any = None
        self._refused = got.refused
        """Places of rows that did not take their tokens, for lack of room."""

    def run(self) -> BaseException | None:
        """Append. O(tokens).

        Returns:
            What the first foreign request has raised; all others are served.

        Raises:
            ArgumentError, ArgumentTypeError: As `RequestBlockHasher.update`, and whatever a hash function raises.
                Nothing is changed.
        """
        rows, chosen = self._rows, self._new.rows
        try:
            full, for_request = self._append()
            made: list[FullBlockHashes] = []
            if len(full):
                made = hashes_of_full_blocks(rows, self._pending, chosen[full])
            width = rows.hashes.common_width([each.hashes for each in made])
            took, foreign_took = self._by_kind(for_request)
            refused, foreign_refused = self._by_kind(self._refused)
            diverged = self._delivery.give(self._growth, chosen[took])
            for place in refused.tolist():
                self._growth.give(rows.requests[chosen[place]], self._new.of(place))
            self._growth.hash()
            grown = chosen[np.concatenate([took, refused])]
            more = sum(int(each.counts.sum()) for each in made)
            self._delivery.refuse_hashes(self._growth, grown, width, more)
            self._growth.commit()
        except BaseException:
            self._roll_back()
            raise
        append_made(rows, made, width)
        self._delivery.confirm(chosen[took], diverged)
        self._pending.forget(rows.records, chosen[refused])
        rows.extend(grown)
        return self._serve(foreign_took, foreign_refused)

    def _append(self) -> tuple[Places, Places]:
        """Append again to the rows that refused, after deciding on them or making room.

        Returns:
            `full` and `for_request` of all rows, as in `Appended`.
        """
        records, chosen, got = self._rows.records, self._new.rows, self._got
        if not len(got.refused):
            return got.full, got.for_request
        undecided = records["mode"][chosen[got.refused]] == UNDECIDED
        without_room, foreign = self._by_kind(got.refused[~undecided])
        self._make_room(chosen[without_room])
        again = np.concatenate([got.refused[undecided], without_room])
        for row in chosen[again].tolist():
            if records["mode"][row] == UNDECIDED:
                tail = unhashed_tail(self._rows, row, self._pending.block_size)
                kind = 0 if tail is None else kind_of_hasher(self._rows, row)
                lookahead = lookahead_of(self._rows, row) if tail is None else 0
                self._pending.decide(records, row, tail, kind, lookahead)
        more = self._pending.append(records, again, *self._new)
        self._refused = np.concatenate([foreign, more.refused])
        return np.concatenate([got.full, more.full]), np.concatenate([got.for_request, more.for_request])

    def _make_room(self, rows: RowIds) -> None:
        """Give requests that can be rolled back what is pending of their rows."""
        if len(rows):
            self._saved = self._pending.saved(self._rows.records, rows)
            diverged = self._delivery.give(self._growth, rows)
            self._delivery.confirm(rows, diverged)

    def _roll_back(self) -> None:
        """Undo everything that this call has done."""
        records, chosen = self._rows.records, self._new.rows
        self._growth.roll_back()
        took = np.delete(np.arange(len(chosen)), self._refused)
        self._pending.take_back(records, chosen[took], np.diff(self._new.starts)[took])
        if self._saved is not None:
            self._pending.restore(records, self._saved)

    def _by_kind(self, places: Places) -> tuple[Places, Places]:
        """Return the places of rows whose requests can be rolled back, and of those with foreign requests."""
        together = self._delivery.can_roll_back(self._new.rows[places])
        return places[together], places[~together]

    def _serve(self, took: Places, refused: Places) -> BaseException | None:
        """Give foreign requests their tokens; the rows at `refused` have not taken theirs."""
        records, pending, failure = self._rows.records, self._pending, None
        for place in (*took.tolist(), *refused.tolist()):
            row = self._new.rows[place : place + 1]
            tokens, has_taken = pending.of(records, row)[0], place in took
            error = self._delivery.serve(int(row[0]), tokens if has_taken else tokens + self._new.of(place), True)
            failure = failure or error
            if error is None or not records["num_pending"][row[0]]:
                if not has_taken:
                    pending.forget(records, row)
            elif has_taken:
                pending.take_back(records, row, np.array([len(self._new.of(place))]))
        return failure
