"""`BatchManager`: slots for many requests in one call."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from kvgpu.batch import step
from kvgpu.batch.requests import TrackedRequests
from kvgpu.batch.result import BatchAllocation
from kvgpu.batch.row_record import TWICE, UNTRACKED, RowIds, integers
from kvgpu.batch.single import allocate_one_by_one, refuse_hashed
from kvgpu.batch.tables import check_tables, write_tables
from kvgpu.blocks import NO_IDS
from kvgpu.errors import ArgumentError, BlockStateError
from kvgpu.exclusive import exclusive
from kvgpu.table_store import LENGTH

if TYPE_CHECKING:
    from kvgpu.manager import KVCacheManager

NO_PLAN = np.zeros(0, np.int64)
NO_CHANGES = np.zeros(0, np.int64)


class BatchManager(TrackedRequests):
    """A `KVCacheManager` that is asked about many requests at once.

    Results and state are those of the manager's own calls, one request after the other in the order of the
    rows. Rows own the counters of their requests: `num_tokens`, and `num_computed`, the tokens that have
    slots; `sync` brings the request objects up to date.

    Args:
        manager: Whose blocks are handed out. Belongs to the same thread and stream.
        max_requests: Requests that can be tracked.
        max_hashes: Hashes of all of them together.

    Raises:
        ConfigError: A capacity below 1, or a model without cache groups.

    ::

        batch = BatchManager(manager, max_requests=1024, max_hashes=1_000_000)
        rows = batch.track(requests)
        got = batch.allocate_batch(rows, 8192)        # looked up, allocated, cached
        running = rows[got.fits]
        ...                                           # the model runs
        batch.append_batch(running, sampled_tokens)
        batch.allocate_batch(running, 1)              # the next step
    """

    def __init__(self, manager: "KVCacheManager", max_requests: int, max_hashes: int) -> None:
        super().__init__(manager, max_requests, max_hashes)
        num_groups = self.tables.shape[1]
        self._no_offsets = np.zeros((num_groups, 1), np.int64)
        plan = self._plan()
        self._plan_words = NO_PLAN if plan is None else plan.words
        self._lines = np.zeros((2, num_groups), np.int64)
        if plan is not None:
            for line, group in enumerate(plan.groups):
                query = next(
                    q for q, part in enumerate(plan.lines) if part.start <= line < part.stop
                )
                self._lines[:, group] = line, query

    @exclusive
    def allocate_batch(
        self,
        rows: RowIds,
        num_new_tokens: npt.ArrayLike,
        *,
        num_lookahead_tokens: int = 0,
        delay_cache_blocks: bool = False,
        full_sequence_must_fit: bool = False,
        reserved_blocks: int = 0,
        stop_when_full: bool = False,
        out: Sequence[Any] | None = None,
    ) -> BatchAllocation:
        """Slots for the next tokens of each row, in order, all or nothing for each.

        A row without blocks is looked up first, as by `get_computed_blocks`, and gets its hit; its new tokens
        are cut to what the hit leaves. A row that gets its slots counts its new tokens as computed, as a
        scheduler does when it has scheduled them.

        Args:
            rows: int64 [n].
            num_new_tokens: Integers [n] or one for all, at least 1: tokens to compute next.
            num_lookahead_tokens: Draft tokens of each row that need slots as well.
            delay_cache_blocks, full_sequence_must_fit, reserved_blocks: As in `allocate_slots`, for each row.
            stop_when_full: Do not try rows behind the first that does not fit.
            out: Block tables to be kept up to date, one per group: int32 [>= max_requests, >= blocks], a
                NumPy array or a torch tensor on any device. Row r of a table belongs to row r. Null
                blocks are written where a block has left the window. Give the same ones at every call.

        Returns:
            What each row got.

        Raises:
            ArgumentError: A row that is not tracked, comes twice, has lost its blocks to
                `KVCacheManager.free` or was given some by `allocate_slots`; no new tokens; hashes that are
                missing; tables that do not fit.
            ArgumentTypeError: Arrays of another dtype.
            BlockStateError: A block to be cached has a hash already. Nothing is changed by any.

        One pass over rows that stay inside their blocks, else expected O(blocks that change) and the lookups of
        rows without blocks. Never waits for a device, except where single calls serve the batch (see
        `kvgpu.batch.single`) and their lookups ask one. Requests with tokens computed elsewhere go through
        `KVCacheManager.allocate_slots`.
        """
        rows, stamp = self.rows.as_rows(rows)
        num_new = integers("num_new_tokens", num_new_tokens, len(rows))
        manager, store, pool = self.manager, self.manager.block_pool.tables, self.manager.block_pool
        caching = manager.enable_caching
        options = np.array(
            [pool.state.null_id, getattr(pool.index, "seed", 0), num_lookahead_tokens,
             manager.max_model_len, reserved_blocks, manager.coordinator.hash_block_size,
             full_sequence_must_fit, caching and not delay_cache_blocks, caching, stop_when_full,
             stamp],
            np.int64,
        )  # fmt: skip
        arrays = manager.arrays
        if arrays is not None and not (arrays.ready() and self._fits_records()):
            arrays = None
        # Single calls find out for themselves what they need of each group.
        groups = manager.coordinator.group_records[: None if arrays is not None else 0]
        status, place, bounds = step.bounds_of(
            pool.state.records, store.rows, store.ids, store.heads, groups, self.rows.records, rows,
            self.tables, num_new, options,
        )  # fmt: skip
        if status:
            raise self._complaint(status, int(rows[place]))
        waiting = None
        if bounds[step.WAITING]:
            waiting = np.flatnonzero(self.rows.records["serial"][rows] == 0)
            self._refuse_strangers(rows[waiting])
        if out is not None:
            check_tables(out, len(self.tables), self._columns(rows, num_new, num_lookahead_tokens))
        if arrays is not None and not bounds[step.BUSY]:
            result = self._advance(rows, num_new)
        elif arrays is None:
            refuse_hashed(self, rows, num_new, options)
            result = allocate_one_by_one(self, rows, num_new, options, out)
        else:
            result = self._allocate(rows, waiting, num_new, options, bounds, out)
        if out is not None and self.unwritten:
            came = np.array([row for row in rows.tolist() if row in self.unwritten], np.int64)
            self.write(came, np.zeros((len(came), self.tables.shape[1]), np.int64), out)
            self.unwritten.difference_update(came.tolist())
        return result

    def _advance(self, rows: RowIds, num_new: npt.NDArray[np.int64]) -> BatchAllocation:
        """Every row stays inside its blocks."""
        step.advance_rows(self.rows.records, rows, num_new)
        count = len(rows)
        fits, no_hits = np.ones(count, np.bool_), np.zeros(count, np.int64)
        return BatchAllocation(
            self, rows, fits, no_hits, num_new, count, NO_CHANGES, NO_IDS, self._no_offsets
        )

    def _allocate(
        self, rows: RowIds, waiting: npt.NDArray[np.int64] | None, num_new: npt.NDArray[np.int64],
        options: npt.NDArray[np.int64], bounds: npt.NDArray[np.int64], out: Sequence[Any] | None,
    ) -> BatchAllocation:  # fmt: skip
        manager, pool = self.manager, self.manager.block_pool
        arrays, store = manager.arrays, pool.tables
        assert arrays is not None
        records, count = self.rows.records, len(rows)
        if options[step.CACHES] and pool.state.width is None and self.rows.width:
            pool.state.adopt_width(self.rows.width)
        if waiting is not None:
            opened = store.open_many(len(waiting) * self.tables.shape[1])
            self.tables[rows[waiting]] = opened.reshape(len(waiting), -1)
        store.reserve(int(bounds[step.SEGMENTS]))
        fits, hit_tokens = np.zeros(count, np.bool_), np.zeros(count, np.int64)
        statistics = np.zeros((2, step.STATISTICS), np.int64)
        tried, changed, starts, tally = step.allocate_rows(
            pool.state.records, arrays.index.table, arrays.index.log_for(int(bounds[step.CHANGES])),
            store.rows, store.ids, store.heads, arrays.groups, records, rows, self.tables,
            self.rows.arena.words, num_new, self._plan_words, self._lines, options, bounds, fits,
            hit_tokens, statistics,
        )  # fmt: skip
        if waiting is not None:
            self._admit(rows[waiting], fits[waiting])
            num_new[waiting] = np.minimum(
                num_new[waiting], records["num_tokens"][rows[waiting]] - hit_tokens[waiting]
            )
            self._count(statistics)
        all_fit = bool(fits.all())
        if not all_fit:
            num_new[~fits] = 0
        arrays.account(tally)
        kept, kept_starts = changed, starts
        if not all_fit:
            changed_fits = fits[changed]
            kept, kept_starts = changed[changed_fits], starts[changed_fits]
        ids, offsets = step.new_blocks(store.rows, store.ids, self.tables, rows, kept, kept_starts)
        for group, single in enumerate(manager.coordinator.single_type_managers):
            if single.records_new_blocks and offsets[group, -1] > offsets[group, 0]:
                single.note_new(ids[offsets[group, 0] : offsets[group, -1]])
        if out is not None:
            self.write(rows[changed], starts[:, 2], out)
        return BatchAllocation(self, rows, fits, hit_tokens, num_new, tried, kept, ids, offsets)

    @exclusive
    def free_batch(self, rows: RowIds, *, preempt: bool = False) -> None:
        """Give back the blocks of each row, in order; the rows stay tracked, with nothing computed.

        Args:
            rows: int64 [n]; those without blocks are passed over.
            preempt: The requests will come back: their next lookups count as those of preempted ones.

        Raises:
            ArgumentError: A row that is not tracked, comes twice, or has lost its blocks to
                `KVCacheManager.free`. Nothing is changed.

        O(blocks).
        """
        rows = self.rows.valid(rows)
        manager, pool, records = self.manager, self.manager.block_pool, self.rows.records
        store = pool.tables
        place = step.foreign_row(store.rows, records, rows, self.tables)
        if place >= 0:
            raise self._complaint(step.FREED, int(rows[place]))
        holding = rows[records["serial"][rows] != 0]
        names = [self.rows.requests[row].request_id for row in holding.tolist()]
        if manager.arrays is None or not manager.arrays.ready():
            for row in rows.tolist():
                manager.free(self.rows.requests[row])
            records["serial"][rows] = records["num_computed"][rows] = 0
        else:
            for single in manager.coordinator.single_type_managers:
                for name in names:
                    single.req_to_blocks.leave(name)
            step.free_rows(
                pool.state.records, store.rows, store.ids, store.heads, manager.arrays.groups,
                records, rows, self.tables, pool.state.null_id,
            )  # fmt: skip
            store.close_many(self.tables[holding].reshape(-1).tolist())
        if preempt:
            records["preempted"][holding] = True
            for row in holding.tolist():
                self.rows.requests[row].num_preemptions += 1

    def write(self, rows: RowIds, starts: npt.NDArray[np.int64], out: Sequence[Any]) -> None:
        """Write blocks of rows from `starts` int64 [n, groups] on to block tables that were checked.

        Args:
            rows: int64 [n]; those without blocks are passed over.
            starts: First block of each row to be written, per group.
            out: As in `allocate_batch`.

        O(n + blocks written). Never waits for a device.
        """
        holding = self.rows.records["serial"][rows] != 0
        rows, starts = rows[holding], starts[holding]
        write_tables(out, self.manager.block_pool.tables, self.tables[rows], rows, starts)

    def _refuse_strangers(self, rows: RowIds) -> None:
        """Refuse rows without blocks whose requests got some from single calls."""
        tables = [m.req_to_blocks for m in self.manager.coordinator.single_type_managers]
        for row in rows.tolist():
            name = self.rows.requests[row].request_id
            for table in tables:
                if name in table and len(table[name]):
                    raise ArgumentError(
                        f"request {name} was given blocks beside the batch: untrack() and track() it"
                    )

    def _admit(self, rows: RowIds, fits: npt.NDArray[np.bool_]) -> None:
        """Enter requests that got blocks in the tables of the groups; the others' rows go back."""
        managers = self.manager.coordinator.single_type_managers
        for row in rows[fits].tolist():
            name = self.rows.requests[row].request_id
            for single, place in zip(managers, self.tables[row].tolist(), strict=True):
                single.req_to_blocks.adopt(name, place)
        self.manager.block_pool.tables.close_many(self.tables[rows[~fits]].reshape(-1).tolist())

    def _count(self, statistics: npt.NDArray[np.int64]) -> None:
        stats = self.manager.prefix_cache_stats
        if stats is not None:
            for preempted, (requests, queries, hits) in enumerate(statistics.tolist()):
                stats.record(queries, hits, bool(preempted), requests)

    def _columns(self, rows: RowIds, num_new: npt.NDArray[np.int64], lookahead: int) -> list[int]:
        """Most blocks that any of the rows has, or will have with so many more tokens, per group."""
        records, held = self.rows.records[rows], self.manager.block_pool.tables.rows[:, LENGTH]
        bound = records["serial"] != 0
        tokens = (
            records["num_computed"] + np.where(bound, num_new, records["num_tokens"]) + lookahead
        )
        longest = int(tokens.max(initial=0))
        return [
            max(-(-longest // single.block_size), int(held[mine].max(initial=0)))
            for single, mine in zip(
                self.manager.coordinator.single_type_managers,
                self.tables[rows[bound]].T,
                strict=True,
            )
        ]

    def _complaint(self, status: int, row: int) -> ArgumentError | BlockStateError:
        if status in (UNTRACKED, TWICE):
            return self.rows.complaint(status, row)
        name = self.rows.requests[row].request_id
        if status == step.HASHED:
            return BlockStateError(f"request {name}: a block to be cached has a hash already")
        reasons = {
            step.FREED: "has lost its blocks to KVCacheManager.free: untrack() and track() it",
            step.NO_TOKENS: "needs at least 1 new token",
            step.NO_HASHES: "has fewer block hashes than full blocks: give it a block_hasher",
        }
        return ArgumentError(f"request {name} {reasons[status]}")
