"""`RequestRows`: the hashes and counters of tracked requests, in flat arrays."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from kvgpu.arguments import integers, name_of, refuse_odd_hashes, sequence_of_hashes
from kvgpu.batch.rows.hashes import RowHashes
from kvgpu.batch.rows.record import ROW_RECORD, UNTRACKED, RowIds, check_rows, enter_rows, leave_rows, longer, spans_of
from kvgpu.compiled.addresses import addresses_of
from kvgpu.errors import ArgumentError, ArgumentTypeError
from kvgpu.hashing.block_hashes import BlockHashes, keys_if_of_width
from kvgpu.hashing.functions import HASH_WIDTHS
from kvgpu.index.base import Spans
from kvgpu.index.host.prefix_match import MEMO_WORDS
from kvgpu.integers import as_integer, as_integers, as_switch, shown

INT64 = np.dtype(np.int64)
NO_ROW = np.zeros(1, ROW_RECORD)
NUMBERS = ("block_hashes", "num_tokens", "num_prompt_tokens", "num_computed_tokens", "num_preemptions")
"""Of what a request must say how many there are."""
NOT_LENT = np.empty(0, np.int64)
"""Its address stands for hashes that nobody lends."""


class RequestRows(RowHashes):
    """`RowHashes` of requests, with their counters. Capacity grows only when `grow` is called.

    Args:
        max_requests: Rows.
        max_hashes, lends: See `RowHashes`.

    Attributes:
        num_tokens: int32 [max_requests].
        reads: bool [max_requests]: whether the request may reuse cached blocks.
        requests: The request of each row, or None.
        names: Its request id when it was tracked, by which it goes from then on.
        seen: int64 [max_requests], what the request of each row said of its computed tokens when the row last knew.
        memo: int64 [max_requests, MEMO_WORDS], what lookups have learnt of each row: see
            `kvgpu.index.host.prefix_match`.

    Raises:
        ConfigError: A capacity below 1.
    """

    def __init__(self, max_requests: int, max_hashes: int, lends: bool = False) -> None:
        super().__init__(max_requests, max_hashes, lends)
        self.requests: list[Any] = [None] * max_requests
        self.names: list[Any] = [None] * max_requests
        self._row_of: dict[str, int] = {}
        self._idle = list(range(max_requests - 1, -1, -1))
        self._stamp = 0
        self.seen: npt.NDArray[np.int64] = np.zeros(max_requests, np.int64)
        self.memo: npt.NDArray[np.int64] = np.zeros((max_requests, MEMO_WORDS), np.int64)

    @property
    def num_tokens(self) -> npt.NDArray[np.int32]:
        return self._table["num_tokens"]

    @property
    def reads(self) -> npt.NDArray[np.bool_]:
        return self._table["reads"]

    def __len__(self) -> int:
        """Requests that are tracked."""
        return len(self._row_of)

    def all(self) -> RowIds:
        """Rows of all tracked requests, int64, in the order of tracking."""
        return np.fromiter(self._row_of.values(), np.int64, len(self._row_of))

    def row_of(self, request_id: str) -> int | None:
        """Row of a request, or None. O(1)."""
        return self._row_of.get(request_id)

    def track(self, requests: Sequence[Any]) -> RowIds:
        """Give each request a row; O(hashes), and O(1) for a request that lends them.

        Args:
            requests: Any objects with `request_id`, `block_hashes`, `num_tokens` and
                `skip_reading_prefix_cache`.

        Returns:
            int64 [n], the rows.

        Raises:
            ArgumentError: A request is tracked already or comes twice, a number of one is out of range, hashes are of
                different widths, or there is no room.
            ArgumentTypeError: A request lacks an attribute, or has one of another kind. The message names the
                request; nothing is changed by either, so that the others can be tracked.
        """
        requests = self._listed(requests)
        names = [name_of(request) for request in requests]
        if len(set(names)) < len(names):
            raise ArgumentError("a request comes twice; track each once")
        if not self._row_of.keys().isdisjoint(names):
            known = next(name for name in names if name in self._row_of)
            raise ArgumentError(f"request {known} is tracked already; extend() its row instead")
        if len(requests) > len(self._idle):
            raise ArgumentError(
                f"{len(requests)} more requests do not fit into {len(self.requests)} rows: grow() first"
            )
        facts = [self._facts(request) for request in requests]
        hashes = [request.block_hashes for request in requests]
        for name, part in zip(names, hashes, strict=True):
            if not isinstance(part, BlockHashes):
                refuse_odd_hashes(name, part[:1])
        width = self.common_width(hashes)
        self.refuse_too_many(sum(count for count, *_ in facts))
        if width and width not in HASH_WIDTHS:
            raise self._odd_hashes(next(r for r in requests if len(r.block_hashes)))
        numbers = np.array(facts, np.int64).reshape(-1, 6).T.copy()
        lent = [self._lent_by(part) for part in hashes]
        addresses = addresses_of([NOT_LENT if part is None else part for part in lent])
        try:
            pieces = self.put([h for h, kept in zip(hashes, lent, strict=True) if kept is None], width)
        except TypeError:
            for name, part in zip(names, hashes, strict=True):
                refuse_odd_hashes(name, part)
            raise
        if isinstance(pieces, int):
            copied = [r for r, kept in zip(requests, lent, strict=True) if kept is None]
            raise self._odd_hashes(copied[pieces])
        self.width = width
        self.linked = (self.linked or not self._row_of) and self._are_linked(hashes)
        listed = [self._idle.pop() for _ in requests]
        rows = np.array(listed, np.int64)
        enter_rows(self._table, self.limits, self.memo, rows, numbers, addresses, NOT_LENT.ctypes.data, pieces)
        self._row_of.update(zip(names, listed, strict=True))
        self.seen[rows] = numbers[3]
        for row, request, name, kept in zip(listed, requests, names, lent, strict=True):
            self.requests[row] = request
            self.names[row] = name
            self._lent[row] = kept
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
        num_tokens = self._num_tokens(requests)
        new = [self._words(request, have) for request, have in zip(requests, counts, strict=True)]
        hashes = [request.block_hashes for request in requests]
        width = self.common_width(hashes)
        self.refuse_too_many(sum(map(len, new)))
        self.width = width
        self.linked = self.linked and self._are_linked(hashes)
        for place in np.flatnonzero(records["lent"]).tolist():
            kept = self._lent_by(hashes[place])
            if kept is not None:
                row = checked[place]
                if kept is not self._lent[row]:
                    # Maybe not only longer: the request may have been given others.
                    self.forget([row])
                self._table["lent"][row], self._lent[row] = addresses_of([kept])[0], kept
                self._table["end"][row] = len(hashes[place])
                new[place] = new[place][:0]
        self._table["num_tokens"][checked] = num_tokens
        grown = [place for place, words in enumerate(new) if len(words)]
        if grown:
            self.append_hashes(
                np.array(checked, np.int64)[grown],
                np.array([len(new[place]) for place in grown], np.int64),
                np.concatenate([new[place] for place in grown]),
            )

    def untrack(self, rows: RowIds) -> None:
        """Release rows.

        Raises:
            ArgumentError: A row that is not tracked, or comes twice. Nothing is changed.
        """
        rows = self.valid(rows)
        begins, limits = leave_rows(self._table, self.limits, rows, NO_ROW).tolist()
        listed = rows.tolist()
        for row, begin, limit in zip(listed, begins, limits, strict=True):
            del self._row_of[self.names[row]]
            self.requests[row] = self.names[row] = self._lent[row] = None
            if limit:
                self.arena.give(begin, limit)
        self._idle += listed

    def as_rows(self, rows: RowIds) -> tuple[RowIds, int]:
        """Rows as int64 [n], and a stamp for `check_row`, which has still to be asked.

        Raises:
            ArgumentTypeError: Not integers [n].
        """
        self._stamp += 1
        if rows.__class__ is np.ndarray and rows.dtype is INT64 and rows.ndim == 1 and rows.flags.carray:
            return rows, self._stamp
        return integers("rows", rows), self._stamp

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

    def spans(self, rows: RowIds) -> Spans:
        """First hash, hash after the last, longest hit allowed and `lent` of valid rows, int64 [4, n]. O(n)."""
        spans: Spans = spans_of(self._table, rows)
        return spans

    def forget(self, rows: RowIds | list[int] | None = None) -> None:
        """Forget what lookups have learnt of rows (all if None): the next ones look at every block. O(rows)."""
        self.memo[slice(None) if rows is None else rows] = 0

    def grow(self, max_requests: int, max_hashes: int) -> None:
        """Reserve more; what was captured with the old arrays is no longer valid (see `epoch`).

        Raises:
            ArgumentError: Less than now.
            ArgumentTypeError: No numbers.
            MemoryError: There is no room for so many. Nothing is changed by any.
        """
        max_requests, max_hashes = self.checked_capacities(max_requests, max_hashes)
        arena = self.arena.grown(max_hashes)
        table, limits, seen, memo = (
            longer(array, max_requests) for array in (self._table, self.limits, self.seen, self.memo)
        )
        no_requests: list[Any] = [None] * (max_requests - len(self.requests))
        requests, names, lent = ([*each, *no_requests] for each in (self.requests, self.names, self._lent))
        idle = [*range(max_requests - 1, len(self.requests) - 1, -1), *self._idle]
        self.epoch += 1
        self.arena, self.seen, self.memo = arena, seen, memo
        self._table, self.limits = table, limits
        # Last, and in one line: only now are there more rows.
        self.requests, self.names, self._lent, self._idle = requests, names, lent, idle

    def checked_capacities(self, max_requests: int, max_hashes: int) -> tuple[int, int]:
        """Capacities to grow to, as ints; raises as `grow` does."""
        max_requests = as_integer("max_requests", max_requests)
        max_hashes = as_integer("max_hashes", max_hashes)
        if max_requests < len(self.requests) or max_hashes < len(self.arena):
            raise ArgumentError(f"capacities can only grow: {len(self.requests)} requests and {len(self.arena)} hashes")
        return max_requests, max_hashes

    def _words(self, request: Any, start: int = 0) -> npt.NDArray[np.int64]:
        hashes = request.block_hashes
        if isinstance(hashes, BlockHashes):
            return hashes.keys[start:]
        part = hashes[start:] if start else hashes
        if not part:
            return self.arena.words[:0]
        width = len(part[0])
        rows = keys_if_of_width(part, width) if width in HASH_WIDTHS else None
        if rows is None:
            raise self._odd_hashes(request)
        return rows

    def _lent_by(self, hashes: Sequence[Any]) -> npt.NDArray[np.int64] | None:
        """The array in which a request's hashes stay; None where the row has to copy them."""
        return hashes.storage if self._lends and isinstance(hashes, BlockHashes) else None

    @staticmethod
    def _are_linked(hashes: Sequence[Any]) -> bool:
        return all(h.linked if isinstance(h, BlockHashes) else not h for h in hashes)

    @staticmethod
    def _listed(requests: Sequence[Any]) -> Sequence[Any]:
        if isinstance(requests, list | tuple):
            return requests
        try:
            return list(requests)
        except TypeError:
            raise ArgumentTypeError(f"a sequence of requests is expected, got {shown(requests)}") from None

    @staticmethod
    def _facts(request: Any) -> tuple[int, int, int, int, bool, bool]:
        """What `enter_rows` takes of a request: its numbers of hashes, of tokens and so on."""
        known: tuple[Any, ...]
        try:
            prompt = getattr(request, "num_prompt_tokens", None)
            hashes = sequence_of_hashes(request.request_id, request.block_hashes)
            known = (
                len(hashes),
                request.num_tokens,
                0 if prompt is None else prompt,
                getattr(request, "num_computed_tokens", 0),
                getattr(request, "num_preemptions", 0),
            )
            skips = as_switch("skip_reading_prefix_cache", request.skip_reading_prefix_cache)
        except (AttributeError, TypeError) as error:
            raise ArgumentTypeError(f"request {name_of(request)} is none: {error}") from None
        count, num_tokens, num_prompt, num_computed, num_preemptions = as_integers(
            NUMBERS, known, f"request {name_of(request)}: "
        )
        return (count, num_tokens, -1 if prompt is None else num_prompt, num_computed, not skips, num_preemptions > 0)

    @staticmethod
    def _num_tokens(requests: Sequence[Any]) -> list[int]:
        return [as_integer(f"request {name_of(request)}: num_tokens", request.num_tokens) for request in requests]

    def computed_by(self, rows: RowIds) -> npt.NDArray[np.int64]:
        """Computed tokens of rows, int64 [n]: what their requests say where these have changed it, else what the rows
        say.

        Raises:
            ArgumentError: A row and its request have both been changed, or the request says no number.
        """
        mine, found = self._table["num_computed"][rows].tolist(), []
        for row, have, seen in zip(rows.tolist(), mine, self.seen[rows].tolist(), strict=True):
            said = as_integer(
                f"request {self.names[row]}: num_computed_tokens",
                getattr(self.requests[row], "num_computed_tokens", have),
            )
            if said not in (seen, have) and have != seen:
                raise ArgumentError(
                    f"request {self.names[row]} has {said} computed tokens, its row {have}, and {seen} when they "
                    "last agreed: sync() before the request is changed"
                )
            found.append(have if said == seen else said)
        return np.array(found, np.int64)

    @staticmethod
    def _odd_hashes(request: Any) -> ArgumentError:
        return ArgumentError(
            f"request {request.request_id}: hashes of 16 or of 32 bytes can be tracked, all of one width"
        )

    def refuse_shorter(self, rows: list[int]) -> None:
        """
        Raises:
            ArgumentError: A request has fewer tokens or hashes than its row knows it to have.
        """
        records = self._table[rows]
        had = (records["end"] - records["begin"] - records["num_ahead"]).tolist()
        tokens = (records["num_tokens"] - records["num_pending"]).tolist()
        for row, num_hashes, num_tokens in zip(rows, had, tokens, strict=True):
            request = self.requests[row]
            if len(request.block_hashes) < num_hashes or request.num_tokens < num_tokens:
                raise ArgumentError(f"request {self.names[row]} has become shorter; untrack() and track() it")

    def refuse_tokens(self, rows: RowIds, starts: npt.NDArray[np.int64], block_size: int) -> None:
        """
        Raises:
            ArgumentError: No room for the hashes of starts[i + 1] - starts[i] more tokens of rows[i].
        """
        if self.num_hashes + len(rows) + int(starts[-1]) // block_size <= len(self.arena):
            return
        records = self._table[rows]
        hashes = (records["num_tokens"] + np.diff(starts)) // block_size
        have = records["end"] - records["begin"]
        self.refuse_too_many(int(np.maximum(hashes - have, 0).sum()))
