"""The command line of `kvgpu replay`: its options, and what they stand for."""

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from kvgpu.batch.admission import AGE_LIMIT_MS, POLICIES
from kvgpu.config.behaviour import BEHAVIOURS
from kvgpu.errors import ConfigError
from kvgpu.eviction.names import EVICTIONS, LRU
from kvgpu.hashing.functions import HASH_FUNCTIONS
from kvgpu.index.registry import BACKENDS
from kvgpu.replay.comparison import names_of
from kvgpu.replay.group_names import GROUPS
from kvgpu.replay.limits import SchedulerLimits
from kvgpu.replay.run import ReplayOptions
from kvgpu.replay.traces.ranges import check_whole
from kvgpu.replay.traces.trace import FORMATS, Trace, read_trace, readable
from kvgpu.replay.traces.workload import conversations
from kvgpu.report.document import BOUND

OUTPUTS = ("json", "report", "events", "snapshot")
"""Options that name files to write."""

EVERYTHING = "all"


def _sizes(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list like 10000,20000") from None


def _interval(text: str) -> int | None:
    try:
        return None if text == EVERYTHING else int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number of tokens nor '{EVERYTHING}'") from None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command to its parser."""
    add = parser.add_argument
    add("trace", nargs="?", type=Path, help="JSON lines or CSV, may be compressed; the embedded workload if omitted")
    add("--format", default="auto", help=f"auto, {', '.join(FORMATS)}")
    add("--trace-block-size", type=int, metavar="N", help="tokens per hash id (mooncake: 512, others: 16)")
    add("--skip-bad-lines", action="store_true", help="count unreadable lines and continue")
    add("--limit", type=int, help="replay the first N requests")
    add("--num-blocks", type=int, default=200_000, help="blocks of the pool (%(default)s)")
    add("--block-size", type=int, default=16, help="tokens per block (%(default)s)")
    add("--groups", default="full", help=f"names joined by '+': {', '.join(GROUPS)} (%(default)s)")
    add("--behaviour", default="0.23", help=f"version of vLLM to behave like: {', '.join(BEHAVIOURS)} (%(default)s)")
    add(
        "--retention-interval",
        type=_interval,
        default=0,
        metavar="TOKENS",
        help="behaviour 0.33: tokens between the positions of a prompt that stay cached in windows and states; 0 for "
        f"its end and what others share, '{EVERYTHING}' for all (%(default)s)",
    )
    add(
        "--eviction",
        default=LRU,
        metavar="NAME,...",
        help=f"which free blocks are taken first: {', '.join(EVICTIONS)} (%(default)s); several are compared, also "
        f"with the bound '{BOUND}', on all pools, in processes beside each other",
    )
    add("--hash", default="sha256", help=f"{', '.join(HASH_FUNCTIONS)} (%(default)s)")
    add("--backend", help=f"{', '.join(BACKENDS)} (KVGPU_BACKEND, else host)")
    add("--max-running", type=int, default=256, help="requests served at a time (%(default)s)")
    add("--max-batched-tokens", type=int, default=8192, help="tokens per step (%(default)s)")
    add("--no-decode", action="store_true", help="compute prompts only")
    add(
        "--clock",
        choices=("order", "trace"),
        default="order",
        help="arrival: as fast as requests can be served, or at the times of the trace",
    )
    add("--step-ms", type=float, default=10.0, help="--clock trace: ms per step (%(default)s)")
    add("--token-us", type=float, default=10.0, help="--clock trace: us per token (%(default)s)")
    add(
        "--policy",
        default="fcfs",
        help=f"order of admission: {', '.join(POLICIES)} (%(default)s); matters with --clock trace",
    )
    add(
        "--age-limit-ms",
        type=float,
        default=AGE_LIMIT_MS,
        help="a request that waited longer goes first (longest-prefix) or is not held back (hold-back) (%(default)s)",
    )
    add("--sweep-blocks", type=_sizes, default=[], help="also replay on pools of these sizes")
    add("--snapshot", type=Path, help="begin with this file if it is there, and write it at the end, as at a restart")
    add("--json", type=Path, help="write the result as JSON ('-' for standard output)")
    add("--report", type=Path, help="write a report as HTML")
    add("--events", type=Path, help="write KV events, one JSON batch per line")


def options_of(args: argparse.Namespace) -> ReplayOptions:
    """Return what to replay on: of several orders of eviction the first.

    Raises:
        ConfigError: An option cannot work, sizes of further pools and `--limit` included.
    """
    if args.limit is not None:
        check_whole("--limit", args.limit, high=sys.maxsize)
    eviction = next(name for name in names_of(args.eviction) if name != BOUND)
    options = ReplayOptions(
        num_blocks=args.num_blocks,
        block_size=args.block_size,
        groups=args.groups,
        hash_name=args.hash,
        backend=args.backend,
        behaviour=args.behaviour,
        retention_interval=args.retention_interval,
        eviction=eviction,
        same_hashes=args.snapshot is not None,
        limits=SchedulerLimits(
            max_running=args.max_running,
            max_batched_tokens=args.max_batched_tokens,
            decode=not args.no_decode,
            virtual_time=args.clock == "trace",
            step_ms=args.step_ms,
            token_us=args.token_us,
            policy=args.policy,
            age_limit_ms=args.age_limit_ms,
        ),
    )
    for size in args.sweep_blocks:
        replace(options, num_blocks=size)  # raises
    return options


def trace_of(args: argparse.Namespace) -> Trace:
    """Return the trace that the command names, or the embedded workload.

    Raises:
        KVGPUError: It cannot be read.
        OSError: So says the system.
    """
    if args.trace is None:
        if args.trace_block_size is not None:
            raise ConfigError("--trace-block-size applies to a trace, and none is given")
        return conversations().head(args.limit)
    trace = read_trace(args.trace, args.format, args.skip_bad_lines, args.trace_block_size)
    return trace.head(args.limit)


def changed(args: argparse.Namespace) -> dict[str, Any]:
    """Return the options with other values than their defaults, by name, but for the files to write. O(options)."""
    parser = argparse.ArgumentParser(add_help=False)
    add_arguments(parser)
    found = {}
    for action in parser._actions:
        value = getattr(args, action.dest)
        if action.dest not in OUTPUTS and value != action.default:
            name = action.option_strings[0] if action.option_strings else action.dest
            found[name] = ",".join(map(str, value)) if isinstance(value, list) else readable(str(value))
    return found
