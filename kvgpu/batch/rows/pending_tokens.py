"""Tokens that were appended to rows and that the request objects have not got yet."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from kvgpu.arguments import ready
from kvgpu.batch.rows.record import BY_REQUEST, FROM_ROW, UNDECIDED, RowIds, longer
from kvgpu.compiled.jit import jit
from kvgpu.errors import ArgumentError, ArgumentTypeError
from kvgpu.hashing.inputs.token_arrays import Tokens

SPARE = 248
"""Tokens that a row can keep beyond a block: so seldom its request object must be given them. Not a power of two
with usual blocks, or the ends of all rows would fall into a few sets of the processor's cache."""


@jit
def _append(table: Any, rows: Any, places: Any, buffer: Any, tokens: Any, starts: Any, block_size: int) -> Any:
    """Append tokens[starts[i] : starts[i + 1]] to rows[i] for i in places.

    Returns places of rows that have filled a block and are hashed from the row, of those whose requests hash
    it, and of those that are undecided or without room and took nothing.
    """
    full = np.empty(len(places), np.int64)
    behind = np.empty(len(places), np.int64)
    left = np.empty(len(places), np.int64)
    num_full, num_behind, num_left = 0, 0, 0
    for i in places:
        begin, end = starts[i], starts[i + 1]
        record = table[rows[i]]
        held = record.num_kept + record.num_pending
        if record.way == UNDECIDED or held + end - begin > buffer.shape[1]:
            left[num_left] = i
            num_left += 1
            continue
        for place in range(begin, end):
            buffer[rows[i], held + place - begin] = tokens[place]
        before = record.num_tokens // block_size
        record.num_pending += end - begin
        record.num_tokens += end - begin
        if record.num_tokens // block_size == before:
            continue
        if record.way == FROM_ROW:
            full[num_full] = i
            num_full += 1
        else:
            behind[num_behind] = i
            num_behind += 1
    return full[:num_full], behind[:num_behind], left[:num_left]


@jit
def _full_blocks(table: Any, rows: Any, buffer: Any, block_size: int) -> Any:
    """Full blocks of each row that have no hash: their numbers int64 [n], their tokens int64 [n, most], 0 behind
    them, and whether all fit into 32 bits."""
    counts = np.empty(len(rows), np.int64)
    for i in range(len(rows)):
        record = table[rows[i]]
        counts[i] = record.num_tokens // block_size - (record.end - record.begin)
    tokens = np.zeros((len(rows), block_size * counts.max()), np.int64)
    outside = 0
    for i in range(len(rows)):
        start = table[rows[i]].num_ahead * block_size
        for place in range(counts[i] * block_size):
            token = buffer[rows[i], start + place]
            tokens[i, place] = token
            outside |= (token + (1 << 31)) >> 32
    return counts, tokens, outside == 0


@jit
def _pending(table: Any, rows: Any, buffer: Any) -> Any:
    """Pending tokens of rows, one row after the other, and how many each has."""
    counts = np.empty(len(rows), np.int64)
    for i in range(len(rows)):
        counts[i] = table[rows[i]].num_pending
    tokens = np.empty(counts.sum(), np.int64)
    done = 0
    for i in range(len(rows)):
        record = table[rows[i]]
        for place in range(record.num_kept, record.num_kept + record.num_pending):
            tokens[done] = buffer[rows[i], place]
            done += 1
    return counts, tokens


@jit
def _take(table: Any, rows: Any, buffer: Any, block_size: int) -> None:
    """Nothing of rows is pending any longer; what has no hash stays in front."""
    for i in range(len(rows)):
        record = table[rows[i]]
        line = buffer[rows[i]]
        held = record.num_kept + record.num_pending
        hashed = record.num_ahead * block_size
        for place in range(hashed, held):
            line[place - hashed] = line[place]
        record.num_kept = held - hashed if record.way == FROM_ROW else 0
        record.num_pending = record.num_ahead = 0


class Appended(NamedTuple):
    """Places, int64 [any], of rows that were given tokens.

    full: A block is to be hashed from the row. behind: The request has to be given its tokens, and hashes. left:
    Nothing was taken: the way of the row is to be decided, or room to be made.
    """

    full: npt.NDArray[np.int64]
    behind: npt.NDArray[np.int64]
    left: npt.NDArray[np.int64]


class PendingTokens:
    """Tokens by row: those that its request object has not got, and in front of them all others that are in no
    hashed block, so that any block that becomes full can be hashed from the row.

    Args:
        max_requests: Rows.
        block_size: Tokens per block hash.
    """

    def __init__(self, max_requests: int, block_size: int) -> None:
        self._tokens: npt.NDArray[np.int64] = np.full((max_requests, block_size + SPARE), 0, np.int64)
        self._block_size = block_size

    def grow(self, max_requests: int) -> None:
        """Reserve more rows."""
        self._tokens = longer(self._tokens, max_requests)

    @staticmethod
    def checked(
        rows: RowIds, tokens: npt.ArrayLike, counts: npt.ArrayLike | None
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Tokens int64 [any], and where those of each row start, int64 [n + 1]; one each if `counts` is None.

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
                f"{len(rows)} rows need as many counts, and as many tokens as these tell; got counts "
                f"{'None' if sizes is None else sizes.shape} and tokens {given.shape}"
            )
        return ready(given, np.int64), starts

    def decide(self, records: Any, row: int, tail: Tokens | None) -> None:
        """Hash what the row fills from here on: `tail` are the tokens behind its hashes, fewer than a block.

        None leaves it to its request object. Nothing may be pending.
        """
        records["way"][row] = BY_REQUEST if tail is None else FROM_ROW
        records["num_kept"][row] = 0 if tail is None else len(tail)
        if tail is not None:
            self._tokens[row, : len(tail)] = tail

    @staticmethod
    def forget(records: Any, rows: RowIds | list[int]) -> None:
        """The request objects of rows, with nothing pending, may have changed: decide again."""
        records["way"][rows] = UNDECIDED
        records["num_kept"][rows] = 0

    def append(
        self,
        records: Any,
        rows: RowIds,
        places: npt.NDArray[np.int64],
        tokens: npt.NDArray[np.int64],
        starts: npt.NDArray[np.int64],
    ) -> Appended:
        """Append tokens[starts[i] : starts[i + 1]], which were `checked`, to rows[i] for i in places.

        O(tokens + places).
        """
        return Appended(*_append(records, rows, places, self._tokens, tokens, starts, self._block_size))

    @staticmethod
    def take_back(records: Any, rows: RowIds, sizes: npt.NDArray[np.int64]) -> None:
        """Forget the last so many tokens of rows, which were just appended, and of which no hash was made."""
        records["num_tokens"][rows] -= sizes
        records["num_pending"][rows] -= sizes

    def saved(self, records: Any, rows: RowIds) -> tuple[RowIds, Any, npt.NDArray[np.int64]]:
        """What there is of rows, for `restore`. O(rows)."""
        return rows, records[rows], self._tokens[rows]

    def restore(self, records: Any, saved: tuple[RowIds, Any, npt.NDArray[np.int64]]) -> None:
        """Let rows be as they were when they were `saved`."""
        rows, kept, tokens = saved
        records[rows] = kept
        self._tokens[rows] = tokens

    def full_blocks(self, records: Any, rows: RowIds) -> tuple[npt.NDArray[np.int64], Tokens]:
        """Of at least one row, the number of full blocks without a hash, int64 [n], and their tokens.

        These are int32 if they all fit, else int64, [n, most tokens of a row]; there are zeros behind those of
        the other rows. O(tokens).
        """
        counts, tokens, fit = _full_blocks(records, rows, self._tokens, self._block_size)
        return counts, tokens.astype(np.int32) if fit else tokens

    def take(self, records: Any, rows: RowIds) -> None:
        """The request objects of rows have got their tokens, and their hashes too."""
        _take(records, rows, self._tokens, self._block_size)

    def of(self, records: Any, rows: RowIds) -> list[list[int]]:
        """Tokens that the request objects of rows have not got. O(tokens)."""
        counts, tokens = _pending(records, rows, self._tokens)
        listed, ends = tokens.tolist(), counts.cumsum().tolist()
        return [listed[end - count : end] for end, count in zip(ends, counts.tolist(), strict=True)]
