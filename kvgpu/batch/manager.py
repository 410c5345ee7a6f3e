"""`BatchManager`: slots for many requests in one call."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from kvgpu.arguments import integers
from kvgpu.batch.attention_tables import check_tables
from kvgpu.batch.queries import BatchQueries
from kvgpu.batch.result import BatchAllocation
from kvgpu.batch.row_blocks import RowBlocks
from kvgpu.batch.row_counters import RowCounters
from kvgpu.batch.rows.record import RowIds
from kvgpu.batch.single_calls import SingleCalls
from kvgpu.batch.step.arrays import with_in_flight
from kvgpu.batch.steps import BatchSteps
from kvgpu.batch.tracked_requests import TrackedRequests
from kvgpu.errors import ArgumentError
from kvgpu.exclusive import exclusive, exclusive_part
from kvgpu.index.base import BatchHits
from kvgpu.integers import MOST_TOKENS, as_integer, as_switch
from kvgpu.native import append_tokens, cover_rows

if TYPE_CHECKING:
    from kvgpu.kernels.longest_prefix import PrefixBuffers
    from kvgpu.manager import KVCacheManager

NO_WIDTHS = np.zeros(0, np.int64)


class BatchManager(RowCounters):
    """Serves many requests of a `KVCacheManager` at once.

    Results and state are those of the manager's own calls, one request after the other in the order of the
    rows. Rows own the counters of their requests: `num_tokens`, and `num_computed`, the tokens that have
    slots; `sync` brings the request objects up to date.

    Args:
        manager: Whose blocks are handed out. Use both in one thread and on one stream.
        max_requests: Requests that can be tracked.
        max_hashes: Hashes of all of them together.

    Attributes:
        manager: The same.
        rows: Counters and hashes of the tracked requests.
        queries: Looks the rows up.
        requests: The request objects of the rows.
        blocks: Where the blocks of the rows lie. These four are for reading: only methods of the manager keep them
            in step.

    Raises:
        ArgumentTypeError: `manager` is no `KVCacheManager`.
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
        self.queries = BatchQueries(manager, max_requests, max_hashes)
        super().__init__(manager.turn)
        self.manager = manager
        self.rows = self.queries.rows
        self.blocks = RowBlocks(manager, self.rows)
        hash_block_size = manager.coordinator.hash_block_size
        self.requests = TrackedRequests(self.rows, hash_block_size, manager.max_model_len, manager.turn)
        single_calls = SingleCalls(manager, self.blocks, self.requests)
        self._steps = BatchSteps(manager, self.blocks, single_calls, self.queries.plan)

    @exclusive
    def track(self, requests: Sequence[Any]) -> RowIds:
        """Give each request a row; one that holds blocks goes on with them. See `RequestRows.track`. O(hashes)."""
        rows = self.rows.track(requests)
        self.blocks.unwritten.update(self.blocks.bind(rows))
        return rows

    @exclusive
    def extend(self, rows: RowIds | None = None) -> None:
        """Take over what requests have become; see `RequestRows.extend`.

        If the `num_computed_tokens` of a request was changed since it was last synchronised, as when keys and values
        have arrived from elsewhere, its row takes over the number.

        Raises:
            ArgumentError: As in `RequestRows.extend`; or a request and its row have both changed the number of
                computed tokens; or the request has more of them than slots. Nothing is changed.

        O(new hashes and tokens).
        """
        valid = self.rows.valid(rows)
        self.rows.refuse_shorter(valid.tolist())
        computed = self.requests.computed(valid)
        changed = computed != self.rows.records["num_computed"][valid]
        self.blocks.refuse_without_slots(valid[changed], computed[changed])
        self.requests.extend(valid, computed)
        self.blocks.num_changes += int(changed.any())

    @exclusive
    def untrack(self, rows: RowIds) -> None:
        """Bring requests up to date and release their rows; the requests keep their blocks.

        Raises:
            ArgumentError: A row that is not tracked, or comes twice. Nothing is changed.

        O(rows and pending tokens).
        """
        valid = self.rows.valid(rows)
        self.requests.sync(valid)
        self.blocks.num_changes += 1
        self.rows.untrack(valid)
        self.blocks.unwritten.difference_update(valid.tolist())

    @exclusive
    def grow(self, max_requests: int, max_hashes: int) -> None:
        """Reserve more; see `RequestRows.grow`. O(capacity)."""
        max_requests, max_hashes = self.rows.checked_capacities(max_requests, max_hashes)
        self.requests.grow(max_requests)
        self.blocks.grow(max_requests)
        self.rows.grow(max_requests, max_hashes)  # last: rows that exist have all of it

    def match(self, rows: RowIds | None = None, *, out: BatchHits | None = None) -> BatchHits:
        """Find what `get_computed_blocks` would find for each row; see `BatchQueries.match`. Expected O(blocks hit)."""
        return self.queries.match(rows, out=out)

    def match_async(self, rows: RowIds | None = None, *, out: "PrefixBuffers | None" = None) -> "PrefixBuffers":
        """Start `match` on a device without waiting; see `BatchQueries.match_async`. O(rows + changes) on the CPU."""
        return self.queries.match_async(rows, out=out)

    def allocate_batch(
        self,
        rows: RowIds,
        num_new_tokens: npt.ArrayLike,
        *,
        num_lookahead_tokens: int = 0,
        num_in_flight_tokens: npt.ArrayLike = 0,
        delay_cache_blocks: bool = False,
        full_sequence_must_fit: bool = False,
        reserved_blocks: int = 0,
        stop_when_full: bool = False,
        out: Sequence[Any] | None = None,
    ) -> BatchAllocation:
        """Give each row slots for its next tokens, in order, all or nothing for each.

        A row without blocks is looked up first, as by `get_computed_blocks`, and gets its hit; its new tokens
        are cut to what the hit leaves. A row that gets its slots counts its new tokens as computed, as a
        scheduler does when it has scheduled them.

        Args:
            rows: int64 [n].
            num_new_tokens: Integers [n] or one for all, at least 1: tokens to compute next. A row that holds
                blocks gets exactly this number.
            num_lookahead_tokens: Draft tokens of each row that need slots as well.
            num_in_flight_tokens: Integers [n] or one for all, at least 0: computed tokens that belong to steps that
                have not ended. Behaviour 0.33 keeps the blocks that these read (B40); 0.23 does not look at them.
            delay_cache_blocks, full_sequence_must_fit, reserved_blocks: As in `allocate_slots`, for each row.
            stop_when_full: Do not try rows after the first that does not fit.
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
            Exception: A metrics collector, or code that makes events, raised it; the batch is complete nevertheless.

        One pass over rows that stay inside their blocks, else expected O(blocks that change) and the lookups of
        rows without blocks. Never waits for a device, unless single calls serve the batch (see
        `kvgpu.batch.single_calls`) and their lookups ask one. Requests with tokens computed elsewhere go through
        `KVCacheManager.allocate_slots`.
        """
        usual = self.requests.usual.prepared
        switches = (delay_cache_blocks, full_sequence_must_fit, stop_when_full)
        arrays = self.manager.slots.arrays
        waits = num_in_flight_tokens.__class__ is not int or num_in_flight_tokens != 0
        if not waits and out is None and usual is not None and arrays is not None and arrays.ready():
            done = cover_rows(usual, rows, num_new_tokens, num_lookahead_tokens, reserved_blocks, *switches)
            if done is not None:
                return BatchAllocation(self.blocks, rows, *done, self._steps.no_new_blocks)
        numbers = num_new_tokens, num_in_flight_tokens if waits else None
        return self._allocate(rows, numbers, num_lookahead_tokens, reserved_blocks, switches, out)

    @exclusive_part("allocate_batch")
    def _allocate(
        self,
        rows: RowIds,
        numbers: tuple[npt.ArrayLike, npt.ArrayLike | None],
        num_lookahead_tokens: int,
        reserved_blocks: int,
        switches: tuple[bool, bool, bool],
        out: Sequence[Any] | None,
    ) -> BatchAllocation:
        rows, stamp = self.rows.as_rows(rows)
        num_new, in_flight = numbers
        given = self._steps.counts(num_new, len(rows))
        if in_flight is not None:
            waiting = integers("num_in_flight_tokens", in_flight, len(rows), one_for_all=True)
            if waiting.size and not 0 <= waiting.min() <= waiting.max() <= MOST_TOKENS:
                raise ArgumentError(f"num_in_flight_tokens: 0 to {MOST_TOKENS} are expected, got {waiting.tolist()}")
            if self.manager.behaviour.waits_for_steps:
                given = with_in_flight(given, waiting, len(rows))
        widths = NO_WIDTHS if out is None else check_tables(out, *self.blocks.table_ids.shape)
        delays, whole, stops = switches
        # In the order of StepOptions, which takes half a microsecond to make.
        options = (
            as_integer("num_lookahead_tokens", num_lookahead_tokens),
            as_integer("reserved_blocks", reserved_blocks),
            as_switch("full_sequence_must_fit", whole),
            self.manager.enable_caching and not as_switch("delay_cache_blocks", delays),
            as_switch("stop_when_full", stops),
            stamp,
        )
        result = self._steps.allocate(rows, given, options, widths, out)
        if out is not None and self.blocks.unwritten:
            self.blocks.write_unwritten(rows, out)
        return result

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
        self._steps.refuse_freed(rows)
        holding = rows[self.rows.records["serial"][rows] != 0]
        preemptions = self.requests.preemptions(holding) if preempt else []
        if self.manager.hints is not None:
            self.manager.hints.end_all(map(self.rows.requests.__getitem__, holding.tolist()))
        self._steps.free(rows, holding)
        if preempt:
            self.requests.set_preemptions(holding, [count + 1 for count in preemptions])

    def append_batch(self, rows: RowIds, tokens: npt.ArrayLike, counts: npt.ArrayLike | None = None) -> None:
        """Append generated tokens; blocks that become full are hashed.

        Request objects get their tokens and hashes at `sync`, or when a row holds more than some 250 tokens for
        them. Those of other engines, those with extra keys, and those that are not hashed by a
        `RequestBlockHasher` of the manager's hash block size hash for themselves: they get their tokens
        whenever these fill a block.

        All rows get their tokens, or none does. The exception are requests that append by code of another engine:
        they come last, each by itself. If one of them raises, its error is raised after all others have been served,
        with a note that says so.

        A tracked request keeps its `block_hasher`.

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
        usual = self.requests.usual.prepared
        if counts is not None or usual is None or not append_tokens(usual, rows, tokens):
            self._append(rows, tokens, counts)

    @exclusive_part("append_batch")
    def _append(self, rows: RowIds, tokens: npt.ArrayLike, counts: npt.ArrayLike | None) -> None:
        usual = self.requests.usual
        usual.prepare(self.turn, self.blocks, self.blocks.store, self._steps)
        if counts is not None or not usual.append(rows, tokens):
            self.requests.append(self.rows.valid(rows), tokens, counts)
