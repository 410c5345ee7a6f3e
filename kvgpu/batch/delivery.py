"""`Delivery`: pending tokens of rows on their way to the request objects."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from kvgpu.batch.growth import Growth, grows_here
from kvgpu.batch.rows.pending_tokens import PendingTokens
from kvgpu.batch.rows.record import BY_REQUEST, RowIds
from kvgpu.batch.rows.requests import RequestRows
from kvgpu.errors import ArgumentError
from kvgpu.hashing.functions import HASH_WIDTHS


class Delivery:
    """Gives requests what is pending of their rows: to ours as one change, to those of other engines one by one.

    Args:
        rows: The rows.
        pending: Their tokens.
    """

    def __init__(self, rows: RequestRows, pending: PendingTokens) -> None:
        self._rows, self._pending = rows, pending

    def ours(self, rows: RowIds) -> npt.NDArray[np.bool_]:
        """For which rows the request `grows_here`. O(rows)."""
        requests = self._rows.requests
        return np.fromiter((grows_here(requests[row]) for row in rows.tolist()), np.bool_, len(rows))

    def give(self, growth: Growth, rows: RowIds) -> list[int]:
        """Give requests of ours what is pending of their rows, which stays pending until it is `taken`.

        Returns:
            Rows whose requests were given tokens beside them, so that the hashes of the rows are of other blocks.

        O(pending tokens).
        """
        records, beside = self._rows.records, []
        for row, tokens in zip(rows.tolist(), self._pending.of(records, rows), strict=True):
            request, record = self._rows.requests[row], records[row]
            ahead, had = int(record["num_ahead"]), int(record["num_tokens"] - record["num_pending"])
            known = int(record["end"] - record["begin"]) - ahead
            if record["way"] == BY_REQUEST:
                growth.give(request, tokens)
            elif request.num_tokens != had or len(request.block_hashes) != known:
                beside.append(row)
                growth.give(request, tokens)
            else:
                growth.give(request, tokens, self._rows.hashes(row, known).copy())
        return beside

    def taken(self, rows: RowIds, beside: list[int]) -> None:
        """Requests have got what was pending of their rows; `beside`: what `give` returned. O(rows)."""
        records = self._rows.records
        if beside:
            # `extend` is to follow.
            records["end"][beside] -= records["num_ahead"][beside]
            self._rows.forget(beside)
        self._pending.take(records, rows)
        if beside:
            self._pending.forget(records, beside)

    def refuse_hashes(self, growth: Growth, rows: RowIds, width: int, more: int) -> None:
        """See that rows of ours can take over what their requests are to get.

        Args:
            growth: The requests, hashed.
            rows: Theirs.
            width: Bytes of the hashes that there are; 0 for none.
            more: Hashes that other rows are to get.

        Raises:
            ArgumentError: Hashes of another width, or no room for them.
        """
        widths = {each for new in growth.new for each in new.widths}
        if not widths <= set(HASH_WIDTHS) or len(widths | ({width} if width else set())) > 1:
            raise ArgumentError(f"hashes of 16 or of 32 bytes can be tracked, all of one width; got {sorted(widths)}")
        gains = {
            id(request): count for new in growth.new for request, count in zip(new.requests, new.counts, strict=True)
        }
        records = self._rows.records[rows]
        for row, have in zip(rows.tolist(), (records["end"] - records["begin"]).tolist(), strict=True):
            request = self._rows.requests[row]
            more += max(0, len(request.block_hashes) + gains.get(id(request), 0) - have)
        self._rows.refuse_too_many(more)

    def serve(self, row: int, tokens: Sequence[int], extends: bool) -> BaseException | None:
        """Give a request of another engine what is pending of its row, or more.

        Args:
            row: The row.
            tokens: Its pending tokens, and those that it cannot keep.
            extends: Take over what the request has become.

        Returns:
            What the request raised, or what is wrong with it; None if all is well. If it has taken no token then,
            nothing is changed.
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
        self._pending.take(self._rows.records, rows)
        if extends:
            try:
                self._rows.extend(rows)
            except ArgumentError as error:
                failure = failure or error
        return failure

    def flush(self, rows: RowIds) -> BaseException | None:
        """Give requests the tokens, and the hashes, that they have not got yet.

        Returns:
            What the first request of another engine has raised, which keeps waiting for its tokens; all others have
            got theirs.

        Raises:
            ArgumentError, ArgumentTypeError: As `RequestBlockHasher.update`, and whatever a hash function raises; no
                request has got anything.

        O(rows and pending tokens).
        """
        records = self._rows.records
        rows = rows[records["num_pending"][rows] > 0]
        if not len(rows):
            return None
        ours = self.ours(rows)
        mine, growth = rows[ours], Growth()
        try:
            beside = self.give(growth, mine)
            growth.hash()
            growth.keep()
        except BaseException:
            growth.take_back()
            raise
        self.taken(mine, beside)
        failure = None
        others = rows[~ours]
        for row, tokens in zip(others.tolist(), self._pending.of(records, others), strict=True):
            error = self.serve(row, tokens, False)
            failure = failure or error
        return failure
