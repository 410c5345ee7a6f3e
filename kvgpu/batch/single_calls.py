"""`SingleCalls`: a batch as single calls, for state outside arrays (events, recurrent states, odd hashes ...)."""

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from kvgpu.allocation.arguments import SlotsCall
from kvgpu.batch.result import BatchAllocation
from kvgpu.batch.row_blocks import RowBlocks
from kvgpu.batch.rows.record import RowIds
from kvgpu.batch.step.options import StepOptions
from kvgpu.batch.tracked_requests import TrackedRequests
from kvgpu.compiled.jit import python_of
from kvgpu.rules.allocation import tokens_to_cache

if TYPE_CHECKING:
    from kvgpu.manager import KVCacheManager

_tokens_to_cache = python_of(tokens_to_cache)


class SingleCalls:
    """Serves rows by one call of the manager for each; arguments are checked.

    Args:
        manager: Which is called.
        blocks: Of the rows.
        requests: Of the rows.
    """

    def __init__(self, manager: "KVCacheManager", blocks: RowBlocks, requests: TrackedRequests) -> None:
        self._manager, self._rows = manager, blocks.rows
        self._blocks, self._requests = blocks, requests

    def refuse_hashed(self, rows: RowIds, num_new: npt.NDArray[np.int64]) -> None:
        """Check that no block that a row holds and that is to be cached has a hash already. O(blocks).

        Args:
            rows: int64 [n].
            num_new: int64 [n], new tokens of each.

        Raises:
            BlockStateError: One has.
        """
        for row, new in zip(rows.tolist(), num_new.tolist(), strict=True):
            record = self._rows.records[row]
            if record["serial"] != 0:
                num_main = int(record["num_computed"]) + new
                num_tokens = _tokens_to_cache(num_main, int(record["num_tokens"]))
                self._manager.slots.checks.refuse_hashed(self._rows.names[row], num_tokens)

    def allocate(
        self, rows: RowIds, num_new: npt.NDArray[np.int64], options: StepOptions, in_flight: npt.NDArray[np.int64]
    ) -> BatchAllocation:
        """Do what `BatchManager.allocate_batch` does, by the calls behind `KVCacheManager.allocate_slots`.

        Args:
            rows: int64 [n].
            num_new: int64 [n], new tokens of each; written to.
            options: Of the step.
            in_flight: int64 [n], tokens of each in flight.

        Raises:
            ArgumentError: A request goes by another name than when it was tracked, or has odd hints.
        """
        self._requests.refuse_renamed(rows)
        if self._manager.hints is not None:
            self._manager.hints.refuse_odd(map(self._rows.requests.__getitem__, rows.tolist()))
        manager, records = self._manager, self._rows.records
        num_groups = len(self._blocks.single_managers)
        fits, hit_tokens = np.zeros(len(rows), np.bool_), np.zeros(len(rows), np.int64)
        ids: list[list[int]] = [[] for _ in range(num_groups)]
        ends: list[list[int]] = [[0] for _ in range(num_groups)]
        places: list[int] = []
        num_tried = 0
        # For each row: bring its request up to date, look it up if it holds no blocks, call allocate_slots, and if it
        # got slots note its new blocks. ends[g] grows by one per row that got slots: where its ids end in ids[g].
        for i, row in enumerate(rows.tolist()):
            num_tried += 1
            record = records[row]
            self._requests.sync(rows[i : i + 1])
            request = self._rows.requests[row]
            hits, new = None, int(num_new[i])
            if record["serial"] == 0:
                hits, num_hits, *junction = manager.get_computed_blocks(request)
                if junction:
                    request.shared_prefix_boundary = junction[0]
                hit_tokens[i] = num_hits
                new = min(new, request.num_tokens - num_hits)
            reserved, hints = options.reserved_blocks, manager.hints
            call = SlotsCall(
                new,
                int(hit_tokens[i]),
                None if hits is manager.empty_kv_cache_blocks else hits,
                options.num_lookahead,
                num_external=0,
                delays=manager.enable_caching and not options.caches,
                num_encoder=0,
                must_fit=options.whole,
                reserved_blocks=reserved if hints is None else hints.begin(request, reserved),
                num_in_flight=int(in_flight[i]),
                headroom=0,
                unzeroed=(),
            )
            blocks = manager.slots.allocate_slots(request, call)
            if blocks is not None:
                if record["serial"] == 0 and not manager.behaviour.counts_lookups:
                    manager.record_prefix_cache_stats(request, int(hit_tokens[i]))
                fits[i] = True
                num_new[i] = new
                record["num_computed"] += hit_tokens[i] + new
                self._blocks.bind(rows[i : i + 1])
                places.append(i)
                for group, new_ids in enumerate(blocks.get_block_ids()):
                    ids[group] += new_ids
                    ends[group].append(len(ids[group]))
            if blocks is None and options.stops:
                break
        num_new[~fits] = 0
        begins = np.cumsum([0, *map(len, ids[:-1])])
        new_blocks = (
            np.array(places, np.int64),
            np.array([block for part in ids for block in part], np.int32),
            np.array(ends, np.int64) + begins[:, None],
        )
        return BatchAllocation(self._blocks, rows, fits, hit_tokens, num_new, num_tried, new_blocks)

    def free(self, rows: RowIds, names: list[str]) -> None:
        """Give back the blocks of rows; those that hold some belong to the requests with these names. O(blocks)."""
        for name in names:
            self._manager.coordinator.free(name)
        records = self._rows.records
        records["serial"][rows] = records["num_computed"][rows] = 0
