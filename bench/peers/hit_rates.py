"""Hit rates of a trace on the manager of the installed vLLM, 0.23 or 0.33, and on kvgpu's in the same behaviour.

    python bench/peers/hit_rates.py [TRACE] [--limit N] [--groups full,full+mamba] [--num-blocks 200000,60000]

One process replays the trace twice per case, with kvgpu's manager, requests and hashes, and with those of vLLM, made
from a configuration of vLLM's own. One scheduler, that of `kvgpu replay`, drives both: lookups, chunks, decoding and
preemption. Hit rate is tokens hit / tokens asked, at the first admission of each request. The hits of each request,
the usage of the pool, steps and preemptions are compared, and the first difference is told.
Needs an interpreter with vLLM: `make hit-rates VERSION=0.33.0`.
Exit status: 0, or 1 if kvgpu hits less than vLLM, 2 if vLLM is missing or counted other hits itself.
"""

import argparse
import sys
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent)]

from harness import Row, benchmark_options, finish  # noqa: E402
from peers.vllm_manager import VllmManagers  # noqa: E402
from tqdm import tqdm  # noqa: E402

from kvgpu.errors import KVGPUError  # noqa: E402
from kvgpu.replay.limits import SchedulerLimits  # noqa: E402
from kvgpu.replay.result import ReplayResult  # noqa: E402
from kvgpu.replay.run import Replayer, ReplayOptions, warm_up  # noqa: E402
from kvgpu.replay.traces.trace import Trace, read_trace  # noqa: E402
from kvgpu.replay.traces.workload import conversations  # noqa: E402

GROUPS = "full,full+swa:1024+swa:1024,full+mamba:align"
BLOCKS = "200000,60000"
COUNTS = ("requests", "rejected", "steps", "preemptions", "computed_tokens", "output_tokens")


def difference(ours: ReplayResult, theirs: ReplayResult) -> str:
    """The first difference in words; nothing if there is none."""
    pairs = zip_longest(ours.samples, theirs.samples)
    for place, (mine, other) in enumerate(pairs):
        if mine != other:
            return f"admission {place} (prompt, hits, usage, wait): kvgpu {mine}, vLLM {other}"
    for name in COUNTS:
        if getattr(ours, name) != getattr(theirs, name):
            return f"{name}: kvgpu {getattr(ours, name)}, vLLM {getattr(theirs, name)}"
    return ""


def rows_of(case: str, ours: ReplayResult, theirs: ReplayResult) -> list[Row]:
    """Rows of one case; ratios above 1 say that kvgpu hits more, or computes less."""
    name = theirs.backend
    asked = f"{case}, {ours.prompt_tokens:,} tokens asked"
    gain = ours.hit_tokens / theirs.hit_tokens if theirs.hit_tokens else 1.0
    rate = Row("hit rate", asked, "%", 100 * ours.hit_rate, 100 * theirs.hit_rate, name, ratio_middle=gain)
    rate.goal, rate.met = ">= vLLM's", ours.hit_rate >= theirs.hit_rate
    unit = "million tokens"
    return [
        rate,
        Row("hit", asked, unit, ours.hit_tokens / 1e6, theirs.hit_tokens / 1e6, name, ratio_middle=gain),
        Row("computed", asked, unit, ours.computed_tokens / 1e6, theirs.computed_tokens / 1e6, name),
    ]


def measure(peer: Any, trace: Trace, options: ReplayOptions) -> list[Row]:
    """Replay on both sides."""
    replayer = Replayer(trace, options)
    case = f"{options.groups}, {options.num_blocks:,} blocks, {trace.name}, {len(trace):,} requests"
    with tqdm(
        total=2 * len(trace), unit="request", desc=f"{options.groups}, {options.num_blocks}", disable=None
    ) as bar:
        ours = replayer.run(advance=bar.update)
        theirs = peer.run(replayer, options.num_blocks, bar.update)
    found = difference(ours, theirs)
    told = (
        f"DIFFERENT at {found}" if found else f"equal in all {len(ours.samples):,} admissions and {ours.steps:,} steps"
    )
    print(f"{case}: {told}", file=sys.stderr)
    return rows_of(case, ours, theirs)


def made(options: argparse.Namespace) -> Iterator[Row]:
    """All rows.

    Raises:
        ImportError: vLLM is missing, or one that kvgpu does not behave like.
    """
    peer = VllmManagers()
    trace = conversations() if options.trace is None else read_trace(options.trace)
    trace = trace.head(options.limit)
    limits = SchedulerLimits(decode=not options.no_decode)
    for groups in options.groups.split(","):
        for num_blocks in map(int, options.num_blocks.split(",")):
            case = ReplayOptions(num_blocks, groups=groups, limits=limits, behaviour=peer.behaviour.version)
            warm_up(case)
            yield from measure(peer, trace, case)


def main() -> int:
    """Replay, compare, print, save."""
    parser = benchmark_options(__doc__)
    add = parser.add_argument
    add("trace", type=Path, nargs="?", help="the embedded workload if left out")
    add("--limit", type=int, help="replay the first N requests")
    add("--groups", default=GROUPS, help="kinds of models as in `kvgpu replay`, with commas between (%(default)s)")
    add("--num-blocks", default=BLOCKS, help="blocks of the pools, with commas between (%(default)s)")
    add("--no-decode", action="store_true", help="compute prompts only")
    options = parser.parse_args()
    try:
        return finish("hit_rates", made(options), options)
    except (KVGPUError, OSError) as error:
        parser.error(str(error))  # exits with 2


if __name__ == "__main__":
    sys.exit(main())
