"""`PreparedLookups`: batches that are waited for, looked up by launches that are prepared once.

What a lookup asks and what it finds lie in pinned memory, which kernels read and write themselves: nothing is copied,
and the CPU waits for a number to change there.
"""

from contextlib import suppress
from time import monotonic
from typing import Any

from kvgpu.device import graphs
from kvgpu.device.block_hash_table import BlockHashTable
from kvgpu.device.table_lookups import start_checked_prefix
from kvgpu.device.tensors import import_torch
from kvgpu.errors import DeviceError
from kvgpu.index.base import BatchHits, Spans
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


class PreparedLookup:
    """A lookup of up to so many requests by one plan, in one table and one copy of the arena.

    Args:
        table: The table.
        keys: Hashes of all requests, int64 [n, key words], on its device.
        plan: What to look up.
        capacity: Most requests.

    Construction waits for the device, once for a graph.
    """

    def __init__(self, table: BlockHashTable, keys: Any, plan: PrefixPlan, capacity: int) -> None:
        from kvgpu.kernels.leading_run import suits
        from kvgpu.kernels.longest_prefix import PrefixBuffers
        from kvgpu.kernels.publish import launch_publish

        torch = import_torch()
        pinned = {"pin_memory": table.device.type == "cuda"}
        queries = len(plan.queries)
        spans = torch.zeros(3, capacity, dtype=torch.int64, **pinned)
        scratch = (len(plan.groups), 1 if suits(plan) else len(keys))
        out = PrefixBuffers(
            num_tokens=torch.zeros(capacity, dtype=torch.int64, **pinned),
            firsts=torch.zeros(capacity, queries, dtype=torch.int32, **pinned),
            lengths=torch.zeros(capacity, queries, dtype=torch.int32, **pinned),
            ids=None,
            hits=torch.empty(scratch, dtype=torch.int32, device=table.device),
        )
        signal = torch.zeros(2, dtype=torch.int64, **pinned)
        count = torch.zeros(1, dtype=torch.int64, device=table.device)
        words, memory = table.memory.plan_words(plan), table.memory

        def start() -> None:
            start_checked_prefix(memory, plan, words, keys, (spans[0], spans[1], spans[2]), out, len(keys), 0)
            launch_publish(memory.view.meta, count, signal)

        self._table = table
        self._spans, self._signal = spans.numpy(), signal.numpy()
        self._num_tokens, self._lengths = out.num_tokens.numpy(), out.lengths.numpy()
        self._count = self._asked = 0
        self._replay = start
        self.run()
        self._replay = graphs.prepared(start, table.device)
        self._owned = spans, out, signal, count, words, keys

    def set_requests(self, begins: Spans, ends: Spans, max_lengths: Spans) -> None:
        """Write the spans and limits of requests; see `DeviceIndex.match_batch`. O(requests)."""
        count, spans = len(begins), self._spans
        spans[0, :count], spans[1, :count], spans[2, :count] = begins, ends, max_lengths
        if count < self._asked:
            spans[:2, count : self._asked] = 0
        self._asked = count

    def run(self) -> None:
        """Look up, and wait.

        Raises:
            BlockIdError, ArgumentError, InvariantError: See `BlockHashTable.size`.
            DeviceError: There is no result, though nothing has failed.
        """
        self._count += 1
        self._replay()
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

    def found(self) -> BatchHits:
        """Copy the results for the requests that were asked for last. O(requests)."""
        return BatchHits(self._num_tokens[: self._asked].copy(), self._lengths[: self._asked].copy())


class PreparedLookups:
    """Lookups by plan and capacity, for the table and the copy of the arena that were used last."""

    def __init__(self) -> None:
        self._of: tuple[BlockHashTable, Any] | None = None
        self._made: dict[tuple[int, int], tuple[PrefixPlan, PreparedLookup]] = {}

    def match(
        self, table: BlockHashTable, keys: Any, plan: PrefixPlan, begins: Spans, ends: Spans, max_lengths: Spans
    ) -> BatchHits:
        """Look up a batch and wait; see `DeviceIndex.match_batch`. The first one of its kind prepares the lookup."""
        if self._of is None or self._of[0] is not table or self._of[1] is not keys:
            self._made.clear()
            self._of = table, keys
        capacity = max(FEWEST, 1 << (len(begins) - 1).bit_length())
        kept = self._made.get((id(plan), capacity))
        if kept is None:
            if len(self._made) >= MOST_PREPARED:
                self._made.clear()
            kept = self._made[id(plan), capacity] = plan, PreparedLookup(table, keys, plan, capacity)
        lookup = kept[1]
        lookup.set_requests(begins, ends, max_lengths)
        lookup.run()
        return lookup.found()

    def clear(self) -> None:
        """Forget all, after a failure or an interruption; waits for what may still be running."""
        if self._of is not None:
            with suppress(RuntimeError):  # the failure itself
                settle(self._of[0].device)
        self._made.clear()
        self._of = None
