"""What the order of admission is worth: hit rate and waiting time of a trace in virtual time.

    python bench/policies.py [TRACE] [--requests 2000] [--json -]

Prompts only, on a pool that does not hold them all; the computation of a token takes 25 or 45 us of virtual time.
With every policy each request is served once, and no policy hits more than an endless cache, or nothing is printed.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

from harness import Row, finish  # noqa: E402
from sides import trace_options  # noqa: E402
from tqdm import tqdm  # noqa: E402

from kvgpu.batch.admission import POLICIES  # noqa: E402
from kvgpu.replay.limits import SchedulerLimits  # noqa: E402
from kvgpu.replay.run import Replayer, ReplayOptions  # noqa: E402
from kvgpu.replay.traces.trace import Trace, read_trace  # noqa: E402
from kvgpu.replay.traces.workload import conversations  # noqa: E402

SPEEDS = (25.0, 45.0)
AGE_LIMIT_MS = 600_000.0


def served(trace: Trace, policy: str, token_us: float, num_blocks: int) -> list[Row]:
    """Hit rate and mean waiting time of one policy.

    Raises:
        AssertionError: Requests were lost, or too much was found in the cache.
    """
    limits = SchedulerLimits(
        decode=False, virtual_time=True, token_us=token_us, policy=policy, age_limit_ms=AGE_LIMIT_MS
    )
    result = Replayer(trace, ReplayOptions(num_blocks, hash_name="kvgpu128", limits=limits)).run()
    assert result.requests + result.rejected == len(trace), f"{policy}: requests were lost"
    assert result.hit_tokens <= result.ideal_hit_tokens, f"{policy}: more hits than there can be"
    waits = [sample[3] for sample in result.samples]
    case = f"{policy}, {token_us:g} us a token, {trace.name}, {len(trace):,} requests"
    return [
        Row("hit rate", case, "%", 100 * result.hit_rate),
        Row("mean wait", case, "s", sum(waits) / len(waits) / 1e3),
    ]


def made(options: argparse.Namespace) -> Iterator[Row]:
    """All rows."""
    trace = conversations() if options.trace is None else read_trace(options.trace)
    trace = trace.head(options.requests)
    cases = [(policy, speed) for speed in SPEEDS for policy in POLICIES]
    for policy, speed in tqdm(cases, disable=None, unit="replay"):
        yield from served(trace, policy, speed, options.num_blocks)


def main() -> int:
    """Serve, print, save."""
    parser = trace_options(__doc__, peers=False)
    parser.add_argument("--num-blocks", type=int, default=60_000)
    parser.set_defaults(requests=2000)
    options = parser.parse_args()
    return finish("policies", made(options), options)


if __name__ == "__main__":
    sys.exit(main())
