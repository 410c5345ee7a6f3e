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
        end = ends[i]
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

    @staticmethod
    def checked(
        rows: RowIds, tokens: npt.ArrayLike, counts: npt.ArrayLike | None
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Tokens int64 [sum(counts)], and counts int64 [n]; one token each if `counts` is None.

        Raises:
            ArgumentTypeError: Tokens or counts are not integers.
            ArgumentError: Their number does not fit.
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
        return given.astype(np.int64, copy=False), sizes.astype(np.int64, copy=False)

    def append(
        self, records: Any, rows: RowIds, tokens: npt.NDArray[np.int64],
        sizes: npt.NDArray[np.int64],
    ) -> list[tuple[int, list[int]]]:  # fmt: skip
        """Append tokens to rows; what was `checked`.

        Returns:
            Rows that have filled a block and must be flushed, with tokens that had no room.
        """
        ends = np.cumsum(sizes)
        flush = _append(records, rows, self._tokens, tokens, ends, self._block_size)
        result = []
        for place in flush.tolist():
            i = place if place >= 0 else -1 - place
            rest = [] if place >= 0 else tokens[ends[i] - sizes[i] : ends[i]].tolist()
            result.append((int(rows[i]), rest))
        return result

    def take(self, records: Any, rows: list[int]) -> list[list[int]]:
        """Tokens that the request objects of rows have not got; from now on they have."""
        counts = records["num_pending"][rows].tolist()
        tokens = self._tokens[rows, : max(counts, default=0)].tolist()
        records["num_pending"][rows] = 0
        return [line[:count] for line, count in zip(tokens, counts, strict=True)]
