"""`BatchQueries`: the hit length of every waiting request, in one call."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from kvgpu.batch.rows.record import RowIds
from kvgpu.batch.rows.requests import RequestRows
from kvgpu.coordinators.hybrid import HybridKVCacheCoordinator
from kvgpu.coordinators.unitary import UnitaryKVCacheCoordinator
from kvgpu.errors import ArgumentError, ArgumentTypeError
from kvgpu.exclusive import Exclusive, exclusive
from kvgpu.index.base import BatchHits
from kvgpu.rules.plan import PrefixPlan

if TYPE_CHECKING:
    from kvgpu.kernels.longest_prefix import PrefixBuffers
    from kvgpu.manager import KVCacheManager


class BatchQueries(Exclusive):
    """Looks up many requests of one manager at once.

    Args:
        manager: The manager whose cache is searched. Use both in one thread and on one stream.
        max_requests: Requests that can be tracked.
        max_hashes: Hashes of all of them together, 32 bytes each (and as many on the device).

    Attributes:
        manager: The same.
        rows: What is known of the tracked requests.
        plan: How prefixes are looked up; None if the manager has no lookups.

    Raises:
        ArgumentTypeError: `manager` is no `KVCacheManager`.
        ConfigError: A capacity below 1.

    ::

        queries = BatchQueries(manager, max_requests=1024, max_hashes=1_000_000)
        rows = queries.track(waiting)
        hits = queries.match(rows)          # hits.num_tokens[i] belongs to rows[i]
    """

    def __init__(self, manager: "KVCacheManager", max_requests: int, max_hashes: int) -> None:
        if not isinstance(manager, Exclusive) or not hasattr(manager, "block_pool"):
            raise ArgumentTypeError(f"a KVCacheManager is expected, got {type(manager).__name__}")
        super().__init__(manager.turn)
        self.manager = manager
        self._cache = manager.block_pool.prefix_cache
        self.rows = RequestRows(max_requests, max_hashes, manager.block_pool.index.reads_in_place)
        coordinator = manager.coordinator
        self.plan: PrefixPlan | None = None
        if isinstance(coordinator, UnitaryKVCacheCoordinator | HybridKVCacheCoordinator):
            self.plan = coordinator.plan

    @exclusive
    def track(self, requests: Sequence[Any]) -> RowIds:
        """Give each request a row; see `RequestRows.track`. O(max_requests + hashes), and O(all hashes)
        if the arena is packed."""
        return self.rows.track(requests)

    @exclusive
    def extend(self, rows: RowIds | None = None) -> None:
        """Take over what requests have become; see `RequestRows.extend`. O(max_requests + new hashes), and
        O(all hashes) if the arena is packed."""
        self.rows.extend(rows)

    @exclusive
    def untrack(self, rows: RowIds) -> None:
        """Release rows; see `RequestRows.untrack`. O(rows)."""
        self.rows.untrack(rows)

    @exclusive
    def match(self, rows: RowIds | None = None, *, out: BatchHits | None = None) -> BatchHits:
        """Find what `get_computed_blocks` would find for each row: tokens, and blocks per query.

        Nothing is taken, and nothing counts in the statistics: a request counts when it is admitted. Where the order of
        eviction is `queue-aware`, what these rows would hit is spared until the next call.

        Args:
            rows: int64 [n], from `track`; None for all tracked, in the order of tracking.
            out: From an earlier call for as many rows, to write to again.

        Returns:
            num_tokens int64 [n], lengths int32 [n, queries]; or `out`.

        Raises:
            ArgumentError: A row that is not tracked, or comes twice; `out` of another shape.
            ArgumentTypeError: `out` of another dtype. Nothing is written.
            DeviceError: The index lies on a device that failed, or this process was forked from the one that
                made it (not with `auto`, which goes on with the host).

        One call of compiled code; on a device one flush, and launches that are prepared for each power of two of rows,
        as a CUDA graph on a GPU (the first such call takes longer). They read and write pinned memory; it waits.
        Expected O(blocks hit) for full attention the first time; then O(new hits) for a request while no block was
        evicted from the regions that its hits lie in, each a 64th of the pool. On a device O(hashes * groups)
        lookups, all independent.
        """
        given, stamp = self.rows.as_rows(rows)
        if out is not None:
            self._check_hits(out, len(given))
        hits = self._match(given, stamp)
        eviction = self.manager.block_pool.eviction
        if eviction is not None and eviction.expects and self.plan is not None:
            spans, arena = self.rows.spans(given), self.rows.hashes.arena.words
            eviction.expect(self.plan, (arena, spans.borrowed, spans.begins, spans.ends), hits.lengths)
        if out is None:
            return hits
        out.num_tokens[:] = hits.num_tokens
        out.lengths[:] = hits.lengths
        out.furthest[:] = hits.furthest
        return out

    def _match(self, rows: RowIds, stamp: int) -> BatchHits:
        cache, index, tracked, plan = self._cache, self._cache.index, self.rows, self.plan
        hashes = tracked.hashes
        spans = tracked.write_spans(rows, stamp, index.spans_for(len(rows)))
        if plan is None:
            none = np.zeros((2, len(rows)), np.int64)
            return BatchHits(none[0], np.zeros((len(rows), 0), np.int32), none[1])
        if cache.map.extras or not hashes.fit(cache.state.width):
            return self._match_one_by_one(plan, rows.tolist(), spans.max_lengths)
        if not hashes.linked:
            index.settle_for_good()
        return index.match_batch(plan, hashes.arena, spans, (tracked.memo, rows))

    def _check_hits(self, out: BatchHits, count: int) -> None:
        expected = BatchHits.empty(count, 0 if self.plan is None else len(self.plan.queries))
        if not isinstance(out, BatchHits):
            raise ArgumentTypeError(f"out: BatchHits are expected, got {type(out).__name__}")
        parts: list[tuple[str, Any, Any]] = [
            ("num_tokens", out.num_tokens, expected.num_tokens),
            ("lengths", out.lengths, expected.lengths),
            ("furthest", out.furthest, expected.furthest),
        ]
        for name, given, like in parts:
            if not isinstance(given, np.ndarray):
                raise ArgumentTypeError(f"out.{name}: an array is expected, got {type(given).__name__}")
            if given.dtype != like.dtype:
                raise ArgumentTypeError(f"out.{name}: {like.dtype} is expected, got {given.dtype}")
            if given.shape != like.shape:
                raise ArgumentError(f"out.{name}: {like.shape} is expected, got {given.shape}")
            if not given.flags.writeable:
                raise ArgumentError(f"out.{name}: the array is read-only")

    @exclusive
    def match_async(self, rows: RowIds | None = None, *, out: "PrefixBuffers | None" = None) -> "PrefixBuffers":
        """Start `match` on a device without waiting; lengths and block ids stay there.

        A call that makes the table, or brings the plan to it, waits: the first, and the first after a failure.
        While a CUDA graph is captured, only the choice of rows may be sent to the device: call this once before each
        capture, for as many rows. A replay looks up these rows as they were at the capture (their places, hashes and
        limits) in the table as it is at the replay. Bring the table up to date before a replay with a call outside a
        capture; ``match_async(rows[:0])`` does only that.

        Args:
            rows: As in `match`.
            out: From an earlier call for as many rows, to write to again.

        Returns:
            `PrefixBuffers` for the rows; ids int32 [lines, max_hashes], block i of a row at its place in
            the arena plus i.

        Raises:
            ArgumentError: The manager's index is not on a device, or nothing was ever cached, or
                keys are cached that a device does not hold; a row that is not tracked, or comes twice; something has
                to be sent in a capture. Nothing is changed.
            DeviceError: The device failed, or this process was forked from the one that made the index.

        O(rows + changes since the last lookup + new hashes) on the CPU, O(hashes * groups) lookups on the device, all
        independent. After a reset or a failure the whole table is made again, O(blocks of the pool).
        """
        from kvgpu.index.device.index import DeviceIndex

        spans = self.rows.spans(rows)
        plan, cache = self.plan, self._cache
        index = cache.index
        if plan is None or not isinstance(index, DeviceIndex) or not index.answers:
            raise ArgumentError("match_async needs an index on a device: use match()")
        if plan.ends_inside:
            raise ArgumentError("hits may end inside a block, where a device finds none: use match()")
        if cache.map.extras:
            raise ArgumentError("keys are cached that a device does not hold: use match()")
        if cache.state.width is None or not self.rows.hashes.fit(cache.state.width):
            raise ArgumentError("no block of this width was cached yet: use match()")
        return index.start_batch(plan, self.rows.hashes.arena, spans, out=out)

    def _match_one_by_one(self, plan: PrefixPlan, rows: Sequence[int], limits: npt.NDArray[np.int64]) -> BatchHits:
        hits = BatchHits.empty(len(rows), len(plan.queries))
        cache = self._cache
        for place, (row, limit) in enumerate(zip(rows, limits, strict=True)):
            num_tokens, lines, furthest = cache.find_hits(plan, self.rows.hashes.of(row), int(limit))
            hits.num_tokens[place], hits.furthest[place] = num_tokens, furthest
            hits.lengths[place] = [len(lines[part.start]) for part in plan.lines]
        return hits
