"""Whole queues from Python, and one lookup while another stream keeps the GPU busy; checked before they are timed."""

from collections.abc import Callable, Iterator
from time import perf_counter as now
from typing import Any

import numpy as np
import torch
from gpu_time import Sizes
from harness import Row, compared
from sides import BLOCK, Kvgpu

from kvgpu.batch.queries import BatchQueries
from kvgpu.index.auto import measured_crossover
from kvgpu.request import Request

GOALS = {(64, 64): 25.0, (1000, 8192): 1500.0}
"""At most, in us, from the call to the lengths on the CPU."""
ENOUGH = 50
"""Calls of a queue, beside which a slow one does not count."""


def queue(engine: str, requests: int, blocks: int) -> tuple[BatchQueries, Any]:
    """A queue of cached requests, and a check of what it answers."""
    side = Kvgpu("kvgpu128")
    side.options = {"backend": engine}
    manager = side.manager("full", requests * blocks + 2, max_model_len=(blocks + 1) * BLOCK)
    tokens = np.random.default_rng(0).integers(0, 128_000, (requests, blocks * BLOCK + 1))
    made = [
        Request(str(i), line.astype(np.int32), block_hasher=side.hasher)
        for i, line in enumerate(tokens)
    ]
    for request in made:
        manager.allocate_slots(request, request.num_tokens - 1)
        manager.free(request)
    queries = BatchQueries(manager, requests, requests * blocks)
    rows = queries.track(made)
    assert (queries.match(rows).num_tokens == blocks * BLOCK).all(), "match: wrong lengths"
    return queries, rows


def wall_times(run: Callable[[], Any], count: int) -> list[float]:
    """us of each of so many calls, which wait."""
    times = []
    for _ in range(count + 3):
        start = now()
        run()
        times.append((now() - start) * 1e6)
    return times[3:]


def matches(engine: str, sizes: Sizes) -> Iterator[Row]:
    """Lengths of a whole queue on the CPU, from Python."""
    for requests, blocks in sizes.queues:
        queries, rows = queue(engine, requests, blocks)
        times = wall_times(lambda queries=queries, rows=rows: queries.match(rows), ENOUGH)
        row = compared(
            f"match from Python, {engine}",
            f"{requests:,} requests of {blocks:,} blocks",
            "us",
            times,
        )
        goal = GOALS.get((requests, blocks))
        yield row if goal is None else row.stay_below(goal)


def under_load(engine: str, sizes: Sizes) -> Iterator[Row]:
    """One lookup while products of matrices fill another stream: 50th and 99th percentile."""
    queries, rows = queue(engine, *sizes.queues[0])
    case = "{:,} requests of {:,} blocks".format(*sizes.queues[0])
    on_gpu = torch.cuda.is_available()
    device = "cuda" if on_gpu else "cpu"
    matrix = torch.ones(sizes.product, sizes.product, dtype=torch.bfloat16, device=device)
    out = torch.empty_like(matrix)
    # Lookups have a stream of high priority, as a scheduler beside a model would.
    streams = [torch.cuda.Stream(priority=p) for p in (0, -1)] if on_gpu else [None, None]
    for load in ("an idle GPU", "a GPU that multiplies matrices"):
        times = []
        for _ in range(sizes.matches):
            if load != "an idle GPU":
                with torch.cuda.stream(streams[0]):
                    torch.mm(matrix, matrix, out=out)
            with torch.cuda.stream(streams[1]):
                start = now()
                found = queries.match(rows)
                times.append((now() - start) * 1e6)
        assert (found.num_tokens == sizes.queues[0][1] * BLOCK).all(), "match: wrong under load"
        if on_gpu:
            torch.cuda.synchronize()
        for percent in (50, 99):
            yield Row(
                f"match from Python, {engine}, p{percent}", f"{case}, {load}", "us",
                float(np.quantile(times, percent / 100)),
            )  # fmt: skip


def crossover() -> Row:
    """Blocks from which `auto` asks the GPU, as a manager measures it."""
    from kvgpu.blocks import BlockState
    from kvgpu.index.auto import SAMPLE_BLOCKS
    from kvgpu.index.device import TritonIndex

    blocks = measured_crossover(TritonIndex(BlockState(SAMPLE_BLOCKS)))
    return Row("crossover of auto", "one request", "blocks", blocks)
