"""Whole queues from Python, and one lookup while another stream keeps the GPU busy; checked before they are timed.

    python bench/on_gpu/queues.py [--rounds 20] [--json -]

measures what needs no GPU, the CPU's part of a `match`: all of it but the launch, which are Python and compiled code
that check rows, write spans where the device reads them, wait, and copy results. Exit status: 0 all goals met, 1 a goal
missed, 2 an answer was wrong.
"""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from time import perf_counter as now
from time import process_time
from typing import Any

HERE = Path(__file__).resolve().parent
if __name__ == "__main__":
    sys.path[:1] = [str(HERE.parents[1]), str(HERE.parent)]
    if not Path("/dev/nvidiactl").exists():
        os.environ["TRITON_INTERPRET"] = "1"

import numpy as np  # noqa: E402
import torch  # noqa: E402
from axes import Queue  # noqa: E402
from harness import Row, benchmark_options, compared, finish  # noqa: E402
from on_gpu.sizes import Sizes  # noqa: E402
from on_gpu.timing import captured, seconds, seconds_alone, seconds_of_launching  # noqa: E402
from sides import BLOCK, Kvgpu  # noqa: E402

from kvgpu.batch.queries import BatchQueries  # noqa: E402
from kvgpu.device.tensors import resolve_device  # noqa: E402
from kvgpu.index.device.auto import measured_crossover  # noqa: E402
from kvgpu.request import Request  # noqa: E402

GOALS = (25.0, 1200.0)
"""Of `Sizes.goal_queues`: at most, in us, from the call to the lengths on the CPU."""
CPU_GOALS = (5.0, 30.0)
"""Of `Sizes.cpu_queues`: at most, in us, without the launch."""
CALLS = 300
"""In one time of the CPU's part, so that the clock does not count."""
DISCARDED = 3


class Waiting:
    """A queue whose requests are cached to a known part; all of them are asked for at once."""

    def __init__(self, engine: str, queue: Queue) -> None:
        self.queue = queue
        side = Kvgpu("kvgpu128")
        side.options = {"backend": engine}
        lengths = queue.lengths
        manager = side.manager("full", sum(lengths) + 3, max_model_len=(max(lengths) + 1) * BLOCK)
        rng = np.random.default_rng(0)

        def request(name: str, blocks: int) -> Request:
            tokens = rng.integers(0, 128_000, blocks * BLOCK + 1, dtype=np.int32)
            return Request(name, tokens, block_hasher=side.hasher)

        made = [request(str(i), blocks) for i, blocks in enumerate(lengths)]
        self.cached = np.array([round(queue.match * blocks) * BLOCK for blocks in lengths])
        # Where nothing was ever cached no device is asked.
        other = request("other", 1)
        for waiting, cached in ((other, BLOCK), *zip(made, self.cached.tolist(), strict=True)):
            if cached:
                manager.allocate_slots(waiting, cached)
                manager.free(waiting)
        self.queries = BatchQueries(manager, len(lengths), sum(lengths))
        self.rows = self.queries.track(made)

    def match(self) -> Any:
        """Lengths on the CPU."""
        return self.queries.match(self.rows)

    def check(self, num_tokens: Any, way: str) -> None:
        """
        Raises:
            AssertionError: They are wrong.
        """
        assert np.array_equal(num_tokens, self.cached), f"match, {way}: wrong, {self.queue}"


def wall_times(run: Callable[[], Any], count: int) -> list[float]:
    """us of each of so many calls, which wait; as many or three before them are not taken."""
    times = []
    for turn in range(count + min(count, DISCARDED)):
        start = now()
        run()
        if turn >= min(count, DISCARDED):
            times.append((now() - start) * 1e6)
    return times


def matches(engine: str, queues: Sequence[Queue], sizes: Sizes) -> Iterator[Row]:
    """Lengths of a whole queue on the CPU, from Python."""
    goals = dict(zip(sizes.goal_queues, GOALS, strict=False))
    for queue in queues:
        waiting = Waiting(engine, queue)
        waiting.check(waiting.match().num_tokens, "once")
        times = wall_times(waiting.match, sizes.matches)
        waiting.check(waiting.match().num_tokens, "after it was timed")
        row = compared(f"match from Python, {engine}", str(queue), "us", times)
        yield row.stay_below(goals[queue]) if queue in goals else row


def goal_matches(engine: str, sizes: Sizes) -> Iterator[Row]:
    """Those with goals."""
    yield from matches(engine, sizes.goal_queues, sizes)


def more_matches(engine: str, sizes: Sizes) -> Iterator[Row]:
    """One long request among short ones, and nothing cached."""
    yield from matches(engine, sizes.queues, sizes)


def without_launch(waiting: Waiting) -> None:
    """Replace the launch of a prepared lookup by what says that the answer, which is there already, has come."""
    index: Any = waiting.queries.manager.block_pool.index
    (lookup,) = index._lookups._made.values()

    def answered() -> None:
        lookup._signal[0] = lookup._count

    lookup._graph = answered


def us_of_calls(waiting: Waiting, calls: int) -> float:
    """CPU time of a call."""
    match, rows = waiting.queries.match, waiting.rows
    start = process_time()
    for _ in range(calls):
        match(rows)
    return (process_time() - start) / calls * 1e6


def cpu_rows(engine: str, queues: Sequence[Queue], rounds: int, calls: int) -> Iterator[Row]:
    """What `match` costs the CPU beside the launch itself: a row for each queue."""
    for queue, goal in zip(queues, CPU_GOALS, strict=False):
        waiting = Waiting(engine, queue)
        waiting.check(waiting.match().num_tokens, "once")
        without_launch(waiting)
        waiting.check(waiting.match().num_tokens, "without a launch")
        us_of_calls(waiting, calls)
        times = [us_of_calls(waiting, calls) for _ in range(rounds)]
        yield compared(f"CPU time of match without its launch, {engine}", str(queue), "us", times).stay_below(goal)


def cpu_times(engine: str, sizes: Sizes) -> Iterator[Row]:
    """The CPU's part of a `match`."""
    yield from cpu_rows(engine, sizes.cpu_queues, sizes.rounds, sizes.matches)


def match_async(engine: str, sizes: Sizes) -> Iterator[Row]:
    """Lengths that stay on the device: eager, and as a graph, captured when nothing is pending."""
    queue = sizes.goal_queues[0]
    waiting = Waiting(engine, queue)
    out = waiting.queries.match_async(waiting.rows)
    waiting.check(out.num_tokens.cpu().numpy(), "async")

    def eager() -> Any:
        return waiting.queries.match_async(waiting.rows, out=out)

    metric = f"match_async, {engine}"
    low, middle, high = seconds_of_launching(eager, 5 * sizes.rounds) * 1e6
    yield Row(f"{metric}, until it returns", str(queue), "us", middle, low=low, high=high)
    low, middle, high = seconds_alone(eager, sizes.rounds) * 1e6
    yield Row(f"{metric}, eager from idle", str(queue), "us", middle, low=low, high=high)
    replay = captured(eager)
    for kind, measured in (("in a row", seconds), ("from idle", seconds_alone)):
        out.num_tokens.fill_(-7)
        replay()
        waiting.check(out.num_tokens.cpu().numpy(), "as a graph")
        low, middle, high = measured(replay, sizes.rounds) * 1e6
        yield Row(f"{metric}, graph {kind}", str(queue), "us", middle, low=low, high=high)
    waiting.check(waiting.match().num_tokens, "after a graph")


def under_load(engine: str, sizes: Sizes) -> Iterator[Row]:
    """One lookup while products of matrices fill another stream: 50th and 99th percentile."""
    waiting = Waiting(engine, sizes.goal_queues[0])
    matrix = torch.ones(sizes.product, sizes.product, dtype=torch.bfloat16, device=resolve_device())
    out = torch.empty_like(matrix)
    # Lookups have a stream of high priority, as a scheduler beside a model would.
    streams = [torch.cuda.Stream(priority=p) for p in (0, -1)]
    for load in ("an idle GPU", "a GPU that multiplies matrices"):
        times = []
        for _ in range(sizes.under_load):
            if load != "an idle GPU":
                with torch.cuda.stream(streams[0]):
                    torch.mm(matrix, matrix, out=out)
            with torch.cuda.stream(streams[1]):
                start = now()
                found = waiting.match()
                times.append((now() - start) * 1e6)
        waiting.check(found.num_tokens, f"on {load}")
        torch.cuda.synchronize()
        for percent in (50, 99):
            yield Row(
                f"match from Python, {engine}, p{percent}",
                f"{waiting.queue}, {load}",
                "us",
                float(np.quantile(times, percent / 100)),
            )


def crossover(sizes: Sizes) -> Iterator[Row]:
    """Blocks from which `auto` asks the GPU, as a manager measures it."""
    from kvgpu.blocks.state import BlockState
    from kvgpu.index.device.auto import SAMPLE_BLOCKS
    from kvgpu.index.device.engines import TritonIndex

    blocks = measured_crossover(TritonIndex(BlockState(SAMPLE_BLOCKS)))
    yield Row("crossover of auto", "one request", "blocks", blocks)


def main() -> int:
    """Check, measure, print, save."""
    options = benchmark_options(__doc__, rounds=20).parse_args()
    return finish("match_cpu", cpu_rows("triton", Sizes.cpu_queues, options.rounds, CALLS), options)


if __name__ == "__main__":
    sys.exit(main())
