"""`RowBlocks`: where the blocks of tracked requests lie."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from kvgpu.batch.attention_tables import write_tables
from kvgpu.batch.rows.record import RowIds, longer
from kvgpu.batch.rows.requests import RequestRows
from kvgpu.block_tables.store import COVERED, JUNCTION, LENGTH, SERIAL
from kvgpu.errors import ArgumentError, ConfigError
from kvgpu.integers import MOST_TOKENS

if TYPE_CHECKING:
    from kvgpu.manager import KVCacheManager


class RowBlocks:
    """The block tables of tracked requests in the pool's `BlockTableStore`.

    Args:
        manager: Whose blocks they are.
        rows: The tracked requests.

    Attributes:
        rows: The same.
        store: The pool's block tables.
        single_managers: The manager of each cache group.
        table_ids: int64 [max_requests, groups], places of each request's block tables in the store.
        unwritten: Rows that came with blocks that no block table of the caller shows yet.
        num_changes: How often slots of rows may have changed.

    Raises:
        ConfigError: The model has no cache groups.
    """

    def __init__(self, manager: "KVCacheManager", rows: RequestRows) -> None:
        self.single_managers = manager.coordinator.single_type_managers
        if not self.single_managers:
            raise ConfigError("a model without cache groups has no blocks to hand out")
        self.rows = rows
        self.store = manager.block_pool.block_tables
        self.table_ids: npt.NDArray[np.int64] = np.zeros((len(rows.records), len(self.single_managers)), np.int64)
        self.unwritten: set[int] = set()
        self.num_changes = 0
        self._keeps_junctions = manager.behaviour.keeps_boundaries and len(self.single_managers) > 1

    def moment(self) -> tuple[int, int]:
        """Return a value that differs once slots of tracked requests may have changed. O(1)."""
        return self.num_changes, self.store.num_closed

    def grow(self, max_requests: int) -> None:
        """Reserve more rows. O(capacity)."""
        self.table_ids = longer(self.table_ids, max_requests)

    def bind(self, rows: RowIds) -> list[int]:
        """Note where the blocks of these rows' requests lie; return the rows whose requests hold some. O(rows)."""
        tables = [single.req_to_blocks for single in self.single_managers]
        names = self.rows.names_of(rows)
        if all(table.keys().isdisjoint(names) for table in tables):
            return []
        store, records, holding = self.store, self.rows.records, []
        for row, name in zip(rows.tolist(), names, strict=True):
            lengths = [store.tables[table.table_id_of(name), LENGTH] for table in tables if name in table]
            if not any(lengths):
                continue
            self.table_ids[row] = [table[name].table_id for table in tables]
            first = store.tables[self.table_ids[row, 0]]
            records["serial"][row], records["covered"][row] = first[[SERIAL, COVERED]]
            holding.append(row)
        return holding

    def open(self, rows: RowIds) -> None:
        """Open empty block tables for rows without blocks. Amortised O(rows)."""
        opened = self.store.open_many(len(rows) * len(self.single_managers))
        self.table_ids[rows] = opened.reshape(-1, len(self.single_managers))

    def adopt(self, rows: RowIds, names: list[str]) -> None:
        """Enter requests that got their first blocks, in opened block tables, in the tables of the groups. O(rows)."""
        for single, places in zip(self.single_managers, self.table_ids[rows].T.tolist(), strict=True):
            single.req_to_blocks.adopt(names, places)
        if self._keeps_junctions:
            junctions = self.store.tables[self.table_ids[rows, 0], JUNCTION]
            for row, num_tokens in zip(rows.tolist(), junctions.tolist(), strict=True):
                # Single calls read it from the request.
                self.rows.requests[row].shared_prefix_boundary = num_tokens

    def leave(self, names: list[str]) -> None:
        """Take requests out of the tables of the groups. O(names)."""
        for single in self.single_managers:
            single.req_to_blocks.leave_all(names)

    def note_new(self, ids: npt.NDArray[np.int32], offsets: npt.NDArray[np.int64]) -> None:
        """Tell groups that record their new blocks of these ids.

        Args:
            ids: Group by group.
            offsets: int64 [groups, any]: those of a group lie between its first and its last number.

        O(groups + ids).
        """
        if not len(ids):
            return
        for group, single in enumerate(self.single_managers):
            if single.records_new_blocks:
                single.new_ids.note(ids[offsets[group, 0] : offsets[group, -1]])

    def refuse_foreign(self, names: list[str]) -> None:
        """Check that requests without blocks in their rows were not given some by single calls. O(names).

        Raises:
            ArgumentError: One was.
        """
        for single in self.single_managers:
            table = single.req_to_blocks
            if table.keys().isdisjoint(names):
                continue
            for name in names:
                if name in table and len(table[name]):
                    raise ArgumentError(f"request {name} was given blocks beside the batch: untrack() and track() it")

    def refuse_without_slots(self, rows: RowIds, num_computed: npt.NDArray[np.int64]) -> None:
        """Check that rows have slots for their computed tokens, int64 [n]. O(rows).

        Raises:
            ArgumentError: One has fewer, or its number is negative.
        """
        records = self.rows.records[rows]
        limits = np.full(len(rows), MOST_TOKENS, np.int64)
        for group, single in enumerate(self.single_managers):
            slots = self.store.tables[self.table_ids[rows, group], LENGTH] * single.block_size
            limits = np.minimum(limits, np.where(records["serial"] != 0, slots, 0))
        bad = np.flatnonzero((num_computed < 0) | (num_computed > limits))
        if len(bad):
            raise ArgumentError(
                f"request {self.rows.names[rows[bad[0]]]} has slots for {limits[bad[0]]} tokens: "
                f"{num_computed[bad[0]]} cannot be computed"
            )

    def rewind(self, rows: RowIds, num_tokens: npt.NDArray[np.int64]) -> None:
        """Take back computed tokens of valid rows, int64 [n] or [1]. O(rows).

        Raises:
            ArgumentError: More than were computed. Nothing is changed.
        """
        computed = self.rows.records["num_computed"][rows] - num_tokens
        if (computed < 0).any() or (num_tokens < 0).any():
            raise ArgumentError("only tokens that were computed can be taken back")
        self.rows.records["num_computed"][rows] = computed
        self.num_changes += 1

    def set_computed(self, rows: RowIds, num_tokens: npt.NDArray[np.int64]) -> None:
        """Set the number of computed tokens of valid rows, int64 [n]. O(rows).

        Raises:
            ArgumentError: More than have slots, or than the request has tokens. Nothing is changed.
        """
        self.refuse_without_slots(rows, num_tokens)
        if (num_tokens > self.rows.records["num_tokens"][rows]).any():
            raise ArgumentError("a request cannot have more computed tokens than tokens")
        self.rows.records["num_computed"][rows] = num_tokens
        self.num_changes += 1

    def write(self, rows: RowIds, starts: npt.NDArray[np.int64], out: Sequence[Any]) -> None:
        """Write blocks of rows to the caller's block tables, which were checked.

        Args:
            rows: int64 [n]; those without blocks are passed over.
            starts: int64 [n, groups], first block of each row to be written.
            out: As in `BatchManager.allocate_batch`.

        O(n + blocks written). Never waits for a device.
        """
        holding = self.rows.records["serial"][rows] != 0
        rows, starts = rows[holding], starts[holding]
        write_tables(out, self.store, self.table_ids[rows], rows, starts)

    def write_unwritten(self, rows: RowIds, out: Sequence[Any]) -> None:
        """Write all blocks of those of the rows that are `unwritten`. O(rows + blocks written)."""
        new = np.array([row for row in rows.tolist() if row in self.unwritten], np.int64)
        self.write(new, np.zeros((len(new), len(self.single_managers)), np.int64), out)
        self.unwritten.difference_update(new.tolist())
