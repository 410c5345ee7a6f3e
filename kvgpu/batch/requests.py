"""`TrackedRequests`: requests whose counters live in rows, and their way back to the request objects."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from kvgpu.batch.full_blocks import hash_full_blocks, unhashed_tail
from kvgpu.batch.pending import Appended, PendingTokens
from kvgpu.batch.queries import BatchQueries
from kvgpu.batch.row_record import BY_REQUEST, UNDECIDED, RowIds, integers
from kvgpu.block_hashing.hasher import append_hashes
from kvgpu.errors import ArgumentError, ConfigError
from kvgpu.exclusive import exclusive
from kvgpu.integers import MOST_TOKENS
from kvgpu.request import append_and_hash, check_tokens
from kvgpu.table_store import LENGTH, QUIET, SERIAL
from kvgpu.token_ids import Tokens

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
        self._flush(valid)
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

        Request objects get their tokens and hashes at `sync`, or when a row keeps more than some 250 tokens for
        them. Those of other engines, those with extra keys, and those that are not hashed by a
        `RequestBlockHasher` of the manager's hash block size hash for themselves: they get their tokens
        whenever these fill a block.

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
        full, behind, left = self._append(rows, given, starts)
        if len(full):
            try:
                hash_full_blocks(self.rows, self._pending, rows[full])
            except Exception:
                taken = np.delete(np.arange(len(rows)), left)
                self._pending.take_back(self.rows.records, rows[taken], np.diff(starts)[taken])
                raise
        if len(behind):
            self._flush(rows[behind])
            self.rows.extend(rows[behind])
        if len(left):
            # More than a row can keep.
            append_and_hash(
                (self.rows.requests[rows[i]], given[starts[i] : starts[i + 1]].tolist())
                for i in left.tolist()
            )
            self._pending.forget(self.rows.records, rows[left])
            self.rows.extend(rows[left])

    def _append(
        self, rows: RowIds, tokens: npt.NDArray[np.int64], starts: npt.NDArray[np.int64]
    ) -> Appended:
        """Append to the rows; those that are left have nothing pending, and too little room even so."""
        records, pending = self.rows.records, self._pending
        got = pending.append(records, rows, np.arange(len(rows)), tokens, starts)
        if not len(got.left):
            return got
        self._flush(rows[got.left])
        for row in rows[got.left].tolist():
            if records["way"][row] == UNDECIDED:
                pending.decide(records, row, self._tail(row))
        more = pending.append(records, rows, got.left, tokens, starts)
        return Appended(
            np.concatenate([got.full, more.full]), np.concatenate([got.behind, more.behind]),
            more.left,
        )  # fmt: skip

    def _tail(self, row: int) -> Tokens | None:
        record = self.rows.records[row]
        return unhashed_tail(
            self.rows.requests[row], int(record["num_tokens"]), int(record["end"] - record["begin"]),
            self.manager.coordinator.hash_block_size,
        )  # fmt: skip

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
        given = integers("num_tokens", num_tokens, len(rows))
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
        given = np.broadcast_to(integers("num_tokens", num_tokens, len(rows)), rows.shape)
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

        O(rows): for those who read the objects; the batched calls do not.
        """
        checked = self.rows.valid(rows)
        self._flush(checked)
        computed = self.rows.records["num_computed"][checked].tolist()
        for row, num_computed in zip(checked.tolist(), computed, strict=True):
            request = self.rows.requests[row]
            self.turn.tell(setattr, request, "num_computed_tokens", num_computed)
        self.rows.seen[checked] = computed

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
            self.rows.records["serial"][row], self.rows.records["quiet"][row] = first[
                [SERIAL, QUIET]
            ]
            holding.append(row)
        return holding

    def names(self, rows: RowIds) -> list[str]:
        """Names of the requests of rows. O(rows)."""
        names = self.rows.names
        return [names[row] for row in rows.tolist()]

    def _flush(self, rows: RowIds) -> None:
        """Give requests the tokens, and the hashes, that they have not got yet."""
        records = self.rows.records
        rows = rows[records["num_pending"][rows] > 0]
        if not len(rows):
            return
        before = records[rows]
        aheads = before["num_ahead"].tolist()
        counts = (before["end"] - before["begin"]).tolist()
        had = (before["num_tokens"] - before["num_pending"]).tolist()
        alone = []
        for row, tokens, way, ahead, count, num_tokens in zip(
            rows.tolist(), self._pending.take(records, rows), before["way"].tolist(), aheads,
            counts, had, strict=True,
        ):  # fmt: skip
            request = self.rows.requests[row]
            known = count - ahead
            if way == BY_REQUEST:
                alone.append((request, tokens))
            elif request.num_tokens != num_tokens or len(request.block_hashes) != known:
                # It was given tokens beside its row, whose own hashes are of other blocks: `extend` is to follow.
                records["end"][row] -= ahead
                self.rows.forget([row])
                self._pending.forget(records, [row])
                alone.append((request, tokens))
            else:
                request.append_unhashed(tokens)
                append_hashes(request, self.rows.hashes(row, known).copy(), self.rows.linked)
        append_and_hash(alone)
