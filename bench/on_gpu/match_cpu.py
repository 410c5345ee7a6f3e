"""What one `match` of a waiting queue costs the CPU beside the launch itself: Python and compiled code.

    python bench/on_gpu/match_cpu.py [--rounds 20] [--json -]

The lookup is prepared and answered by its kernels, once in Triton's interpreter where there is no GPU. Then a function
that only says that the answer is there takes the place of the launch, and whole calls are timed: rows checked,
spans written where the device reads them, waiting, and results copied. On a GPU the start of a graph comes on top.
Exit status: 0 all goals met, 1 a goal missed, 2 an answer was wrong.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import process_time
from typing import Any

HERE = Path(__file__).resolve().parent
if __name__ == "__main__":
    sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent)]
    if not Path("/dev/nvidiactl").exists():
        os.environ["TRITON_INTERPRET"] = "1"

from axes import Queue  # noqa: E402
from harness import Row, benchmark_options, compared, finish  # noqa: E402
from on_gpu.queues import Waiting  # noqa: E402
from on_gpu.sizes import Sizes  # noqa: E402

GOALS = (5.0, 30.0)
"""Of `Sizes.cpu_queues`: at most, in us."""
CALLS = 300
"""In one time, so that the clock does not count."""


def without_launch(waiting: Waiting) -> None:
    """Replace the launch of a prepared lookup by what says that the answer, which is there already, has come."""
    index: Any = waiting.queries.manager.block_pool.index
    (lookup,) = index._lookups._made.values()

    def answered() -> None:
        lookup._signal[0] = lookup._count

    lookup._graph = answered


def us_of_calls(waiting: Waiting, calls: int) -> float:
    """CPU time of a call."""
    start = process_time()
    for _ in range(calls):
        waiting.match()
    return (process_time() - start) / calls * 1e6


def rows(engine: str, queues: Sequence[Queue], rounds: int, calls: int = CALLS) -> Iterator[Row]:
    """A row for each queue."""
    for queue, goal in zip(queues, GOALS, strict=False):
        waiting = Waiting(engine, queue)
        waiting.check(waiting.match().num_tokens, "once")
        without_launch(waiting)
        waiting.check(waiting.match().num_tokens, "without a launch")
        us_of_calls(waiting, calls)
        times = [us_of_calls(waiting, calls) for _ in range(rounds)]
        yield compared(f"CPU time of match without its launch, {engine}", str(queue), "us", times).stay_below(goal)


def on_device(engine: str, sizes: Sizes) -> Iterator[Row]:
    """The same as a block of `bench/gpu.py`."""
    yield from rows(engine, sizes.cpu_queues, sizes.rounds, sizes.matches)


def main() -> int:
    """Check, measure, print, save."""
    options = benchmark_options(__doc__, rounds=20).parse_args()
    return finish("match_cpu", rows("triton", Sizes.cpu_queues, options.rounds), options)


if __name__ == "__main__":
    sys.exit(main())
