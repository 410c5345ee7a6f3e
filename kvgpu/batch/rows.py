"""`RequestRows`: the hashes and counters of tracked requests, in flat arrays."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from kvgpu.batch.row_record import ROW_RECORD, UNTRACKED, RowIds, check_rows, spans_of
from kvgpu.block_hashes import BlockHashes, all_of_width, rows_from_bytes
from kvgpu.blocks import HASH_WIDTHS
from kvgpu.errors import ArgumentError, ConfigError
from kvgpu.index.arena import HashArena
from kvgpu.index.base import Spans


def _known(request: Any, name: str) -> int:
    value = getattr(request, name, None)
    return -1 if value is None else int(value)


class RequestRows:
    """Rows for requests: hashes go once into an arena, counters into arrays.

    A row's hashes lie in one piece; a piece that is outgrown moves, and the arena is packed when no piece is
    long enough. Capacity is reserved at construction and grows only when
    `grow` is called.

    Args:
        max_requests: Rows.
        max_hashes: Hashes of all rows together, 32 bytes each.

    Attributes:
        arena: The hashes.
        begins, ends: int64 [max_requests]: hashes of a row in the arena.
        num_tokens: int64 [max_requests].
        reads: bool [max_requests]: whether the request may reuse cached blocks.
        requests: The request of each row, or None.
        width: Bytes of a hash; 0 while there is none.
        epoch: Counts `grow` and packing: places in the arena are valid within one epoch.

    Raises:
        ConfigError: A capacity below 1.
    """

    def __init__(self, max_requests: int, max_hashes: int) -> None:
        if max_requests < 1 or max_hashes < 1:
            raise ConfigError(f"capacities must be at least 1: {max_requests}, {max_hashes}")
        self.arena = HashArena(max_hashes)
        self._table = np.zeros(max_requests, ROW_RECORD)
        self.requests: list[Any] = [None] * max_requests
        self.epoch = 0
        self._row_of: dict[str, int] = {}
        self._idle = list(range(max_requests - 1, -1, -1))
        self.width = 0
        self._stamp = 0

    @property
    def records(self) -> npt.NDArray[Any]:
        """Of all rows, ROW_RECORD [max_requests]; what the properties show parts of."""
        return self._table

    @property
    def begins(self) -> npt.NDArray[np.int64]:
        return self._table["begin"]

    @property
    def ends(self) -> npt.NDArray[np.int64]:
        return self._table["end"]

    @property
    def num_tokens(self) -> npt.NDArray[np.int64]:
        return self._table["num_tokens"]

    @property
    def reads(self) -> npt.NDArray[np.bool_]:
        return self._table["reads"]

    def __len__(self) -> int:
        """Requests that are tracked."""
        return len(self._row_of)

    @property
    def num_hashes(self) -> int:
        """Hashes of all tracked requests."""
        return int((self.ends - self.begins).sum())

    def all(self) -> RowIds:
        """Rows of all tracked requests, int64, in the order of tracking."""
        return np.fromiter(self._row_of.values(), np.int64, len(self._row_of))

    def row_of(self, request_id: str) -> int | None:
        """Row of a request, or None. O(1)."""
        return self._row_of.get(request_id)

    def track(self, requests: Sequence[Any]) -> RowIds:
        """Give each request a row; O(hashes), several times as long where they are a list of bytes.

        Args:
            requests: Any objects with `request_id`, `block_hashes`, `num_tokens` and
                `skip_reading_prefix_cache`.

        Returns:
            int64 [n], the rows.

        Raises:
            ArgumentError: A request is tracked already or comes twice, hashes are of different
                widths, or there is no room. Nothing is changed.
        """
        names = [request.request_id for request in requests]
        if len(set(names)) < len(names):
            raise ArgumentError("a request comes twice; track each once")
        known = next((name for name in names if name in self._row_of), None)
        if known is not None:
            raise ArgumentError(f"request {known} is tracked already; extend() its row instead")
        hashes = [self._words(request) for request in requests]
        width = self._common_width([request.block_hashes for request in requests])
        if len(requests) > len(self._idle):
            raise ArgumentError(
                f"{len(requests)} more requests do not fit into {len(self.requests)} rows: grow() first"
            )
        self._refuse_too_many(sum(map(len, hashes)))
        self.width = width
        rows = np.array([self._idle.pop() for _ in requests], np.int64)
        pieces = self._pieces(hashes)
        records = np.zeros(len(rows), ROW_RECORD)
        records["begin"], records["end"], records["limit"] = pieces.T
        records["num_tokens"] = [request.num_tokens for request in requests]
        records["num_prompt"] = [_known(request, "num_prompt_tokens") for request in requests]
        records["num_computed"] = [getattr(r, "num_computed_tokens", 0) for r in requests]
        records["reads"] = [not request.skip_reading_prefix_cache for request in requests]
        records["preempted"] = [getattr(r, "num_preemptions", 0) > 0 for r in requests]
        records["tracked"] = True
        self._table[rows] = records
        for name, row, request in zip(names, rows.tolist(), requests, strict=True):
            self._row_of[name] = row
            self.requests[row] = request
        return rows

    def extend(self, rows: RowIds | None = None) -> None:
        """Take over what the requests of these rows (all if None) have become: hashes, tokens.

        Raises:
            ArgumentError: A row that is not tracked or comes twice, a request that has become
                shorter, or no room. Nothing is changed.

        O(new hashes).
        """
        checked = self.valid(rows).tolist()
        self.refuse_shorter(checked)
        records = self._table[checked]
        requests = [self.requests[row] for row in checked]
        counts = (records["end"] - records["begin"]).tolist()
        num_tokens = [request.num_tokens for request in requests]
        new = [self._words(request, have) for request, have in zip(requests, counts, strict=True)]
        width = self._common_width([request.block_hashes for request in requests])
        self._refuse_too_many(sum(map(len, new)))
        self.width = width
        self._table["num_tokens"][checked] = num_tokens
        ends, limits = records["end"].tolist(), records["limit"].tolist()
        for place, words in enumerate(new):
            end = ends[place] + len(words)
            if end > limits[place]:
                self._append_moving(checked, place, new)
                return
            if len(words):
                self.arena.words[ends[place] : end] = words
                self._table["end"][checked[place]] = end
                self.arena.wrote(ends[place], end)

    def untrack(self, rows: RowIds) -> None:
        """Release rows.

        Raises:
            ArgumentError: A row that is not tracked, or comes twice. Nothing is changed.
        """
        checked = self.valid(rows).tolist()
        records = self._table[checked]
        for row, begin, limit in zip(
            checked, records["begin"].tolist(), records["limit"].tolist(), strict=True
        ):
            del self._row_of[self.requests[row].request_id]
            self.requests[row] = None
            self.arena.give(begin, limit)
        self._table[checked] = np.zeros((), ROW_RECORD)
        self._idle += checked

    def as_rows(self, rows: RowIds) -> tuple[RowIds, int]:
        """Rows as int64 [n], and a stamp for `check_row`, which has still to be asked.

        Raises:
            ArgumentError: Not integers [n].
        """
        given = np.asarray(rows)
        if given.ndim != 1 or given.dtype.kind not in "iu":
            raise ArgumentError(f"rows: integers [n] are expected, got {given.dtype} {given.shape}")
        self._stamp += 1
        return np.ascontiguousarray(given, np.int64), self._stamp

    def valid(self, rows: RowIds | None) -> RowIds:
        """The rows, or all, as int64 [n]; every one tracked and none twice. O(n).

        Raises:
            ArgumentError: They are not.
        """
        if rows is None:
            return self.all()
        given, stamp = self.as_rows(rows)
        status, place = check_rows(self._table, given, stamp)
        if status:
            raise self.complaint(status, int(given[place]))
        return given

    @staticmethod
    def complaint(status: int, row: int) -> ArgumentError:
        """The error for a status of `check_row`."""
        what = "is not tracked" if status == UNTRACKED else "comes twice in one batch"
        return ArgumentError(f"row {row} {what}")

    def spans(self, rows: RowIds | None) -> Spans:
        """First hash, hash after the last and longest hit allowed of rows (all if None), int64 [3, n].

        Raises:
            ArgumentError: A row that is not tracked, or comes twice.
        """
        spans: Spans = spans_of(self._table, self.valid(rows))
        return spans

    def grow(self, max_requests: int, max_hashes: int) -> None:
        """Reserve more; what was captured with the old arrays is no longer valid (see `epoch`).

        Raises:
            ArgumentError: Less than now.
        """
        if max_requests < len(self.requests) or max_hashes < len(self.arena):
            raise ArgumentError("capacities can only grow")
        more = max_requests - len(self.requests)
        self._idle = [*range(max_requests - 1, len(self.requests) - 1, -1), *self._idle]
        self.requests += [None] * more
        self._table = np.concatenate([self._table, np.zeros(more, ROW_RECORD)])
        self.arena = self.arena.grown(max_hashes)
        self.epoch += 1

    def _words(self, request: Any, start: int = 0) -> npt.NDArray[np.int64]:
        hashes = request.block_hashes
        if isinstance(hashes, BlockHashes):
            return hashes.rows[start:]
        part = hashes[start:] if start else hashes
        if not part:
            return self.arena.words[:0]
        width = len(part[0])
        if width not in HASH_WIDTHS or not all_of_width(part, width):
            raise ArgumentError(
                f"request {request.request_id}: hashes of 16 or of 32 bytes can be tracked"
            )
        return rows_from_bytes(part, width)

    def _common_width(self, hashes: list[Any]) -> int:
        widths = {
            h.width if isinstance(h, BlockHashes) else len(h[0]) for h in hashes if len(h)
        } | ({self.width} - {0})
        if len(widths) > 1:
            raise ArgumentError(f"hashes of different widths cannot be tracked together: {widths}")
        return widths.pop() if widths else 0

    def refuse_shorter(self, rows: list[int]) -> None:
        """
        Raises:
            ArgumentError: A request has fewer tokens or hashes than its row.
        """
        records = self._table[rows]
        had = (records["end"] - records["begin"]).tolist()
        tokens = (records["num_tokens"] - records["num_pending"]).tolist()
        for row, num_hashes, num_tokens in zip(rows, had, tokens, strict=True):
            request = self.requests[row]
            if len(request.block_hashes) < num_hashes or request.num_tokens < num_tokens:
                raise ArgumentError(
                    f"request {request.request_id} has become shorter; untrack() and track() it"
                )

    def refuse_tokens(self, rows: RowIds, counts: npt.NDArray[np.int64], block_size: int) -> None:
        """
        Raises:
            ArgumentError: No room for the hashes of so many more tokens of each row.
        """
        if self.num_hashes + len(rows) + counts.sum() // block_size <= len(self.arena):
            return
        records = self._table[rows]
        hashes = (records["num_tokens"] + counts) // block_size
        have = records["end"] - records["begin"]
        self._refuse_too_many(int(np.maximum(hashes - have, 0).sum()))

    def _refuse_too_many(self, needed: int) -> None:
        if self.num_hashes + needed > len(self.arena):
            raise ArgumentError(
                f"{needed} more hashes do not fit into an arena of {len(self.arena)} that holds "
                f"{self.num_hashes}: grow() first"
            )

    def _pieces(self, hashes: list[npt.NDArray[np.int64]]) -> npt.NDArray[np.int64]:
        """Put hashes, which are known to fit, into the arena: begin, end, limit, int64 [n, 3]."""
        arena = self.arena
        pieces = []
        for words in hashes:
            count = len(words)
            piece = arena.take(count) if count else (0, 0)
            if piece is None:
                # Those that were just written have no rows yet, so they are written again.
                total = sum(map(len, hashes))
                self._pack(total)
                piece = arena.take(total)
                assert piece is not None
                ends = piece[0] + np.cumsum([len(part) for part in hashes])
                arena.words[piece[0] : piece[0] + total] = np.concatenate(hashes)
                arena.wrote(piece[0], piece[0] + total)
                begins = ends - [len(part) for part in hashes]
                return np.stack([begins, ends, ends], 1).astype(np.int64)
            begin, limit = piece
            arena.words[begin : begin + count] = words
            arena.wrote(begin, begin + count)
            pieces.append((begin, begin + count, limit))
        return np.array(pieces, np.int64).reshape(-1, 3)

    def _append_moving(self, rows: list[int], start: int, new: list[npt.NDArray[np.int64]]) -> None:
        """Append hashes, which are known to fit, to the rows from `start` on; they move if they must."""
        for place in range(start, len(rows)):
            row, words = rows[place], new[place]
            record = self._table[row]
            begin, end, limit = int(record["begin"]), int(record["end"]), int(record["limit"])
            if end + len(words) > limit:
                mine = self.arena.words[begin:end].copy()
                self.arena.give(begin, limit)
                record["begin"] = record["end"] = record["limit"] = 0
                piece = self.arena.take(len(mine) + len(words))
                if piece is None:
                    more = sum(map(len, new[place:])) + len(mine)
                    self._pack(more)
                    piece = self.arena.take(len(mine) + len(words))
                    assert piece is not None
                begin, end = piece[0], piece[0] + len(mine)
                self.arena.words[begin:end] = mine
                self.arena.wrote(begin, end)
                record["begin"], record["limit"] = piece
            self.arena.words[end : end + len(words)] = words
            record["end"] = end + len(words)
            self.arena.wrote(end, end + len(words))

    def _pack(self, needed: int) -> None:
        """Move all hashes together, so that a piece for `needed` more can be taken."""
        held = np.flatnonzero(self.ends > self.begins)
        held = held[np.argsort(self.begins[held])]
        begins, ends = self.begins[held], self.ends[held]
        counts = ends - begins
        # Half of what is left goes to the rows: the next ones to grow need not move.
        gap = (len(self.arena) - int(counts.sum()) - needed) // (2 * max(1, len(held)))
        packed = self.arena.pack(list(zip(begins.tolist(), ends.tolist(), strict=True)), gap)
        self.begins[held] = packed
        self.ends[held] = packed + counts
        self._table["limit"][held] = packed + counts + gap
        self.epoch += 1
