"""`TrackedRequests`: requests whose counters live in rows, and their way back to the request objects."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from kvgpu.batch.pending import PendingTokens
from kvgpu.batch.queries import BatchQueries
from kvgpu.batch.row_record import RowIds
from kvgpu.errors import ArgumentError, ConfigError
from kvgpu.exclusive import exclusive
from kvgpu.table_store import SERIAL

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

    Raises:
        ConfigError: A capacity below 1, or a model without cache groups.
    """

    def __init__(self, manager: "KVCacheManager", max_requests: int, max_hashes: int) -> None:
        super().__init__(manager, max_requests, max_hashes)
        num_groups = len(manager.coordinator.single_type_managers)
        if not num_groups:
            raise ConfigError("a model without cache groups has no blocks to hand out")
        self.tables: npt.NDArray[np.int64] = np.zeros((max_requests, num_groups), np.int64)
        self._pending = PendingTokens(max_requests, manager.coordinator.hash_block_size)

    @exclusive
    def track(self, requests: Sequence[Any]) -> RowIds:
        """Give each request a row; one that holds blocks goes on with them. See `RequestRows.track`."""
        rows = super().track(requests)
        self.bind(rows)
        return rows

    @exclusive
    def extend(self, rows: RowIds | None = None) -> None:
        """Take over what requests have become; see `RequestRows.extend`."""
        self._flush(self.rows.valid(rows).tolist())
        super().extend(rows)

    @exclusive
    def untrack(self, rows: RowIds) -> None:
        """Bring requests up to date and release their rows; their blocks stay theirs.

        Raises:
            ArgumentError: A row that is not tracked, or comes twice. Nothing is changed.
        """
        self.sync(rows)
        super().untrack(rows)

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
            ArgumentTypeError: Tokens or counts that are not integers.

        One pass over all rows, and O(block) for those that fill a block.
        """
        rows = self.rows.valid(rows)
        filled = self._pending.append(self.rows.records, rows, tokens, counts)
        if not filled:
            return
        self._flush([row for row, _ in filled])
        for row, rest in filled:
            if rest:
                self.rows.requests[row].append_output_token_ids(rest)
        self.rows.extend(np.array([row for row, _ in filled], np.int64))

    @exclusive
    def rewind(self, rows: RowIds, num_tokens: npt.ArrayLike) -> None:
        """Take back computed tokens, as when drafts are rejected; their slots stay.

        Args:
            rows: int64 [n].
            num_tokens: Integers [n] or one for all.

        Raises:
            ArgumentError: A row that is not tracked or comes twice, or fewer tokens that are computed.
                Nothing is changed.
        """
        rows = self.rows.valid(rows)
        computed = self.rows.records["num_computed"][rows] - np.asarray(num_tokens)
        if (computed < 0).any() or (np.asarray(num_tokens) < 0).any():
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
        managers = self.manager.coordinator.single_type_managers
        for row in rows.tolist():
            name = self.rows.requests[row].request_id
            if name in managers[0].req_to_blocks:
                self.tables[row] = [single.req_to_blocks.row_of(name) for single in managers]
                serial = int(store.rows[self.tables[row, 0], SERIAL])
                self.rows.records["serial"][row] = serial

    def _flush(self, rows: list[int]) -> None:
        records = self.rows.records
        behind = [rows[i] for i in np.flatnonzero(records["num_pending"][rows]).tolist()]
        if behind:
            for row, tokens in zip(behind, self._pending.take(records, behind), strict=True):
                self.rows.requests[row].append_output_token_ids(tokens)
