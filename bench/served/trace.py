"""Serving the requests of a trace, in batches or with one call a request, for benchmarks that time it."""

import gc
from collections import Counter
from time import perf_counter as now
from typing import Any

import numpy as np
from sides import Side

AT_ONCE, MAX_LIVE = 16, 32
POOLS = {"full": 200_000, "hybrid": 400_000}
WHOLE = 1 << 30
"""More tokens than any prompt has."""
ALL_BUT_FREE = "look up + allocate + cache"


def settle() -> None:
    """Leave what was made so far, all prompts above all, out of collections: they would be charged to whoever
    makes the most objects."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def turns(requests: list[Any], at_once: int) -> list[list[Any]]:
    """The requests, so many at a time."""
    return [requests[i : i + at_once] for i in range(0, len(requests), at_once)]


def replay_batched(
    side: Side, case: str, requests: list[Any], keep: bool = False, at_once: int = AT_ONCE, aged: Any = None
) -> tuple[Any, Any, Any]:
    """Seconds by operation, (hits, new block ids) of each request if wanted, and the manager.

    With a manager that is `aged` already all blocks are given back at the end.
    """
    from kvgpu.batch.manager import BatchManager

    manager = aged or side.manager(case, POOLS[case])
    batch = BatchManager(manager, at_once + MAX_LIVE, (at_once + MAX_LIVE) * 8192)
    seconds: Counter[str] = Counter()
    got, live = [], np.empty(0, np.int64)
    settle()
    for part in turns(requests, at_once):
        start = now()
        rows = batch.track(part)
        seconds["track"] += now() - start
        start = now()
        given = batch.allocate_batch(rows, WHOLE)
        seconds[ALL_BUT_FREE] += now() - start
        assert given.fits.all()
        if keep:
            got.append(given)
        live = np.concatenate([live, rows])
        if len(live) > MAX_LIVE:
            oldest, live = live[: len(live) - MAX_LIVE], live[len(live) - MAX_LIVE :]
            start = now()
            batch.free_batch(oldest)
            seconds["free"] += now() - start
            start = now()
            batch.untrack(oldest)
            seconds["track"] += now() - start
    if aged:
        batch.free_batch(live)
        batch.untrack(live)
    results = [(int(hit), given.get_block_ids(i)) for given in got for i, hit in enumerate(given.num_hit_tokens)]
    return seconds, results, manager


def replay_single(
    side: Side, case: str, requests: list[Any], keep: bool = False, at_once: int = AT_ONCE, aged: Any = None
) -> tuple[Any, Any, Any]:
    """The same with one call a request."""
    manager = aged or side.manager(case, POOLS[case])
    seconds: Counter[str] = Counter()
    results, live = [], []
    settle()
    for part in turns(requests, at_once):
        for request in part:
            start = now()
            blocks, hit = manager.get_computed_blocks(request)
            new = manager.allocate_slots(request, request.num_tokens - hit, hit, blocks)
            seconds[ALL_BUT_FREE] += now() - start
            if keep:
                results.append((hit, new.get_block_ids()))
        live += part
        while len(live) > MAX_LIVE:
            oldest = live.pop(0)
            start = now()
            manager.free(oldest)
            seconds["free"] += now() - start
    if aged:
        for request in live:
            manager.free(request)
    return seconds, results, manager


def free_order(manager: Any) -> list[int]:
    """Ids in the free queue."""
    blocks = manager.block_pool.free_block_queue.get_all_free_blocks()
    return [block.block_id for block in blocks]
