"""`TokenDelivery`: pending tokens of rows on their way to the request objects."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from kvgpu.batch.growth import Growth, can_roll_back
from kvgpu.batch.rows.pending_tokens import PendingTokens
from kvgpu.batch.rows.record import BY_REQUEST, RowIds
from kvgpu.batch.rows.requests import RequestRows
from kvgpu.errors import ArgumentError
from kvgpu.hashing.functions import HASH_WIDTHS


class TokenDelivery:
    """Gives requests the pending tokens of their rows.

    Requests that can be rolled back get theirs as one change. Foreign ones, which append by code of another engine,
    get theirs one by one.

    Args:
        rows: The rows.
        pending: Their tokens.
    """

    def __init__(self, rows: RequestRows, pending: PendingTokens) -> None:
        self._rows, self._pending = rows, pending

    def can_roll_back(self, rows: RowIds) -> npt.NDArray[np.bool_]:
        """Return, for each row, whether its request can be rolled back, bool [n]. O(rows)."""
        requests = self._rows.requests
        return np.fromiter((can_roll_back(requests[row]) for row in rows.tolist()), np.bool_, len(rows))

    def give(self, growth: Growth, rows: RowIds) -> list[int]:
        """Give requests that can be rolled back the tokens of their rows, which stay pending until `confirm`.

        Returns:
            Rows that their requests have diverged from: these were given tokens by others as well, so that the hashes
            of the rows are of other blocks.

        O(pending tokens).
        """
        records, diverged = self._rows.records, []
        for row, tokens in zip(rows.tolist(), self._pending.of(records, rows), strict=True):
            request, record = self._rows.requests[row], records[row]
            num_ahead, num_tokens = int(record["num_ahead"]), int(record["num_tokens"] - record["num_pending"])
            num_hashes = int(record["end"] - record["begin"]) - num_ahead
            if record["mode"] == BY_REQUEST:
                growth.give(request, tokens)
            elif request.num_tokens != num_tokens or len(request.block_hashes) != num_hashes:
                diverged.append(row)
                growth.give(request, tokens)
            else:
                growth.give(request, tokens, self._rows.hashes.of(row, num_hashes).copy())
        return diverged

    def confirm(self, rows: RowIds, diverged: list[int]) -> None:
        """Note that requests were given the pending tokens of their rows; `diverged` is what `give` returned. O(rows).

        `RequestRows.extend` has to follow for diverged rows.
        """
        records = self._rows.records
        if diverged:
            records["end"][diverged] -= records["num_ahead"][diverged]
            self._rows.forget(diverged)
        self._pending.confirm(records, rows)
        if diverged:
            self._pending.forget(records, diverged)

    def refuse_hashes(self, growth: Growth, rows: RowIds, width: int, more: int) -> None:
        """Check that rows can take over what their requests are about to get.

        Args:
            growth: The requests, hashed.
            rows: Their rows.
            width: Bytes of the hashes that there are; 0 for none.
            more: Hashes that other rows are to get.

        Raises:
            ArgumentError: Hashes of another width, or no room for them.

        O(rows).
        """
        widths = {each for new in growth.new for each in new.widths}
        if not widths <= set(HASH_WIDTHS) or len(widths | ({width} if width else set())) > 1:
            raise ArgumentError(f"hashes of 16 or of 32 bytes can be tracked, all of one width; got {sorted(widths)}")
        gains = {
            id(request): count for new in growth.new for request, count in zip(new.requests, new.counts, strict=True)
        }
        records = self._rows.records[rows]
        for row, held in zip(rows.tolist(), (records["end"] - records["begin"]).tolist(), strict=True):
            request = self._rows.requests[row]
            more += max(0, len(request.block_hashes) + gains.get(id(request), 0) - held)
        self._rows.hashes.refuse_too_many(more)

    def serve(self, row: int, tokens: Sequence[int], extends: bool) -> BaseException | None:
        """Give a foreign request the pending tokens of its row, and maybe more.

        Args:
            row: The row.
            tokens: Its pending tokens, then those that it has no room for.
            extends: Take over into the row what the request has become.

        Returns:
            What the request raised, or what is wrong with it; None if all is well. If it has taken no token then,
            nothing is changed.

        O(tokens).
        """
        request, failure = self._rows.requests[row], None
        before = request.num_tokens
        try:
            request.append_output_token_ids(tokens)
        except BaseException as error:
            error.add_note(f"while request {request.request_id} was given tokens; the others have got theirs")
            if request.num_tokens == before:
                return error
            failure = error
        rows = np.array([row], np.int64)
        self._pending.confirm(self._rows.records, rows)
        if extends:
            try:
                self._rows.extend(rows)
            except ArgumentError as error:
                failure = failure or error
        return failure

    def flush(self, rows: RowIds) -> BaseException | None:
        """Give requests the tokens, and the hashes, that they do not have yet.

        Returns:
            What the first foreign request has raised, which keeps waiting for its tokens; all others have theirs.

        Raises:
            ArgumentError, ArgumentTypeError: As `RequestBlockHasher.update`, and whatever a hash function raises; no
                request was given anything.

        O(rows and pending tokens).
        """
        records = self._rows.records
        rows = rows[records["num_pending"][rows] > 0]
        if not len(rows):
            return None
        together = self.can_roll_back(rows)
        growth = Growth()
        try:
            diverged = self.give(growth, rows[together])
            growth.hash()
            growth.commit()
        except BaseException:
            growth.roll_back()
            raise
        self.confirm(rows[together], diverged)
        failure = None
        foreign = rows[~together]
        for row, tokens in zip(foreign.tolist(), self._pending.of(records, foreign), strict=True):
            error = self.serve(row, tokens, False)
            failure = failure or error
        return failure
