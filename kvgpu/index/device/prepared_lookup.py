"""`PreparedLookups`: batches that are waited for, looked up by launches that are prepared once.

What a lookup asks and what it finds lie in pinned memory, which kernels read and write themselves: nothing is copied,
and the CPU waits for a number to change there.
"""

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import Any

from kvgpu.device import graphs, tensors
from kvgpu.device.block_hash_table import BlockHashTable
from kvgpu.device.table_lookups import start_checked_prefix
from kvgpu.device.tensors import allocating, import_torch
from kvgpu.errors import ArgumentError, DeviceError
from kvgpu.index.base import BatchHits
from kvgpu.index.request_spans import RequestSpans
from kvgpu.rules.plan import PrefixPlan

FEWEST = 64
"""Requests that a lookup is prepared for; then powers of two. Those that are not there cost a program each."""
MOST_PREPARED = 16
PATIENCE = 0.05
"""Seconds after which the driver is asked whether the device has failed."""


def settle(device: Any) -> None:
    """Wait for a device's current stream; raises what torch raises if the device has failed."""
    if device.type == "cuda":
        import_torch().cuda.current_stream(device).synchronize()


def capacity_for(count: int) -> int:
    """Return how many requests a lookup of `count` requests is prepared for."""
    return max(FEWEST, 1 << (count - 1).bit_length())


class PreparedLookup:
    """A lookup of up to so many requests by one plan, in one table and one copy of the arena.

    Args:
        table: The table.
        keys: Hashes of all requests, int64 [n, key words], on its device.
        plan: What to look up.
        spans: Where the hashes of requests lie, int64 [4, any], as `RequestSpans.words`, in memory that the device
            reads; all zeros where there is no request.
        capacity: Most requests.

    Construction waits for the device, once for a graph.
    """

    def __init__(self, table: BlockHashTable, keys: Any, plan: PrefixPlan, spans: Any, capacity: int) -> None:
        from kvgpu.kernels.leading_run import suits
        from kvgpu.kernels.longest_prefix import PrefixBuffers

        torch = import_torch()
        pinned = {"pin_memory": table.device.type == "cuda"}
        queries = len(plan.queries)
        scratch = (len(plan.groups), 1 if suits(plan) else len(keys))
        num_tokens = torch.zeros(capacity, dtype=torch.int64, **pinned)
        out = PrefixBuffers(
            num_tokens=num_tokens,
            firsts=torch.zeros(capacity, queries, dtype=torch.int32, **pinned),
            lengths=torch.zeros(capacity, queries, dtype=torch.int32, **pinned),
            furthest=num_tokens if suits(plan) else torch.zeros(capacity, dtype=torch.int64, **pinned),
            ids=None,
            hits=torch.empty(scratch, dtype=torch.int32, device=table.device),
        )
        signal = torch.zeros(2, dtype=torch.int64, **pinned)
        count = torch.zeros(1, dtype=torch.int64, device=table.device)
        self.plan = plan
        self._table, self._keys, self._words = table, keys, table.memory.plan_words(plan)
        self._spans, self._out, self._published = spans, out, (count, signal)
        self._signal = signal.numpy()
        self._results = BatchHits(*(a.numpy() for a in (out.num_tokens, out.lengths, out.furthest)))
        self._found = self._results
        self._count = 0
        self._graph: Callable[[], None] | None = None
        self.run(1)  # compiles the kernels, which a capture cannot
        self._graph = graphs.prepared(partial(self._start, capacity), table.device)

    def _start(self, count: int) -> None:
        """Launch the kernels for the first `count` requests."""
        from kvgpu.kernels.publish import launch_publish

        begins, ends, max_lengths, _ = self._spans[:, :count]
        num_tokens, firsts, lengths, furthest = (a[:count] for a in self._out[:4])
        out = self._out._replace(num_tokens=num_tokens, firsts=firsts, lengths=lengths, furthest=furthest)
        spans = begins, ends, max_lengths
        start_checked_prefix(self._table.memory, self.plan, self._words, self._keys, spans, out, len(self._keys), 0)
        launch_publish(self._table.memory.view.meta, *self._published)

    def run(self, count: int) -> None:
        """Look up the first `count` requests, and wait.

        Raises:
            BlockIdError, ArgumentError, InvariantError: See `BlockHashTable.size`.
            DeviceError: There is no result, though nothing has failed.
        """
        self._count += 1
        if self._graph is None:
            self._start(count)
        else:
            self._graph()
        if self._signal[0] != self._count:
            self._wait()
        if self._signal[1]:
            self._table.size()

    def _wait(self) -> None:
        signal, count = self._signal, self._count
        end = monotonic() + PATIENCE
        while signal[0] != count:
            if monotonic() > end:
                settle(self._table.device)
                if signal[0] != count:
                    raise DeviceError("a lookup has ended without a result")

    def found(self, count: int) -> BatchHits:
        """Copy the results of the first `count` requests. O(count)."""
        if len(self._found.num_tokens) != count:
            num_tokens, lengths, furthest = self._results
            self._found = BatchHits(num_tokens[:count], lengths[:count], furthest[:count])
        num_tokens, lengths, furthest = self._found
        return BatchHits(num_tokens.copy(), lengths.copy(), furthest.copy())


class PreparedLookups:
    """Lookups by plan and capacity, for the table and the copy of the arena that were used last.

    Args:
        device: Where the tables are.
    """

    def __init__(self, device: Any) -> None:
        self._device = device
        self._of: tuple[BlockHashTable, Any] | None = None
        self._made: dict[tuple[int, int], PreparedLookup] = {}
        self._latest: PreparedLookup | None = None
        self._asked: tuple[Any, RequestSpans] = None, RequestSpans(0)
        """A tensor that the device reads, and spans in its memory: one attribute, so that they always agree."""

    def spans_for(self, count: int) -> RequestSpans:
        """Return spans of `count` requests which the device reads, to be filled for the next `match`.

        O(1); O(requests) if there were more of them before, or never so many.

        Raises:
            ArgumentError: A graph is being captured, in which no memory can be pinned.
            DeviceError: No memory can be pinned.
        """
        read, asked = self._asked
        if asked.count == count:
            return asked
        if 4 * count > len(asked.words):
            read = self._pinned(capacity_for(count))
        else:
            # What is not asked for any longer has no hashes.
            asked.begins[count:] = asked.ends[count:] = 0
        self._latest = None
        self._asked = read, RequestSpans(count, read.numpy().reshape(-1))
        return self._asked[1]

    def _pinned(self, capacity: int) -> Any:
        """Return memory for the spans of so many requests, int64 [4, capacity], all zeros; give up all lookups."""
        on_gpu = self._device.type == "cuda"
        if tensors.is_capturing(self._device):
            raise ArgumentError("memory for so many requests cannot be pinned in a capture: call match() before it")
        self.clear()
        with allocating(f"the spans of {capacity} requests"):
            return import_torch().zeros(4, capacity, dtype=import_torch().int64, pin_memory=on_gpu)

    def match(self, table: BlockHashTable, keys: Any, plan: PrefixPlan, spans: RequestSpans) -> BatchHits:
        """Look up a batch and wait; see `DeviceIndex.match_batch`. The first one of its kind prepares the lookup."""
        count = spans.count
        if spans is not self._asked[1]:
            given, spans = spans, self.spans_for(count)
            spans.begins[:], spans.ends[:], spans.max_lengths[:] = given.begins, given.ends, given.max_lengths
        if self._of is None or self._of[0] is not table or self._of[1] is not keys:
            self._made.clear()
            self._latest, self._of = None, (table, keys)
        lookup = self._latest
        if lookup is None or lookup.plan is not plan:
            lookup = self._latest = self._prepared(table, keys, plan, capacity_for(count))
        lookup.run(count)
        return lookup.found(count)

    def _prepared(self, table: BlockHashTable, keys: Any, plan: PrefixPlan, capacity: int) -> PreparedLookup:
        lookup = self._made.get((id(plan), capacity))  # it keeps its plan; to hash one takes microseconds
        if lookup is None:
            if len(self._made) >= MOST_PREPARED:
                self._made.clear()
            lookup = self._made[id(plan), capacity] = PreparedLookup(table, keys, plan, self._asked[0], capacity)
        return lookup

    def clear(self) -> None:
        """Forget all, after a failure or an interruption; waits for what may still be running."""
        if self._of is not None:
            with suppress(RuntimeError):  # the failure itself
                settle(self._of[0].device)
        self._made.clear()
        self._latest = self._of = None
