"""`BatchManager`: slots for many requests in one call."""

from collections.abc import Sequence
from itertools import compress
from struct import Struct
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from kvgpu.allocation.compiled import DROPPED
from kvgpu.arguments import integers
from kvgpu.batch.attention_tables import check_tables, write_tables
from kvgpu.batch.one_by_one import allocate_one_by_one, refuse_hashed
from kvgpu.batch.result import BatchAllocation
from kvgpu.batch.rows.record import TWICE, UNTRACKED, RowIds
from kvgpu.batch.step import allocate as step
from kvgpu.batch.step.options import STEP_OPTIONS, StepOptions
from kvgpu.batch.step.report import (
    DONE,
    FREED,
    HASHED,
    NO_HASHES,
    NO_TOKENS,
    STEP_REPORT,
    TOO_LONG,
    TOO_NARROW,
    UNHELD,
    UNPREPARED,
    StepReport,
)
from kvgpu.batch.tracked_requests import TrackedRequests
from kvgpu.errors import ArgumentError, BlockStateError
from kvgpu.exclusive import exclusive
from kvgpu.index.journal import NO_LOG
from kvgpu.integers import MOST_TOKENS, as_integer, as_switch
from kvgpu.layout import BUCKET_WORDS

if TYPE_CHECKING:
    from kvgpu.manager import KVCacheManager

NO_PLAN = np.zeros(0, np.int64)
NO_ROWS = np.zeros(0, np.int64)
NO_WIDTHS = np.zeros(0, np.int64)
NO_TABLE = np.zeros((0, BUCKET_WORDS), np.int64)
NO_LIMIT = 1 << 62

_pack_options = Struct(f"{len(StepOptions._fields)}q").pack_into


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
        ArgumentTypeError: The manager is none.
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
        self._num_groups = num_groups = self.tables.shape[1]
        self._num_closed = manager.block_pool.tables.num_closed
        # Written anew by every call: making an array costs more than filling it, above all when nothing of the code
        # is in the processor's caches.
        self._one_number = np.zeros(1, np.int64)
        self._options: Any = np.zeros(1, STEP_OPTIONS)
        self._report: Any = np.zeros(1, STEP_REPORT)
        plan = self._plan()
        self._plan_words = NO_PLAN if plan is None else plan.words
        self._lines = np.zeros((2, num_groups), np.int64)
        if plan is not None:
            for line, group in enumerate(plan.groups):
                query = next(q for q, part in enumerate(plan.lines) if part.start <= line < part.stop)
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
            num_new_tokens: Integers [n] or one for all, at least 1: tokens to compute next. A row that holds
                blocks gets exactly so many.
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
                `KVCacheManager.free` or was given some by `allocate_slots`, or would have more tokens than the model
                allows (a row without blocks: its whole request); a number out of range, or no new tokens; hashes that
                are missing; tables that do not fit, or cannot be written.
            ArgumentTypeError: Arrays of another dtype.
            BlockStateError: A block to be cached has a hash already. Nothing is changed by any.
            Exception: What a metrics collector raised, or code that makes events: the batch is complete all the same.

        One pass over rows that stay inside their blocks, else expected O(blocks that change) and the lookups of
        rows without blocks. Never waits for a device, except where single calls serve the batch (see
        `kvgpu.batch.one_by_one`) and their lookups ask one. Requests with tokens computed elsewhere go through
        `KVCacheManager.allocate_slots`.
        """
        rows, stamp = self.rows.as_rows(rows)
        if num_new_tokens.__class__ is int and -MOST_TOKENS <= num_new_tokens <= MOST_TOKENS:
            given = self._one_number
            given[0] = num_new_tokens
        else:
            given = integers("num_new_tokens", num_new_tokens, len(rows), one_for_all=True)
        manager, pool = self.manager, self.manager.block_pool
        widths = NO_WIDTHS if out is None else check_tables(out, len(self.tables), self._num_groups)
        arrays = manager.slots.arrays
        if arrays is not None and not (arrays.ready() and self._fits_records()):
            arrays = None
        if arrays is not None and not self.rows.linked:
            arrays.index.settle_for_good()
        caches = manager.enable_caching and not as_switch("delay_cache_blocks", delay_cache_blocks)
        adopts = caches and pool.state.width is None and self.rows.width > 0
        log = NO_LOG if arrays is None else arrays.index.log_for(0)
        options = StepOptions(
            as_integer("num_lookahead_tokens", num_lookahead_tokens),
            as_integer("reserved_blocks", reserved_blocks),
            as_switch("full_sequence_must_fit", full_sequence_must_fit),
            caches,
            as_switch("stop_when_full", stop_when_full),
            stamp,
            arrays is not None,
            False,
            -1 if adopts else NO_LIMIT if log is NO_LOG else 0,
            self._trusts(),
            manager.max_model_len,
            manager.coordinator.hash_block_size,
            manager.enable_caching,
            manager.counts_admissions,
        )
        found, report = self._step(rows, given, widths, options, log)
        if report.status not in (DONE, UNPREPARED):
            raise self._complaint(report.status, int(rows[report.place]))
        waiting = NO_ROWS
        names: list[str] = []
        if report.num_waiting:
            all_wait = report.num_waiting == len(rows)
            waiting = rows if all_wait else rows[self.rows.records["serial"][rows] == 0]
            names = self.names(waiting)
            self._refuse_strangers(names)
        self.changes += 1
        if arrays is None:
            num_new = np.full(len(rows), given, np.int64)
            refuse_hashed(self, rows, num_new, options)
            if out is not None:
                # Also what rows have got when another one fails.
                self.unwritten.update(rows.tolist())
            result = allocate_one_by_one(self, rows, num_new, options)
        else:
            if report.status == UNPREPARED:
                if adopts:
                    pool.state.adopt_width(self.rows.width)
                log = self._prepare(waiting, report)
                found, report = self._step(rows, given, widths, options._replace(checked=True), log)
            if names:
                self._admit(waiting, names, report)
                self._count(report)
            result = self._result(rows, found, report, out)
        if out is not None and self.unwritten:
            came = np.array([row for row in rows.tolist() if row in self.unwritten], np.int64)
            self.write(came, np.zeros((len(came), self.tables.shape[1]), np.int64), out)
            self.unwritten.difference_update(came.tolist())
        return result

    def _trusts(self) -> bool:
        """Whether no tracked request can have lost its blocks to single calls."""
        store = self.manager.block_pool.tables
        if self._num_closed != store.num_closed:
            rows = self.rows.all()
            if step.foreign_row(store.rows, self.rows.records, rows, self.tables) >= 0:
                return False
            self._num_closed = store.num_closed
        return True

    def _close(self, opened: npt.NDArray[np.int64]) -> None:
        """Give back rows of the store that hold no memory, which no other row here is about."""
        store = self.manager.block_pool.tables
        known = self._num_closed == store.num_closed
        store.close_many(opened.reshape(-1))
        if known:
            self._num_closed = store.num_closed

    def _step(
        self,
        rows: RowIds,
        given: npt.NDArray[np.int64],
        widths: npt.NDArray[np.int64],
        options: StepOptions,
        log: npt.NDArray[np.int64],
    ) -> tuple[tuple[Any, ...], StepReport]:
        """`take_step`: what it returns, and its report."""
        pool = self.manager.block_pool
        state, report = pool.state, self._report
        _pack_options(self._options, 0, *options)
        found = step.take_step(
            (
                state.records,
                getattr(pool.index, "table", NO_TABLE),
                getattr(pool.index, "seed", 0),
                log,
                state.null_id,
                state.meta,
            ),
            pool.tables.arrays(),
            self.manager.coordinator.group_records,
            (self.rows.records, rows, self.tables, self.rows.arena.words, given, widths),
            (self._plan_words, self._lines),
            self._options,
            report,
        )
        return found, StepReport._make(report.item())

    def _prepare(self, waiting: RowIds, report: StepReport) -> npt.NDArray[np.int64]:
        """Make room for what a step that was checked can take; the log to note changes in."""
        manager, pool = self.manager, self.manager.block_pool
        assert manager.slots.arrays is not None
        opened = pool.tables.open_many(len(waiting) * self._num_groups)
        self.tables[waiting] = opened.reshape(-1, self._num_groups)
        pool.tables.reserve(report.segments)
        return manager.slots.arrays.index.log_for(report.changes)

    def _result(
        self, rows: RowIds, found: tuple[Any, ...], report: StepReport, out: Sequence[Any] | None
    ) -> BatchAllocation:
        """Take note of what a step did."""
        fits, num_new, hit_tokens, changed, starts, kept, offsets, ids = found
        num_kept = report.num_kept
        if report.num_changed:
            assert self.manager.slots.arrays is not None
            self.manager.slots.arrays.account(report.new_keys, report.num_evicted)
            offsets = offsets[:, : num_kept + 1]
            for group, single in enumerate(self.manager.coordinator.single_type_managers):
                if single.records_new_blocks and len(ids):
                    single.new_ids.note(ids[offsets[group, 0] : offsets[group, -1]])
            if out is not None:
                some = slice(report.num_changed)
                self.write(rows[changed[some]], starts[some, DROPPED], out)
        return BatchAllocation(self, rows, fits, hit_tokens, num_new, report.num_tried, kept[:num_kept], ids, offsets)

    @exclusive
    def free_batch(self, rows: RowIds, *, preempt: bool = False) -> None:
        """Give back the blocks of each row, in order; the rows stay tracked, with nothing computed.

        Args:
            rows: int64 [n]; those without blocks are passed over.
            preempt: The requests will come back: their next lookups count as those of preempted ones.

        Raises:
            ArgumentError: A row that is not tracked, comes twice, or has lost its blocks to
                `KVCacheManager.free`.
            ArgumentTypeError: A request to be preempted has no count of preemptions. Nothing is changed by either.

        O(blocks).
        """
        rows = self.rows.valid(rows)
        preempt = as_switch("preempt", preempt)
        manager, pool, records = self.manager, self.manager.block_pool, self.rows.records
        store = pool.tables
        place = step.foreign_row(store.rows, records, rows, self.tables)
        if place >= 0:
            raise self._complaint(FREED, int(rows[place]))
        holding = rows[records["serial"][rows] != 0]
        names = self.names(holding)
        counts = self._preemptions(holding) if preempt else []
        self.changes += 1
        if manager.slots.arrays is None or not manager.slots.arrays.ready():
            for name in names:
                manager.coordinator.free(name)
            records["serial"][rows] = records["num_computed"][rows] = 0
        else:
            for single in manager.coordinator.single_type_managers:
                single.req_to_blocks.leave_all(names)
            step.free_rows(
                manager.slots.arrays.index.arrays(),
                store.arrays(),
                manager.slots.arrays.groups,
                records,
                rows,
                self.tables,
            )
            self._close(self.tables[holding])
        if preempt:
            records["preempted"][holding] = True
            for row, count in zip(holding.tolist(), counts, strict=True):
                self.turn.tell(setattr, self.rows.requests[row], "num_preemptions", count + 1)

    def _preemptions(self, rows: RowIds) -> list[int]:
        """How often the requests of rows were preempted."""
        return [
            as_integer(
                f"request {self.rows.names[row]}: num_preemptions",
                getattr(self.rows.requests[row], "num_preemptions", None),
            )
            for row in rows.tolist()
        ]

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

    def _refuse_strangers(self, names: list[str]) -> None:
        """Refuse requests without blocks in their rows that got some from single calls."""
        for manager in self.manager.coordinator.single_type_managers:
            table = manager.req_to_blocks
            if table.keys().isdisjoint(names):
                continue
            for name in names:
                if name in table and len(table[name]):
                    raise ArgumentError(f"request {name} was given blocks beside the batch: untrack() and track() it")

    def _admit(self, waiting: RowIds, names: list[str], report: StepReport) -> None:
        """Enter requests that got blocks in the tables of the groups; the others' rows go back."""
        if report.num_kept < report.num_busy:
            got = self.rows.records["serial"][waiting] != 0
            self._close(self.tables[waiting[~got]])
            waiting, names = waiting[got], list(compress(names, got.tolist()))
        managers = self.manager.coordinator.single_type_managers
        for single, places in zip(managers, self.tables[waiting].T.tolist(), strict=True):
            single.req_to_blocks.adopt(names, places)

    def _count(self, report: StepReport) -> None:
        stats = self.manager.prefix_cache_stats
        if stats is None:
            return
        stats.record(report.first_queries, report.first_hits, False, report.first_requests)
        stats.record(report.preempted_queries, report.preempted_hits, True, report.preempted_requests)

    def _complaint(self, status: int, row: int) -> ArgumentError | BlockStateError:
        if status in (UNTRACKED, TWICE):
            return self.rows.complaint(status, row)
        name = self.rows.names[row]
        if status == HASHED:
            return BlockStateError(f"request {name}: a block to be cached has a hash already")
        reasons = {
            FREED: "has lost its blocks to KVCacheManager.free: untrack() and track() it",
            NO_TOKENS: "needs at least 1 new token",
            NO_HASHES: "has fewer block hashes than full blocks: give it a block_hasher",
            TOO_LONG: f"would have more than max_model_len = {self.manager.max_model_len} tokens: those beyond "
            "have no slots",
            UNHELD: "says that more of its tokens are computed than it holds blocks for",
            TOO_NARROW: "needs more blocks than `out` has columns",
        }
        return ArgumentError(f"request {name} {reasons[status]}")
