"""`BatchSteps`: compiled steps over the rows of a batch, and what Python does before and after them."""

from collections.abc import Sequence
from itertools import compress
from struct import Struct
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from kvgpu.allocation.compiled import DROPPED
from kvgpu.arguments import integers
from kvgpu.batch.result import BatchAllocation
from kvgpu.batch.row_blocks import RowBlocks
from kvgpu.batch.rows.record import REPEATED, UNTRACKED, RowIds, row_error
from kvgpu.batch.single_calls import SingleCalls
from kvgpu.batch.step import allocate as step
from kvgpu.batch.step.arrays import ARENA, REQUESTS, TABLE_IDS, new_and_in_flight
from kvgpu.batch.step.options import NUM_WRITTEN, STEP_OPTIONS, StepOptions
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
from kvgpu.blocks.record import NO_IDS
from kvgpu.compiled.handle import Handle
from kvgpu.errors import ArgumentError, BlockStateError
from kvgpu.index.host.index import HostIndex
from kvgpu.index.journal import NO_LOG
from kvgpu.integers import MOST_TOKENS
from kvgpu.layout import BUCKET_WORDS
from kvgpu.rules.plan import PrefixPlan

if TYPE_CHECKING:
    from kvgpu.manager import KVCacheManager

NO_PLAN = np.zeros(0, np.int64)
NO_ROWS = np.zeros(0, np.int64)
NO_TABLE = np.zeros((0, BUCKET_WORDS), np.int64)
NO_LIMIT = 1 << 62

_pack_options = Struct(f"{NUM_WRITTEN}q").pack_into


class BatchSteps:
    """Allocates and frees blocks of many rows in one compiled call; single calls serve what does not lie in arrays.

    Args:
        manager: Whose blocks are handed out.
        blocks: Where the blocks of rows lie.
        single_calls: Serve a batch when compiled code cannot.
        plan: How prefixes are looked up; None for no lookups.

    Attributes:
        num_closed: Block tables that were closed when no tracked request had lost its blocks to single calls.
        no_new_blocks: `NewBlocks` of a step that changes no blocks.
    """

    def __init__(
        self, manager: "KVCacheManager", blocks: RowBlocks, single_calls: SingleCalls, plan: PrefixPlan | None
    ) -> None:
        self.manager, self.rows = manager, blocks.rows
        self._blocks, self._single_calls = blocks, single_calls
        self.num_closed = blocks.store.num_closed
        self.no_new_blocks = np.zeros(0, np.int64), NO_IDS, np.zeros((len(blocks.single_managers), 1), np.int64)
        index = manager.block_pool.index
        self._index = index if isinstance(index, HostIndex) else None
        # Written anew by every call: making an array costs more than filling it, above all when none of the code is in
        # the processor's caches.
        self._one_number = np.zeros(1, np.int64)
        self._report: Any = np.zeros(1, STEP_REPORT)
        self._report_words = self._report.view(np.int64)
        self._options: Any = np.zeros(1, STEP_OPTIONS)
        self._options["max_model_len"] = manager.max_model_len
        self._options["hash_block_size"] = manager.coordinator.hash_block_size
        self._options["caching"] = manager.enable_caching
        self._options["clamps"] = manager.block_pool.behaviour.clamps_to_hashes
        self._options["junctions"] = manager.block_pool.behaviour.keeps_boundaries
        self._options["counts_admissions"] = manager.lookups.counts_admissions or not manager.behaviour.counts_lookups
        self._plan_words = NO_PLAN if plan is None else plan.words
        self._lines = np.zeros((2, len(blocks.single_managers)), np.int64)
        if plan is not None:
            for line, group in enumerate(plan.groups):
                query = next(q for q, part in enumerate(plan.lines) if part.start <= line < part.stop)
                self._lines[:, group] = line, query
        state = manager.block_pool.state
        # What only checks rows needs no table.
        pool = Handle((state.records, *state.free, NO_TABLE, NO_LOG, state.meta), more=2).words
        self._growing = (self.rows.records, blocks.table_ids, self.rows.hashes.arena.words)
        self._handle = Handle(
            (
                pool if self._index is None else self._index.handle(),
                blocks.store.handle.words,
                manager.coordinator.group_records,
                *self._growing,
                self._plan_words,
                self._lines,
                self._options,
                self._report,
            )
        )

    def counts(self, num_new_tokens: npt.ArrayLike, count: int) -> npt.NDArray[np.int64]:
        """Return numbers of new tokens as a step takes them, int64 [count] or [1], valid until the next call. O(count).

        Raises:
            ArgumentError, ArgumentTypeError: They are no such integers.
        """
        if num_new_tokens.__class__ is int and -MOST_TOKENS <= num_new_tokens <= MOST_TOKENS:
            self._one_number[0] = num_new_tokens
            return self._one_number
        return integers("num_new_tokens", num_new_tokens, count, one_for_all=True)

    def allocate(
        self,
        rows: RowIds,
        given: npt.NDArray[np.int64],
        options: tuple[Any, ...],
        widths: npt.NDArray[np.int64],
        out: Sequence[Any] | None,
    ) -> BatchAllocation:
        """Give rows slots; see `BatchManager.allocate_batch`.

        Args:
            rows: int64 [n], not checked yet.
            given: From `counts`, or as `with_in_flight` returns it.
            options: The fields of `StepOptions`.
            widths: int64 [groups], columns of `out`; empty if there is none.
            out: Block tables of the caller that were checked, or None.
        """
        pool, hashes = self.manager.block_pool, self.rows.hashes
        arrays, hints = self.manager.slots.arrays, self.manager.hints
        in_turn = hints is not None and hints.begin_batch()
        if arrays is not None and (in_turn or not (arrays.ready() and hashes.fit(pool.state.width))):
            arrays = None
        if arrays is not None and not hashes.linked:
            arrays.index.settle_for_good()
        adopts = pool.state.width is None and hashes.width > 0 and StepOptions(*options).caches
        has_log = self._index is not None and arrays is not None and self._index.log_for(0) is not NO_LOG
        log_room = -1 if adopts else 0 if has_log else NO_LIMIT
        trusts = self.num_closed == pool.block_tables.num_closed or self._trusts()
        _pack_options(self._options, 0, *options, arrays is not None, False, log_room, trusts)
        found, report = self._step(rows, given, widths, 0)
        if report.status not in (DONE, UNPREPARED):
            raise self._error(report.status, int(rows[report.place]))
        waiting = NO_ROWS
        names: list[str] = []
        if report.num_waiting:
            all_wait = report.num_waiting == len(rows)
            waiting = rows if all_wait else rows[self.rows.records["serial"][rows] == 0]
            names = self.rows.names_of(waiting)
            self._blocks.refuse_foreign(names)
        self._blocks.num_changes += 1
        if arrays is None:
            return self._allocate_singly(rows, given, StepOptions(*options), out)
        if report.status == UNPREPARED:
            if adopts:
                pool.state.adopt_width(hashes.width)
            self._blocks.open(waiting)
            pool.block_tables.reserve(report.segments)
            self._options["checked"] = True
            found, report = self._step(rows, given, widths, report.changes)
        if names:
            self._admit(waiting, names, report)
            self._count_lookups(report)
        return self._result(rows, found, report, out)

    def _allocate_singly(
        self, rows: RowIds, given: npt.NDArray[np.int64], options: StepOptions, out: Sequence[Any] | None
    ) -> BatchAllocation:
        num_new, in_flight = new_and_in_flight(given, len(rows))
        if options.caches:
            self._single_calls.refuse_hashed(rows, num_new)
        if out is not None:
            # All of the rows: some may have got blocks when another one fails.
            self._blocks.unwritten.update(rows.tolist())
        return self._single_calls.allocate(rows, num_new, options, in_flight)

    def _trusts(self) -> bool:
        """Return whether no tracked request can have lost its blocks to single calls."""
        store = self.manager.block_pool.block_tables
        if self.num_closed != store.num_closed:
            rows = self.rows.all()
            if step.foreign_row(store.tables, self.rows.records, rows, self._blocks.table_ids) >= 0:
                return False
            self.num_closed = store.num_closed
        return True

    def _close(self, opened: npt.NDArray[np.int64]) -> None:
        """Give back block tables that hold no memory and belong to no tracked request."""
        store = self.manager.block_pool.block_tables
        known = self.num_closed == store.num_closed
        store.close_many(opened.reshape(-1))
        if known:
            self.num_closed = store.num_closed

    def _step(
        self, rows: RowIds, given: npt.NDArray[np.int64], widths: npt.NDArray[np.int64], changes: int
    ) -> tuple[tuple[Any, ...], StepReport]:
        """Call `take_step` with room in the log for `changes` notes; return its result and its report."""
        if self._index is not None:
            self._index.handle(changes)
        # These grow.
        now = (self.rows.records, self._blocks.table_ids, self.rows.hashes.arena.words)
        for place, array, before in zip((REQUESTS, TABLE_IDS, ARENA), now, self._growing, strict=True):
            if array is not before:
                self._handle.point(place, array)
        self._growing = now
        found = step.take_step(self._handle.words, rows, given, widths)
        return found, StepReport._make(self._report_words.tolist())

    def _admit(self, waiting: RowIds, names: list[str], report: StepReport) -> None:
        """Enter requests that got their first blocks in their groups; block tables opened for others go back."""
        if report.num_kept < report.num_busy:
            fits = self.rows.records["serial"][waiting] != 0
            self._close(self._blocks.table_ids[waiting[~fits]])
            waiting, names = waiting[fits], list(compress(names, fits.tolist()))
        self._blocks.adopt(waiting, names)

    def _count_lookups(self, report: StepReport) -> None:
        """Count the lookups of a step in the manager's statistics."""
        stats = self.manager.prefix_cache_stats
        if stats is None:
            return
        stats.record(report.first_queries, report.first_hits, False, report.first_requests)
        stats.record(report.preempted_queries, report.preempted_hits, True, report.preempted_requests)

    def _result(
        self, rows: RowIds, found: tuple[Any, ...], report: StepReport, out: Sequence[Any] | None
    ) -> BatchAllocation:
        """Account for what a step changed, write it to the caller's block tables, and return what rows got."""
        fits, counts, places, starts, offsets, ids = found
        num_served = report.num_kept
        if report.num_changed:
            assert self.manager.slots.arrays is not None
            self.manager.slots.arrays.account(report.new_keys, report.num_evicted)
            offsets = offsets[:, : num_served + 1]
            self._blocks.note_new(ids, offsets)
            if out is not None:
                some = slice(report.num_changed)
                self._blocks.write(rows[places[0, some]], starts[some, DROPPED], out)
        new_blocks = (places[1, :num_served], ids, offsets)
        return BatchAllocation(self._blocks, rows, fits, counts[1], counts[0], report.num_tried, new_blocks)

    def refuse_freed(self, rows: RowIds) -> None:
        """Check that no row has lost its blocks to single calls. O(rows).

        Raises:
            ArgumentError: One has.
        """
        records, store = self.rows.records, self.manager.block_pool.block_tables
        place = step.foreign_row(store.tables, records, rows, self._blocks.table_ids)
        if place >= 0:
            raise self._error(FREED, int(rows[place]))

    def free(self, rows: RowIds, holding: RowIds) -> None:
        """Give back the blocks of rows in order.

        Args:
            rows: int64 [n], which `refuse_freed` has accepted.
            holding: Those of them that hold blocks.

        O(blocks).
        """
        manager, pool, records = self.manager, self.manager.block_pool, self.rows.records
        names, table_ids = self.rows.names_of(holding), self._blocks.table_ids
        self._blocks.num_changes += 1
        if manager.slots.arrays is None or not manager.slots.arrays.ready():
            self._single_calls.free(rows, names)
        else:
            self._blocks.leave(names)
            state, store, groups = pool.state, pool.block_tables.arrays(), manager.slots.arrays.groups
            step.free_rows(tuple(state.free), state.records, state.null_id, store, groups, records, rows, table_ids)
            self._close(table_ids[holding])

    def _error(self, status: int, row: int) -> ArgumentError | BlockStateError:
        """Make the error for a status of a step."""
        if status in (UNTRACKED, REPEATED):
            return row_error(status, row)
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
