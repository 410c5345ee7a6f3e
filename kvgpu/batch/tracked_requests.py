"""`TrackedRequests`: requests whose counters live in rows, and their way back to the request objects."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from kvgpu.arguments import integers
from kvgpu.batch.appending import Appending
from kvgpu.batch.delivery import Delivery
from kvgpu.batch.queries import BatchQueries
from kvgpu.batch.rows.full_blocks import hash_full_blocks, unhashed_tail
from kvgpu.batch.rows.pending_tokens import PendingTokens
from kvgpu.batch.rows.record import RowIds, longer
from kvgpu.block_tables.store import LENGTH, QUIET, SERIAL
from kvgpu.errors import ArgumentError, ConfigError
from kvgpu.exclusive import exclusive
from kvgpu.hashing.inputs.token_arrays import Tokens
from kvgpu.integers import MOST_TOKENS
from kvgpu.request import check_tokens

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
        changes: How often slots of rows may have changed.

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
        self.changes = 0
        self._pending = PendingTokens(max_requests, manager.coordinator.hash_block_size)
        self._delivery = Delivery(self.rows, self._pending)

    @exclusive
    def track(self, requests: Sequence[Any]) -> RowIds:
        """Give each request a row; one that holds blocks goes on with them. See `RequestRows.track`. O(hashes)."""
        rows = super().track(requests)
        self.unwritten.update(self.bind(rows))
        return rows

    @exclusive
    def extend(self, rows: RowIds | None = None) -> None:
        """Take over what requests have become; see `RequestRows.extend`.

        A request whose `num_computed_tokens` was changed since it was last synchronised, as when keys and values have
        arrived from elsewhere, takes its row along.

        Raises:
            ArgumentError: As in `RequestRows.extend`; or the request says of its computed tokens something else than
                the row, which was changed as well, or more than has slots. Nothing is changed.

        O(new hashes and tokens).
        """
        valid = self.rows.valid(rows)
        self.rows.refuse_shorter(valid.tolist())
        records = self.rows.records
        computed = self.rows.computed_by(valid)
        changed = computed != records["num_computed"][valid]
        self._refuse_without_slots(valid[changed], computed[changed])
        failure = self._delivery.flush(valid)
        if failure is not None:
            raise failure
        self._pending.forget(records, valid)
        super().extend(rows)
        records["num_computed"][valid] = self.rows.seen[valid] = computed
        self.changes += int(changed.any())

    @exclusive
    def untrack(self, rows: RowIds) -> None:
        """Bring requests up to date and release their rows; their blocks stay theirs.

        Raises:
            ArgumentError: A row that is not tracked, or comes twice. Nothing is changed.

        O(rows and pending tokens).
        """
        self.sync(rows)
        self.changes += 1
        super().untrack(rows)
        if self.unwritten:
            self.unwritten.difference_update(np.asarray(rows).tolist())

    @exclusive
    def grow(self, max_requests: int, max_hashes: int) -> None:
        """Reserve more; see `RequestRows.grow`. O(capacity)."""
        max_requests, max_hashes = self.rows.checked_capacities(max_requests, max_hashes)
        self._pending.grow(max_requests)
        self.tables = longer(self.tables, max_requests)
        self.rows.grow(max_requests, max_hashes)  # last: rows that exist have all of it

    @exclusive
    def append_batch(self, rows: RowIds, tokens: npt.ArrayLike, counts: npt.ArrayLike | None = None) -> None:
        """Append generated tokens; blocks that become full are hashed.

        Request objects get their tokens and hashes at `sync`, or when a row keeps more than some 250 tokens for
        them. Those of other engines, those with extra keys, and those that are not hashed by a
        `RequestBlockHasher` of the manager's hash block size hash for themselves: they get their tokens
        whenever these fill a block.

        All rows get their tokens, or none does. The exception are requests that append by code of another engine:
        they come last, each by itself. What one of them raises is raised when all others have been served; it comes
        with a note that says so.

        Args:
            rows: int64 [n].
            tokens: Integers [n], or [sum(counts)], row by row.
            counts: Integers [n], tokens of each row; None for one each.

        Raises:
            ArgumentError: A row that is not tracked or comes twice, numbers that do not fit, or no room
                for the hashes.
            ArgumentTypeError: Tokens or counts that are not integers. Nothing is changed, and nothing when a hash
                function raises an error of its own.

        One pass over all rows, and O(block) for those that fill a block.
        """
        rows = self.rows.valid(rows)
        given, starts = self._pending.checked(rows, tokens, counts)
        check_tokens((self.rows.requests[row] for row in rows), given)
        self.rows.refuse_tokens(rows, starts, self.manager.coordinator.hash_block_size)
        records, pending = self.rows.records, self._pending
        got = pending.append(records, rows, np.arange(len(rows)), given, starts)
        if len(got.behind) or len(got.left):
            appending = Appending(self.rows, pending, self._delivery, rows, given, starts, got, self._tail)
            failure = appending.run()
            if failure is not None:
                raise failure
        elif len(got.full):
            try:
                hash_full_blocks(self.rows, pending, rows[got.full])
            except BaseException:
                pending.take_back(records, rows, np.diff(starts))
                raise

    def _tail(self, row: int) -> Tokens | None:
        record = self.rows.records[row]
        return unhashed_tail(
            self.rows.requests[row],
            int(record["num_tokens"]),
            int(record["end"] - record["begin"]),
            self.manager.coordinator.hash_block_size,
        )

    @exclusive
    def rewind(self, rows: RowIds, num_tokens: npt.ArrayLike) -> None:
        """Take back computed tokens, as when drafts are rejected; their slots stay.

        Args:
            rows: int64 [n].
            num_tokens: Integers [n] or one for all.

        Raises:
            ArgumentError: A row that is not tracked or comes twice, or fewer tokens that are computed.
            ArgumentTypeError: Numbers of another kind or shape. Nothing is changed.

        O(rows).
        """
        rows = self.rows.valid(rows)
        given = integers("num_tokens", num_tokens, len(rows), one_for_all=True)
        computed = self.rows.records["num_computed"][rows] - given
        if (computed < 0).any() or (given < 0).any():
            raise ArgumentError("only tokens that were computed can be taken back")
        self.rows.records["num_computed"][rows] = computed
        self.changes += 1

    @exclusive
    def set_computed(self, rows: RowIds, num_tokens: npt.ArrayLike) -> None:
        """Say how many tokens of rows are computed, as when keys and values have arrived from elsewhere.

        Args:
            rows: int64 [n], of requests that hold blocks.
            num_tokens: Integers [n] or one for all: at most the tokens of the request, and those that have slots.

        Raises:
            ArgumentError: A row that is not tracked or comes twice, or more tokens than it has.
            ArgumentTypeError: Numbers of another kind or shape. Nothing is changed.

        O(rows).
        """
        rows = self.rows.valid(rows)
        given = np.broadcast_to(integers("num_tokens", num_tokens, len(rows), one_for_all=True), rows.shape)
        self._refuse_without_slots(rows, given)
        if (given > self.rows.records["num_tokens"][rows]).any():
            raise ArgumentError("a request cannot have more computed tokens than tokens")
        self.rows.records["num_computed"][rows] = given
        self.changes += 1

    def _refuse_without_slots(self, rows: RowIds, num_computed: npt.NDArray[np.int64]) -> None:
        """
        Raises:
            ArgumentError: A row would have more computed tokens than slots.
        """
        records, store = self.rows.records[rows], self.manager.block_pool.tables
        most = np.full(len(rows), MOST_TOKENS, np.int64)
        for group, single in enumerate(self.manager.coordinator.single_type_managers):
            slots = store.rows[self.tables[rows, group], LENGTH] * single.block_size
            most = np.minimum(most, np.where(records["serial"] != 0, slots, 0))
        bad = np.flatnonzero((num_computed < 0) | (num_computed > most))
        if len(bad):
            raise ArgumentError(
                f"request {self.rows.names[rows[bad[0]]]} has slots for {most[bad[0]]} tokens: "
                f"{num_computed[bad[0]]} cannot be computed"
            )

    @exclusive
    def sync(self, rows: RowIds | None = None) -> None:
        """Bring the request objects of rows (all if None) up to date: tokens, hashes, `num_computed_tokens`.

        Raises:
            ArgumentError: A row that is not tracked, or comes twice. Nothing is changed.

        What a request of another engine raises is raised when all others are up to date; it keeps waiting for its
        tokens.

        O(rows): for those who read the objects; the batched calls do not.
        """
        checked = self.rows.valid(rows)
        failure = self._delivery.flush(checked)
        computed = self.rows.records["num_computed"][checked].tolist()
        for row, num_computed in zip(checked.tolist(), computed, strict=True):
            request = self.rows.requests[row]
            self.turn.tell(setattr, request, "num_computed_tokens", num_computed)
        self.rows.seen[checked] = computed
        if failure is not None:
            raise failure

    def bind(self, rows: RowIds) -> list[int]:
        """Note where the blocks lie that requests of these rows hold; the rows of those that hold some. O(rows)."""
        tables = [m.req_to_blocks for m in self.manager.coordinator.single_type_managers]
        names = self.names(rows)
        if all(table.keys().isdisjoint(names) for table in tables):
            return []
        store, holding = self.manager.block_pool.tables, []
        for row, name in zip(rows.tolist(), names, strict=True):
            held = [store.rows[table.row_of(name), LENGTH] for table in tables if name in table]
            if not any(held):
                continue
            self.tables[row] = [table[name].row for table in tables]
            first = store.rows[self.tables[row, 0]]
            self.rows.records["serial"][row], self.rows.records["quiet"][row] = first[[SERIAL, QUIET]]
            holding.append(row)
        return holding

    def names(self, rows: RowIds) -> list[str]:
        """Names of the requests of rows. O(rows)."""
        names = self.rows.names
        return [names[row] for row in rows.tolist()]
