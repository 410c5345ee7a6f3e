"""A batch as single calls, for what does not lie in arrays (events, recurrent states, odd hashes, ...)."""

import numpy as np
import numpy.typing as npt

from kvgpu.batch.result import BatchAllocation
from kvgpu.batch.rows.record import RowIds
from kvgpu.batch.step.options import StepOptions
from kvgpu.batch.tracked_requests import TrackedRequests
from kvgpu.errors import ArgumentError


def refuse_hashed(batch: TrackedRequests, rows: RowIds, num_new: npt.NDArray[np.int64], options: StepOptions) -> None:
    """
    Raises:
        BlockStateError: A block that a row holds and that should be cached has a hash already.
    """
    if not options.caches:
        return
    for row, new in zip(rows.tolist(), num_new.tolist(), strict=True):
        record = batch.rows.records[row]
        if record["serial"] != 0:
            num_tokens = min(int(record["num_computed"]) + new, int(record["num_tokens"]))
            batch.manager.coordinator.refuse_hashed(batch.rows.names[row], num_tokens)


def allocate_one_by_one(
    batch: TrackedRequests, rows: RowIds, num_new: npt.NDArray[np.int64], options: StepOptions
) -> BatchAllocation:
    """`BatchManager.allocate_batch` through `KVCacheManager.allocate_slots`; arguments are checked.

    Raises:
        ArgumentError: A request goes by another name than when it was tracked.
    """
    for row in rows.tolist():
        if batch.rows.requests[row].request_id != batch.rows.names[row]:
            raise ArgumentError(
                f"request {batch.rows.names[row]} is now called {batch.rows.requests[row].request_id}: "
                "untrack() and track() it"
            )
    manager, records = batch.manager, batch.rows.records
    num_groups = batch.tables.shape[1]
    fits, hit_tokens = np.zeros(len(rows), np.bool_), np.zeros(len(rows), np.int64)
    ids: list[list[int]] = [[] for _ in range(num_groups)]
    ends: list[list[int]] = [[0] for _ in range(num_groups)]
    kept: list[int] = []
    num_tried = 0
    for i, row in enumerate(rows.tolist()):
        num_tried += 1
        record = records[row]
        batch.sync(rows[i : i + 1])
        request = batch.rows.requests[row]
        hits, new = None, int(num_new[i])
        if record["serial"] == 0:
            hits, num_hits = manager.get_computed_blocks(request)
            hit_tokens[i] = num_hits
            new = min(new, request.num_tokens - num_hits)
        blocks = manager.allocate_slots(
            request,
            new,
            int(hit_tokens[i]),
            hits,
            options.num_lookahead,
            delay_cache_blocks=bool(options.caching and not options.caches),
            full_sequence_must_fit=options.whole,
            reserved_blocks=options.reserved_blocks,
        )
        if blocks is not None:
            fits[i] = True
            num_new[i] = new
            record["num_computed"] += hit_tokens[i] + new
            batch.bind(rows[i : i + 1])
            kept.append(i)
            for group, new_ids in enumerate(blocks.get_block_ids()):
                ids[group] += new_ids
                ends[group].append(len(ids[group]))
        if blocks is None and options.stops:
            break
    num_new[~fits] = 0
    begins = np.cumsum([0, *map(len, ids[:-1])])
    offsets = np.array(ends, np.int64) + begins[:, None]
    return BatchAllocation(
        batch,
        rows,
        fits,
        hit_tokens,
        num_new,
        num_tried,
        np.array(kept, np.int64),
        np.array([block for part in ids for block in part], np.int32),
        offsets,
    )
