"""Tokens that were appended to rows and that the request objects have not got yet."""

from typing import Any

import numpy as np
import numpy.typing as npt

from kvgpu._jit import jit
from kvgpu.batch.row_record import RowIds
from kvgpu.errors import ArgumentError, ArgumentTypeError

SPARE = 64
"""Tokens that a row can keep beyond a block, so that drafts need no way of their own."""


@jit
def _append(
    table: Any, rows: Any, pending: Any, tokens: Any, ends: Any, block_size: int
) -> npt.NDArray[np.int64]:
    """Append the tokens of each row that has room; returns the places of rows that must be flushed.

    -1 - place stands for a row without room, whose tokens were not taken.
    """
    flush = np.empty(len(rows), np.int64)
    count = 0
    begin = 0
    for i in range(len(rows)):
        end = ends[i] if len(ends) else i + 1
        record = table[rows[i]]
        before = record.num_tokens // block_size
        if record.num_pending + end - begin > pending.shape[1]:
            flush[count] = -1 - i
            count += 1
        else:
            for place in range(begin, end):
                pending[rows[i], record.num_pending] = tokens[place]
                record.num_pending += 1
            record.num_tokens += end - begin
            if record.num_tokens // block_size > before:
                flush[count] = i
                count += 1
        begin = end
    return flush[:count]


class PendingTokens:
    """Tokens by row; a request object is given them when they fill a block.

    Args:
        max_requests: Rows.
        block_size: Tokens per block hash.
    """

    def __init__(self, max_requests: int, block_size: int) -> None:
        self._tokens: npt.NDArray[np.int64] = np.zeros((max_requests, block_size + SPARE), np.int64)
        self._block_size = block_size

    def grow(self, max_requests: int) -> None:
        """Reserve more rows."""
        grown = np.zeros((max_requests, self._tokens.shape[1]), np.int64)
        grown[: len(self._tokens)] = self._tokens
        self._tokens = grown

    def append(
        self, records: Any, rows: RowIds, tokens: npt.ArrayLike, counts: npt.ArrayLike | None
    ) -> list[tuple[int, list[int]]]:
        """Append tokens to rows.

        Args:
            records: Of `RequestRows`.
            rows: int64 [n].
            tokens: Integers [sum(counts)].
            counts: Integers [n], tokens of each row; None for one each.

        Returns:
            Rows that have filled a block and must be flushed, with tokens that had no room.

        Raises:
            ArgumentTypeError: Tokens or counts are not integers.
            ArgumentError: Their number does not fit. Nothing is appended.
        """
        given = np.asarray(tokens)
        sizes = np.ones(len(rows), np.int64) if counts is None else np.asarray(counts)
        for name, array in (("tokens", given), ("counts", sizes)):
            if array.size and array.dtype.kind not in "iu":
                raise ArgumentTypeError(f"{name} must be integers, got {array.dtype}")
        if sizes.shape != (len(rows),) or (sizes < 0).any() or given.shape != (sizes.sum(),):
            raise ArgumentError(
                f"{len(rows)} rows need as many counts, and tokens [{int(sizes.sum())}]; got counts "
                f"{sizes.shape} and tokens {given.shape}"
            )
        ends = np.zeros(0, np.int64) if counts is None else np.cumsum(sizes).astype(np.int64)
        given = given.astype(np.int64, copy=False)
        flush = _append(records, rows, self._tokens, given, ends, self._block_size)
        result = []
        for place in flush.tolist():
            i = place if place >= 0 else -1 - place
            rest = []
            if place < 0:
                end = int(ends[i]) if len(ends) else i + 1
                rest = given[end - int(sizes[i]) : end].tolist()
            result.append((int(rows[i]), rest))
        return result

    def take(self, records: Any, rows: list[int]) -> list[list[int]]:
        """Tokens that the request objects of rows have not got; from now on they have."""
        counts = records["num_pending"][rows].tolist()
        tokens = self._tokens[rows, : max(counts, default=0)].tolist()
        records["num_pending"][rows] = 0
        return [line[:count] for line, count in zip(tokens, counts, strict=True)]
