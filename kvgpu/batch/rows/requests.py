"""`RequestRows`: the counters and hashes of tracked requests, in flat arrays."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from kvgpu.arguments import integers, is_plain, name_of, refuse_odd_hashes
from kvgpu.batch.rows.hashes import RowHashes
from kvgpu.batch.rows.record import (
    NUM_COMPUTED,
    NUM_HASHES,
    REQUEST_RECORD,
    RowIds,
    check_rows,
    enter_rows,
    leave_rows,
    longer,
    row_error,
    write_spans,
)
from kvgpu.batch.rows.request_facts import (
    are_linked,
    facts_of,
    first_shorter,
    key_words,
    listed_requests,
    num_tokens_of,
    refuse_names,
    unfit_hashes,
)
from kvgpu.compiled.addresses import addresses_of
from kvgpu.errors import ArgumentError
from kvgpu.hashing.block_hashes import BlockHashes
from kvgpu.hashing.functions import HASH_WIDTHS
from kvgpu.index.host.memo import MEMO_WORDS
from kvgpu.index.request_spans import RequestSpans
from kvgpu.integers import as_integer, as_size

NO_ROW = np.zeros(1, REQUEST_RECORD)
NOT_BORROWED = np.empty(0, np.int64)
"""Its address stands for hashes that the row copies."""


class RequestRows:
    """Rows of tracked requests. Capacity grows only when `grow` is called.

    Args:
        max_requests: Rows.
        max_hashes, lends: See `RowHashes`.

    Attributes:
        records: REQUEST_RECORD [max_requests].
        hashes: The hashes of the rows.
        arena: Their memory; another one after `grow`.
        requests: The request of each row, or None.
        names: The id of the request when it was tracked, by which it goes from then on.
        seen: int64 [max_requests], computed tokens of each request when it and its row last agreed.
        memo: int64 [max_requests, MEMO_WORDS], what lookups have learnt of each row: see
            `kvgpu.index.host.memo`.

    Raises:
        ConfigError: A capacity below 1.
    """

    def __init__(self, max_requests: int, max_hashes: int, lends: bool = False) -> None:
        max_requests = as_size("max_requests", max_requests)
        self.records: npt.NDArray[Any] = np.zeros(max_requests, REQUEST_RECORD)
        self.hashes = RowHashes(self.records, max_hashes, lends)
        self.requests: list[Any] = [None] * max_requests
        self.names: list[Any] = [None] * max_requests
        self.seen: npt.NDArray[np.int64] = np.zeros(max_requests, np.int64)
        self.memo: npt.NDArray[np.int64] = np.zeros((max_requests, MEMO_WORDS), np.int64)
        self._row_of: dict[str, int] = {}
        self._idle = list(range(max_requests - 1, -1, -1))
        self._stamp = 0

    @property
    def num_tokens(self) -> npt.NDArray[np.int32]:
        """Tokens of each row's request, int32 [max_requests]."""
        return self.records["num_tokens"]

    def __len__(self) -> int:
        """Number of tracked requests."""
        return len(self._row_of)

    def all(self) -> RowIds:
        """Return the rows of all tracked requests, int64 [n], in the order of tracking. O(n)."""
        return np.fromiter(self._row_of.values(), np.int64, len(self._row_of))

    def row_of(self, request_id: str) -> int | None:
        """Return the row of a request, or None. O(1)."""
        return self._row_of.get(request_id)

    def names_of(self, rows: RowIds) -> list[str]:
        """Return the names of the requests of rows. O(n)."""
        names = self.names
        return [names[row] for row in rows.tolist()]

    def track(self, requests: Sequence[Any]) -> RowIds:
        """Give each request a row; O(hashes), and O(1) for a request that lends them.

        Args:
            requests: Any objects with `request_id`, `block_hashes`, `num_tokens` and `skip_reading_prefix_cache`.

        Returns:
            int64 [n], the rows.

        Raises:
            ArgumentError: A request is tracked already or comes twice, a number of one is out of range, hashes are of
                different widths, or there is no room.
            ArgumentTypeError: A request lacks an attribute, or has one of another kind. The message names the
                request; nothing is changed by either, so that the others can be tracked.
        """
        requests = listed_requests(requests)
        names = [name_of(request) for request in requests]
        refuse_names(names, self._row_of, len(self._idle))
        facts, hashes = facts_of(requests)
        for name, part in zip(names, hashes, strict=True):
            if not isinstance(part, BlockHashes):
                refuse_odd_hashes(name, part[:1])
        width = self.hashes.common_width(hashes)
        self.hashes.refuse_too_many(int(facts[NUM_HASHES].sum()))
        if width and width not in HASH_WIDTHS:
            raise unfit_hashes(next(request for request, part in zip(requests, hashes, strict=True) if len(part)))
        storages = [self.hashes.storage_of(part) for part in hashes]
        addresses = addresses_of([NOT_BORROWED if storage is None else storage for storage in storages])
        copied = [place for place, storage in enumerate(storages) if storage is None]
        try:
            pieces = self.hashes.put([hashes[place] for place in copied], width)
        except TypeError:
            for name, part in zip(names, hashes, strict=True):
                refuse_odd_hashes(name, part)
            raise
        if isinstance(pieces, int):
            raise unfit_hashes(requests[copied[pieces]])
        self.hashes.width = width
        self.hashes.linked = (self.hashes.linked or not self._row_of) and are_linked(hashes)
        listed = [self._idle.pop() for _ in requests]
        rows = np.array(listed, np.int64)
        # Before the records have the addresses.
        self.hashes.lend(listed, storages)
        places = (addresses, NOT_BORROWED.ctypes.data, pieces)
        enter_rows((self.records, self.hashes.limits, self.memo), rows, facts, places)
        self._row_of.update(zip(names, listed, strict=True))
        self.seen[rows] = facts[NUM_COMPUTED]
        for row, request, name in zip(listed, requests, names, strict=True):
            self.requests[row] = request
            self.names[row] = name
        return rows

    def extend(self, rows: RowIds | None = None) -> None:
        """Take over the tokens and hashes that the requests of these rows (all if None) have by now.

        Raises:
            ArgumentError: A row that is not tracked or comes twice, a request that has become shorter, or no room.
                Nothing is changed.

        O(new hashes).
        """
        checked = self.valid(rows).tolist()
        self.refuse_shorter(checked)
        records = self.records[checked]
        requests = [self.requests[row] for row in checked]
        counts = (records["end"] - records["begin"]).tolist()
        num_tokens = [num_tokens_of(request) for request in requests]
        new = [key_words(request, count) for request, count in zip(requests, counts, strict=True)]
        hashes = [request.block_hashes for request in requests]
        width = self.hashes.common_width(hashes)
        self.hashes.refuse_too_many(sum(map(len, new)))
        self.hashes.width = width
        self.hashes.linked = self.hashes.linked and are_linked(hashes)
        for place in np.flatnonzero(records["borrowed"]).tolist():
            storage = self.hashes.storage_of(hashes[place])
            if storage is not None:
                row = checked[place]
                if self.hashes.lend([row], [storage]):
                    # The request may have got other hashes, not only more of them.
                    self.forget([row])
                self.records["borrowed"][row] = addresses_of([storage])[0]
                self.records["end"][row] = len(hashes[place])
                new[place] = new[place][:0]
        self.records["num_tokens"][checked] = num_tokens
        grown = [place for place, words in enumerate(new) if len(words)]
        if grown:
            self.hashes.append(
                np.array(checked, np.int64)[grown],
                np.array([len(new[place]) for place in grown], np.int64),
                np.concatenate([new[place] for place in grown]),
            )

    def untrack(self, rows: RowIds) -> None:
        """Release rows.

        Raises:
            ArgumentError: A row that is not tracked, or comes twice. Nothing is changed.

        O(rows).
        """
        rows = self.valid(rows)
        begins, limits = leave_rows(self.records, self.hashes.limits, rows, NO_ROW).tolist()
        listed = rows.tolist()
        for row in listed:
            del self._row_of[self.names[row]]
            self.requests[row] = self.names[row] = None
        self.hashes.release(listed, begins, limits)
        self._idle += listed

    def as_rows(self, rows: RowIds | None) -> tuple[RowIds, int]:
        """Return rows, or all, as int64 [n], which `check_row` has still to look at, and a new stamp for it. O(n).

        Raises:
            ArgumentTypeError: Not integers [n].
        """
        self._stamp += 1
        if is_plain(rows):
            return rows, self._stamp
        return self.all() if rows is None else integers("rows", rows), self._stamp

    def valid(self, rows: RowIds | None) -> RowIds:
        """Return the rows, or all, as int64 [n], each of them tracked and none twice. O(n).

        Raises:
            ArgumentError: One is not tracked, or comes twice.
        """
        given, stamp = self.as_rows(rows)
        status, place = check_rows(self.records, given, stamp)
        if status:
            raise row_error(status, int(given[place]))
        return given

    def spans(self, rows: RowIds | None) -> RequestSpans:
        """Return where the hashes of the rows, or of all, lie; see `write_spans`. O(n)."""
        given, stamp = self.as_rows(rows)
        return self.write_spans(given, stamp, RequestSpans(len(given)))

    def write_spans(self, rows: RowIds, stamp: int, spans: RequestSpans) -> RequestSpans:
        """Write where the hashes of rows lie to spans of as many requests, and return these. O(n).

        Args:
            rows, stamp: From `as_rows`.

        Raises:
            ArgumentError: One is not tracked, or comes twice.
        """
        bad = write_spans(self.records, rows, stamp, spans.words)
        if bad:
            raise row_error(bad % 4, int(rows[bad // 4]))
        return spans

    def forget(self, rows: RowIds | list[int] | None = None) -> None:
        """Forget what lookups have learnt of rows (all if None): the next ones look at every block. O(rows)."""
        self.memo[slice(None) if rows is None else rows] = 0

    def grow(self, max_requests: int, max_hashes: int) -> None:
        """Reserve more; what was captured with the old arrays is no longer valid (see `RowHashes.epoch`).

        Raises:
            ArgumentError: Less than now.
            ArgumentTypeError: No numbers.
            MemoryError: There is no room for them. None of these errors changes anything.

        O(capacity).
        """
        max_requests, max_hashes = self.checked_capacities(max_requests, max_hashes)
        records, seen, memo = (longer(array, max_requests) for array in (self.records, self.seen, self.memo))
        hashes = self.hashes.grown(records, max_hashes)
        no_requests: list[Any] = [None] * (max_requests - len(self.requests))
        requests, names = ([*each, *no_requests] for each in (self.requests, self.names))
        idle = [*range(max_requests - 1, len(self.requests) - 1, -1), *self._idle]
        self.seen, self.memo = seen, memo
        self.records, self.hashes = records, hashes
        # Last, and in one line: only now are there more rows.
        self.requests, self.names, self._idle = requests, names, idle

    def checked_capacities(self, max_requests: int, max_hashes: int) -> tuple[int, int]:
        """Capacities to grow to, as ints. O(1).

        Raises:
            ArgumentError, ArgumentTypeError: As `grow` does.
        """
        max_requests = as_integer("max_requests", max_requests)
        max_hashes = as_integer("max_hashes", max_hashes)
        if max_requests < len(self.requests) or max_hashes < len(self.hashes.arena):
            raise ArgumentError(
                f"capacities can only grow: {len(self.requests)} requests and {len(self.hashes.arena)} hashes"
            )
        return max_requests, max_hashes

    def refuse_shorter(self, rows: list[int]) -> None:
        """Check that no request has lost tokens or hashes that its row knows it to have. O(rows).

        Raises:
            ArgumentError: One has.
        """
        place = first_shorter(self.records[rows], [self.requests[row] for row in rows])
        if place >= 0:
            raise ArgumentError(f"request {self.names[rows[place]]} has become shorter; untrack() and track() it")
