"""Serving a trace end to end: cost by phase, hit rate, and bytes per block of the pool.

    python bench/replay.py [TRACE] [--requests 250] [--rounds 3] [--json -]

A scheduler with chunked prefill, decoding and preemption, one call a request, as `kvgpu replay` runs it. What
came out (hits, evictions, preemptions) is compared with that of the reference, a plain dict, before a time is printed.
Exit status: 0, or 2 if they differ.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

from harness import Row, compared, finish  # noqa: E402
from sides import trace_options  # noqa: E402
from tqdm import tqdm  # noqa: E402

from kvgpu.replay.result import ReplayResult  # noqa: E402
from kvgpu.replay.run import Replayer, ReplayOptions, warm_up  # noqa: E402
from kvgpu.replay.traces.trace import Trace, read_trace  # noqa: E402
from kvgpu.replay.traces.workload import conversations  # noqa: E402

BLOCKS = {"full": 200_000, "full+swa:1024": 400_000}
UNITS = {"decode": "ns/token", "order": "ns/request"}
COUNTS = ("requests", "rejected", "hit_tokens", "evictions", "preemptions", "steps")


def outcome(result: ReplayResult) -> dict[str, Any]:
    """What does not depend on the backend."""
    return {name: getattr(result, name) for name in COUNTS}


def measure(trace: Trace, groups: str, rounds: int) -> list[Row]:
    """Rows of one combination of cache groups.

    Raises:
        AssertionError: The host and the reference differ.
    """
    results = {
        backend: Replayer(trace, ReplayOptions(BLOCKS[groups], groups=groups, backend=backend))
        for backend in ("host", "reference")
    }
    warm_up(results["host"].options)
    first, expected = (results[name].run() for name in ("host", "reference"))
    if outcome(first) != outcome(expected):
        raise AssertionError(f"{groups}: {outcome(first)} is not {outcome(expected)}")
    done = [results["host"].run() for _ in tqdm(range(rounds), disable=None, unit="replay")]
    case = f"{groups}, {trace.name}, {len(trace):,} requests"
    rows = []
    for phase, count in first.blocks_of.items():
        if count and phase != "order":
            times = [1e9 * result.seconds[phase] / count for result in done]
            rows.append(compared(f"replay, {phase}", case, UNITS.get(phase, "ns/block"), times))
    totals = [sum(result.seconds.values()) / len(trace) * 1e6 for result in done]
    rows.append(compared("replay, all phases", case, "us/request", totals))
    rows.append(Row("replay, hit rate", case, "%", 100 * first.hit_rate))
    rows.append(Row("replay, hit rate of an endless cache", case, "%", 100 * first.ideal_hit_rate))
    rows.append(Row("replay, pool", case, "bytes/block", first.pool_bytes_per_block))
    return rows


def made(options: argparse.Namespace) -> Iterator[Row]:
    """All rows."""
    trace = conversations() if options.trace is None else read_trace(options.trace)
    for groups in BLOCKS:
        yield from measure(trace.head(options.requests), groups, options.rounds)


def main() -> int:
    """Check, measure, print, save."""
    parser = trace_options(__doc__, rounds=3, peers=False)
    parser.set_defaults(requests=250)
    options = parser.parse_args()
    return finish("replay", made(options), options)


if __name__ == "__main__":
    sys.exit(main())
