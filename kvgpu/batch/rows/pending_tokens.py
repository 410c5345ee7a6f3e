"""Tokens that were appended to rows and that the request objects do not have yet."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from kvgpu.arguments import ready
from kvgpu.batch.rows.record import BY_REQUEST, FROM_ROW, UNDECIDED, RowIds, longer
from kvgpu.compiled.jit import jit
from kvgpu.errors import ArgumentError, ArgumentTypeError
from kvgpu.hashing.inputs.token_arrays import Tokens

SPARE = 248
"""Token slots of a row beyond one block: the more there are, the less often a row has to be flushed to its request
object. With usual block sizes the sum is no power of two; otherwise the ends of all rows would fall into a few sets of
the processor's cache."""


class NewTokens(NamedTuple):
    """Tokens for rows: those of rows[i] are tokens[starts[i] : starts[i + 1]]."""

    rows: RowIds
    tokens: npt.NDArray[np.int64]
    """int64 [any]."""
    starts: npt.NDArray[np.int64]
    """int64 [n + 1]."""

    def of(self, place: int) -> list[int]:
        """Return the tokens for rows[place]. O(tokens)."""
        listed: list[int] = self.tokens[self.starts[place] : self.starts[place + 1]].tolist()
        return listed


class Appended(NamedTuple):
    """Places of rows that were given tokens, int64 [any] each; rows that filled no block are in none of them."""

    full: npt.NDArray[np.int64]
    """The row has filled a block, which is hashed from the row."""
    for_request: npt.NDArray[np.int64]
    """The row has all tokens of a block and of its look-ahead, and its request has to be given them for the hash."""
    refused: npt.NDArray[np.int64]
    """The row took nothing: how its blocks are hashed is undecided, or it has no room."""


@jit
def _append(requests: Any, places: Any, held_by: Any, rows: Any, tokens: Any, starts: Any, block_size: int) -> Any:
    """Append tokens[starts[i] : starts[i + 1]] to rows[i] for i in places; returns the parts of `Appended`.

    `held_by` are the tokens and the look-ahead of `PendingTokens`.
    """
    buffer, lookahead = held_by
    full = np.empty(len(places), np.int64)
    for_request = np.empty(len(places), np.int64)
    refused = np.empty(len(places), np.int64)
    num_full, num_for_request, num_refused = 0, 0, 0
    # A row of the buffer holds num_kept tokens that the request has, then num_pending that it lacks; new ones follow.
    for i in places:
        begin, end = starts[i], starts[i + 1]
        record = requests[rows[i]]
        held = record.num_kept + record.num_pending
        if record.mode == UNDECIDED or held + end - begin > buffer.shape[1]:
            refused[num_refused] = i
            num_refused += 1
            continue
        for place in range(begin, end):
            buffer[rows[i], held + place - begin] = tokens[place]
        before = (record.num_tokens - lookahead[rows[i]]) // block_size
        record.num_pending += end - begin
        record.num_tokens += end - begin
        if (record.num_tokens - lookahead[rows[i]]) // block_size == before:
            continue
        if record.mode == FROM_ROW:
            full[num_full] = i
            num_full += 1
        else:
            for_request[num_for_request] = i
            num_for_request += 1
    return full[:num_full], for_request[:num_for_request], refused[:num_refused]


@jit
def _full_blocks(requests: Any, rows: Any, buffer: Any, block_size: int) -> Any:
    """Count the full blocks of each row that have no hash, int64 [n], and copy their tokens, int64 [n, longest].

    Shorter rows end in zeros. Also returns whether all tokens fit into 32 bits.
    """
    counts = np.empty(len(rows), np.int64)
    for i in range(len(rows)):
        record = requests[rows[i]]
        counts[i] = record.num_tokens // block_size - (record.end - record.begin)
    tokens = np.zeros((len(rows), block_size * counts.max()), np.int64)
    outside = 0
    for i in range(len(rows)):
        start = requests[rows[i]].num_ahead * block_size
        for place in range(counts[i] * block_size):
            token = buffer[rows[i], start + place]
            tokens[i, place] = token
            outside |= (token + (1 << 31)) >> 32
    return counts, tokens, outside == 0


@jit
def _pending(requests: Any, rows: Any, buffer: Any) -> Any:
    """Return the number of pending tokens of each row, int64 [n], and the tokens, one row after the other."""
    counts = np.empty(len(rows), np.int64)
    for i in range(len(rows)):
        counts[i] = requests[rows[i]].num_pending
    tokens = np.empty(counts.sum(), np.int64)
    done = 0
    for i in range(len(rows)):
        record = requests[rows[i]]
        for place in range(record.num_kept, record.num_kept + record.num_pending):
            tokens[done] = buffer[rows[i], place]
            done += 1
    return counts, tokens


@jit
def _confirm(requests: Any, rows: Any, buffer: Any, block_size: int) -> None:
    """Mark all tokens of rows as delivered; those without a hash move to the front."""
    for i in range(len(rows)):
        record = requests[rows[i]]
        line = buffer[rows[i]]
        held = record.num_kept + record.num_pending
        hashed = record.num_ahead * block_size
        for place in range(hashed, held):
            line[place - hashed] = line[place]
        record.num_kept = held - hashed if record.mode == FROM_ROW else 0
        record.num_pending = record.num_ahead = 0


class PendingTokens:
    """The pending tokens of each row: those that its request object does not have.

    Before them a row keeps all other tokens that are in no hashed block, so that any block that becomes full can be
    hashed from the row.

    Args:
        max_requests: Rows.
        block_size: Tokens per block hash.

    Attributes:
        block_size: The same.
        tokens: int64 [rows, any].
        kinds: int8 [rows], how the blocks of a row are hashed if that is FROM_ROW: 0 by its hasher, k by SHA-256 of
            a message of kind k - 1 (see `kvgpu.hashing.serialised.messages`).
        lookahead: int64 [rows], tokens after a block that its hash covers, too; 0 for all but BY_REQUEST.
    """

    def __init__(self, max_requests: int, block_size: int) -> None:
        self.tokens: npt.NDArray[np.int64] = np.full((max_requests, block_size + SPARE), 0, np.int64)
        self.kinds: npt.NDArray[np.int8] = np.zeros(max_requests, np.int8)
        self.lookahead: npt.NDArray[np.int64] = np.zeros(max_requests, np.int64)
        self.block_size = block_size

    def grow(self, max_requests: int) -> None:
        """Reserve more rows. O(capacity)."""
        self.tokens, self.kinds = longer(self.tokens, max_requests), longer(self.kinds, max_requests)
        self.lookahead = longer(self.lookahead, max_requests)

    @staticmethod
    def checked(
        rows: RowIds, tokens: npt.ArrayLike, counts: npt.ArrayLike | None
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return tokens for rows and their starts, as in `NewTokens`; one each if `counts` is None. O(tokens).

        Raises:
            ArgumentTypeError: Tokens or counts are not integers.
            ArgumentError: Their number does not fit.
        """
        try:
            given = np.asarray(tokens)
            sizes = None if counts is None else np.asarray(counts)
        except (TypeError, ValueError, OverflowError):
            raise ArgumentTypeError("tokens and counts must be integers [any]") from None
        for name, array in (("tokens", given), ("counts", sizes)):
            if array is not None and array.size and array.dtype.kind not in "iu":
                raise ArgumentTypeError(f"{name} must be integers, got {array.dtype}")
        starts = np.arange(len(rows) + 1)
        fit = sizes is None or (sizes.shape == (len(rows),) and bool((sizes >= 0).all()))
        if sizes is not None and fit:
            sizes.astype(np.int64).cumsum(out=starts[1:])
        if not fit or given.shape != (starts[-1],):
            raise ArgumentError(
                f"{len(rows)} rows need as many counts, and as many tokens as these add up to; got counts "
                f"{'None' if sizes is None else sizes.shape} and tokens {given.shape}"
            )
        return ready(given, np.int64), starts

    def decide(self, records: Any, row: int, tail: Tokens | None, kind: int, lookahead: int = 0) -> None:
        """Decide how the blocks of a row with nothing pending are hashed.

        Args:
            records: REQUEST_RECORD [rows].
            row: The row.
            tail: Tokens after its last hash, fewer than a block, with which it hashes from here on; None to leave that
                to its request object.
            kind: How, if it does: see `kinds`.
            lookahead: Tokens after a block that its hash covers, too, if its request object hashes.

        O(block size).
        """
        self.kinds[row], self.lookahead[row] = kind, lookahead
        records["mode"][row] = BY_REQUEST if tail is None else FROM_ROW
        records["num_kept"][row] = 0 if tail is None else len(tail)
        if tail is not None:
            self.tokens[row, : len(tail)] = tail

    @staticmethod
    def forget(records: Any, rows: RowIds | list[int]) -> None:
        """Let the next call `decide` again on rows with nothing pending, whose requests may have changed. O(rows)."""
        records["mode"][rows] = UNDECIDED
        records["num_kept"][rows] = 0

    def append(
        self,
        records: Any,
        places: npt.NDArray[np.int64],
        rows: RowIds,
        tokens: npt.NDArray[np.int64],
        starts: npt.NDArray[np.int64],
    ) -> Appended:
        """Append tokens[starts[i] : starts[i + 1]], which were `checked`, to rows[i] for i in places.

        O(tokens + places).
        """
        return Appended(*_append(records, places, (self.tokens, self.lookahead), rows, tokens, starts, self.block_size))

    @staticmethod
    def take_back(records: Any, rows: RowIds, counts: npt.NDArray[np.int64]) -> None:
        """Forget the last `counts` tokens of rows, which were just appended and are in no hashed block. O(rows)."""
        records["num_tokens"][rows] -= counts
        records["num_pending"][rows] -= counts

    def saved(self, records: Any, rows: RowIds) -> tuple[RowIds, Any, npt.NDArray[np.int64]]:
        """Copy what `restore` needs to undo changes of rows. O(rows)."""
        return rows, records[rows], self.tokens[rows]

    def restore(self, records: Any, saved: tuple[RowIds, Any, npt.NDArray[np.int64]]) -> None:
        """Bring rows back to where they were when they were `saved`. O(rows)."""
        rows, saved_records, tokens = saved
        records[rows] = saved_records
        self.tokens[rows] = tokens

    def full_blocks(self, records: Any, rows: RowIds) -> tuple[npt.NDArray[np.int64], Tokens]:
        """Return how many full blocks without a hash each row has, which is at least one, and their tokens.

        The numbers are int64 [n]. The tokens are int32 if they all fit, else int64, [n, longest row]; shorter rows end
        in zeros. O(tokens).
        """
        counts, tokens, fit = _full_blocks(records, rows, self.tokens, self.block_size)
        return counts, tokens.astype(np.int32) if fit else tokens

    def confirm(self, records: Any, rows: RowIds) -> None:
        """Note that the request objects of rows were given their tokens and hashes. O(tokens)."""
        _confirm(records, rows, self.tokens, self.block_size)

    def of(self, records: Any, rows: RowIds) -> list[list[int]]:
        """Return the tokens that the request objects of rows do not have. O(tokens)."""
        counts, tokens = _pending(records, rows, self.tokens)
        listed, ends = tokens.tolist(), counts.cumsum().tolist()
        return [listed[end - count : end] for end, count in zip(ends, counts.tolist(), strict=True)]
