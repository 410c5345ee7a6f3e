"""`TrackedRequests`: requests whose counters live in rows, and their way back to the request objects."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from kvgpu.batch.pending import PendingTokens
from kvgpu.batch.queries import BatchQueries
from kvgpu.batch.row_record import RowIds, integers
from kvgpu.errors import ArgumentError, ConfigError
from kvgpu.exclusive import exclusive
from kvgpu.request import append_and_hash, check_tokens
from kvgpu.table_store import LENGTH, SERIAL

if TYPE_CHECKING:
    from kvgpu.manager import KVCacheManager


class TrackedRequests(BatchQueries):
    """`BatchQueries` whose rows own `num_tokens` and `num_computed`, and know where blocks lie.

    Args:
        manager: Whose requests they are.
        max_requests: Requests that can be tracked.
        max_hashes: Hashes of all of them together.

    Attributes:
        tables: int64 [max_requests, groups]: rows of each request in the pool's `TableStore`.
        unwritten: Rows that came with blocks that no block table of the caller shows yet.

    Raises:
        ConfigError: A capacity below 1, or a model without cache groups.
    """

    def __init__(self, manager: "KVCacheManager", max_requests: int, max_hashes: int) -> None:
        super().__init__(manager, max_requests, max_hashes)
        num_groups = len(manager.coordinator.single_type_managers)
        if not num_groups:
            raise ConfigError("a model without cache groups has no blocks to hand out")
        self.tables: npt.NDArray[np.int64] = np.zeros((max_requests, num_groups), np.int64)
        self.unwritten: set[int] = set()
        self._pending = PendingTokens(max_requests, manager.coordinator.hash_block_size)

    @exclusive
    def track(self, requests: Sequence[Any]) -> RowIds:
        """Give each request a row; one that holds blocks goes on with them. See `RequestRows.track`."""
        rows = super().track(requests)
        self.bind(rows)
        self.unwritten.update(rows[self.rows.records["serial"][rows] != 0].tolist())
        return rows

    @exclusive
    def extend(self, rows: RowIds | None = None) -> None:
        """Take over what requests have become; see `RequestRows.extend`."""
        valid = self.rows.valid(rows).tolist()
        self.rows.refuse_shorter(valid)
        self._flush(valid)
        super().extend(rows)

    @exclusive
    def untrack(self, rows: RowIds) -> None:
        """Bring requests up to date and release their rows; their blocks stay theirs.

        Raises:
            ArgumentError: A row that is not tracked, or comes twice. Nothing is changed.
        """
        self.sync(rows)
        super().untrack(rows)
        self.unwritten.difference_update(np.asarray(rows).tolist())

    @exclusive
    def grow(self, max_requests: int, max_hashes: int) -> None:
        """Reserve more; see `RequestRows.grow`."""
        self.rows.grow(max_requests, max_hashes)
        more = max_requests - len(self.tables)
        self.tables = np.concatenate(
            [self.tables, np.zeros((more, self.tables.shape[1]), np.int64)]
        )
        self._pending.grow(max_requests)

    @exclusive
    def append_batch(
        self, rows: RowIds, tokens: npt.ArrayLike, counts: npt.ArrayLike | None = None
    ) -> None:
        """Append generated tokens; blocks that become full are hashed.

        A request object gets its tokens when they fill a block, or at `sync`.

        Args:
            rows: int64 [n].
            tokens: Integers [n], or [sum(counts)], row by row.
            counts: Integers [n], tokens of each row; None for one each.

        Raises:
            ArgumentError: A row that is not tracked or comes twice, numbers that do not fit, or no room
                for the hashes.
            ArgumentTypeError: Tokens or counts that are not integers. Nothing is changed.

        One pass over all rows, and O(block) for those that fill a block.
        """
        rows = self.rows.valid(rows)
        given, sizes = self._pending.checked(rows, tokens, counts)
        check_tokens((self.rows.requests[row] for row in rows), given)
        self.rows.refuse_tokens(rows, sizes, self.manager.coordinator.hash_block_size)
        filled = self._pending.append(self.rows.records, rows, given, sizes)
        if not filled:
            return
        rests = dict(filled)
        self._flush(list(rests), rests)
        self.rows.extend(np.array(list(rests), np.int64))

    @exclusive
    def rewind(self, rows: RowIds, num_tokens: npt.ArrayLike) -> None:
        """Take back computed tokens, as when drafts are rejected; their slots stay.

        Args:
            rows: int64 [n].
            num_tokens: Integers [n] or one for all.

        Raises:
            ArgumentError: A row that is not tracked or comes twice, or fewer tokens that are computed.
            ArgumentTypeError: Numbers of another kind or shape. Nothing is changed.
        """
        rows = self.rows.valid(rows)
        given = integers("num_tokens", num_tokens, len(rows))
        computed = self.rows.records["num_computed"][rows] - given
        if (computed < 0).any() or (given < 0).any():
            raise ArgumentError("only tokens that were computed can be taken back")
        self.rows.records["num_computed"][rows] = computed

    @exclusive
    def sync(self, rows: RowIds | None = None) -> None:
        """Bring the request objects of rows (all if None) up to date: tokens, and `num_computed_tokens`.

        Raises:
            ArgumentError: A row that is not tracked, or comes twice. Nothing is changed.

        O(rows): for those who read the objects; the batched calls do not.
        """
        checked = self.rows.valid(rows).tolist()
        self._flush(checked)
        computed = self.rows.records["num_computed"][checked].tolist()
        for row, num_computed in zip(checked, computed, strict=True):
            self.rows.requests[row].num_computed_tokens = num_computed

    def bind(self, rows: RowIds) -> None:
        """Note where the blocks lie that requests of these rows hold."""
        store = self.manager.block_pool.tables
        tables = [m.req_to_blocks for m in self.manager.coordinator.single_type_managers]
        for row in rows.tolist():
            name = self.rows.requests[row].request_id
            held = [store.rows[table.row_of(name), LENGTH] for table in tables if name in table]
            if not any(held):
                continue
            self.tables[row] = [table[name].row for table in tables]
            serial = int(store.rows[self.tables[row, 0], SERIAL])
            self.rows.records["serial"][row] = serial

    def _flush(self, rows: list[int], rests: dict[int, list[int]] | None = None) -> None:
        """Give requests the tokens that they have not got yet, and the rest of their new ones."""
        records = self.rows.records
        behind = [rows[i] for i in np.flatnonzero(records["num_pending"][rows]).tolist()]
        new: dict[int, list[int]] = {}
        if behind:
            new = dict(zip(behind, self._pending.take(records, behind), strict=True))
        for row, rest in (rests or {}).items():
            new[row] = [*new.get(row, ()), *rest]
        append_and_hash(
            [(self.rows.requests[row], tokens) for row, tokens in new.items() if tokens]
        )
