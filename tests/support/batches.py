"""Short ways to make batches, and to see that a call has changed nothing."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from support.managers import make_manager, make_request, snapshot

from kvgpu.batch.manager import BatchManager
from kvgpu.errors import KVGPUError


def make_batch(*specs: Any, max_requests: int = 8, max_hashes: int = 200, **options: Any) -> Any:
    """A `BatchManager` over a manager of its own."""
    return BatchManager(make_manager(*specs, **options), max_requests, max_hashes)


def track(batch: Any, *prompts: int | Sequence[int]) -> Any:
    """Rows of new requests `r0`, `r1`, ... with these tokens; a number stands for tokens that differ."""
    size = batch.manager.coordinator.hash_block_size
    known = len(batch.rows)
    requests = [
        make_request(f"r{known + i}", [1000 * (known + i)] * p if isinstance(p, int) else p, size)
        for i, p in enumerate(prompts)
    ]
    return batch.track(requests)


def requests_of(batch: Any) -> list[Any]:
    """Tracked requests, in the order of tracking."""
    return [batch.rows.requests[row] for row in batch.rows.all().tolist()]


def state_of(batch: Any) -> dict[str, Any]:
    """All that a caller could notice of a batch, its manager and its requests."""
    records = batch.rows.records[batch.rows.all()]
    names = ("num_tokens", "num_computed", "serial", "num_pending", "num_ahead", "preempted", "reads")
    return {
        "manager": snapshot(batch.manager),
        "rows": {name: records[name].tolist() for name in names},
        "hashes": len(batch.rows.hashes),
        "capacity": (len(batch.rows.requests), len(batch.rows.hashes.arena), len(batch.blocks.table_ids)),
        "store": batch.manager.block_pool.block_tables.num_used(),
        "statistics": repr(batch.manager.prefix_cache_stats),
        "requests": [
            (r.request_id, list(r.all_token_ids), r.num_computed_tokens, len(r.block_hashes))
            for r in requests_of(batch)
        ],
    }


@contextmanager
def refused(batch: Any, error: type[Exception] = KVGPUError, match: str | None = None) -> Iterator[None]:
    """The block raises the error, and all is as before."""
    before = state_of(batch)
    with pytest.raises(error, match=match):
        yield
    assert state_of(batch) == before
    batch.manager.check()


def poisoned(batch: Any, width: int, rows: int | None = None) -> list[Any]:
    """Block tables in which nothing was written yet: -77."""
    count = len(batch.manager.coordinator.single_type_managers)
    shape = (len(batch.blocks.table_ids) if rows is None else rows, width)
    return [np.full(shape, -77, np.int32) for _ in range(count)]
