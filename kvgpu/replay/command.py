"""`kvgpu replay`: command line, output files and exit status."""

import argparse
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import msgspec
from tqdm import tqdm

from kvgpu.batch.admission import AGE_LIMIT_MS, POLICIES
from kvgpu.config.behaviour import BEHAVIOURS
from kvgpu.console.output_file import output_file, place_of
from kvgpu.console.printable import say
from kvgpu.errors import ConfigError
from kvgpu.events.messages import KVCacheEvent, KVEventBatch
from kvgpu.eviction.names import EVICTIONS, LRU
from kvgpu.hashing.functions import HASH_FUNCTIONS
from kvgpu.index.registry import BACKENDS
from kvgpu.replay.comparison import BELADY, Outcome, compare, names_of
from kvgpu.replay.group_names import GROUPS
from kvgpu.replay.limits import SchedulerLimits
from kvgpu.replay.report import plotting, table_rows, write_report
from kvgpu.replay.restart import Restart
from kvgpu.replay.result import ReplayResult
from kvgpu.replay.run import Replayer, ReplayOptions, warm_up
from kvgpu.replay.scheduler import EventSink
from kvgpu.replay.traces.ranges import check_whole
from kvgpu.replay.traces.trace import FORMATS, Trace, read_trace
from kvgpu.replay.traces.workload import conversations

STANDARD_OUTPUT = "-"
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
        f"with the bound '{BELADY}', on all pools, in processes beside each other",
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


def _git_revision() -> str:
    """Return the revision of the running checkout; 'unknown' for an installed package."""
    here = Path(__file__).resolve().parent
    try:
        done = subprocess.run(
            ["git", "-C", str(here), "describe", "--always", "--dirty"],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip()


def _options(args: argparse.Namespace) -> ReplayOptions:
    eviction = next(name for name in names_of(args.eviction) if name != BELADY)
    return ReplayOptions(
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


def _load(args: argparse.Namespace) -> Trace:
    if args.trace is None:
        if args.trace_block_size is not None:
            raise ConfigError("--trace-block-size applies to a trace, and none is given")
        return conversations().head(args.limit)
    trace = read_trace(args.trace, args.format, args.skip_bad_lines, args.trace_block_size)
    return trace.head(args.limit)


def _output_paths(args: argparse.Namespace) -> dict[str, Path]:
    """Return the files to write, by the option that names them.

    Raises:
        ConfigError: Two of them are the same file, or one is the trace.
    """
    paths = {name: getattr(args, name) for name in ("json", "report", "events", "snapshot")}
    paths = {name: path for name, path in paths.items() if path is not None}
    if str(paths.get("json")) == STANDARD_OUTPUT:
        del paths["json"]
    taken = {} if args.trace is None else {place_of(args.trace): "the trace"}
    for name, path in paths.items():
        place = place_of(path)
        other = taken.setdefault(place, f"--{name}")
        # Nothing is lost if two options write to the same device.
        if other != f"--{name}" and (place.is_file() or not place.exists()):
            raise ConfigError(f"--{name} would overwrite {other}: {path}")
    paths.pop("snapshot", None)  # which has a writer of its own
    return paths


def _event_sink(file: BinaryIO) -> EventSink:
    def write(seconds: float, events: list[KVCacheEvent]) -> None:
        if events:
            batch = KVEventBatch(ts=seconds, events=events)  # type: ignore[arg-type]
            file.write(msgspec.json.encode(batch) + b"\n")

    return write


def _table(title: str, rows: list[tuple[str, str]]) -> list[str]:
    width = max(len(name) for name, _ in rows)
    return [title, *(f"  {name:<{width}}  {value}" for name, value in rows)]


def run_command(args: argparse.Namespace) -> int:
    """Run the command; return the exit status.

    Bad options are refused before the replay begins, if possible. The output files appear only if all has gone well.

    Raises:
        KVGPUError: Bad options or a bad trace.
        OSError: A file cannot be read or written.
    """
    options = _options(args)
    if args.limit is not None:
        check_whole("--limit", args.limit, high=sys.maxsize)
    for size in args.sweep_blocks:
        replace(options, num_blocks=size)  # raises
    paths = _output_paths(args)
    if args.report is not None:
        plotting()
    out = sys.stderr if str(args.json) == STANDARD_OUTPUT else sys.stdout
    table: list[str] = []
    try:
        with ExitStack() as stack:
            files = {name: stack.enter_context(output_file(path)) for name, path in paths.items()}
            _replay(args, options, files, table)
    finally:
        # Written last, so that a closed pipe does not cost the files, and in any case, so that a full disk does not
        # cost the table.
        for line in table:
            say(line, out)
    if args.report is not None:
        say(f"report: {args.report}", out)
    return 0


def _replay(args: argparse.Namespace, options: ReplayOptions, files: dict[str, BinaryIO], table: list[str]) -> None:
    """Replay the trace, fill the table and write the files."""
    trace = _load(args)
    restart = None if args.snapshot is None else Restart(args.snapshot)
    replayer = Replayer(trace, options, keep_hashes=bool(args.sweep_blocks or restart))
    warm_up(options)
    sink = _event_sink(files["events"]) if "events" in files else None
    result = _run(replayer, options.num_blocks, sink, restart)
    cold = _run(replayer, options.num_blocks, None) if restart and restart.loaded_blocks is not None else None
    sweep = [_run(replayer, size, None) for size in args.sweep_blocks]
    outcomes = _compare(trace, options, args)
    summary = {
        **result.as_dict(),
        "trace": trace.name,
        "policy": args.policy,
        "bad_lines": trace.bad_lines,
        "git": _git_revision(),
        "sweep": [{"num_blocks": r.num_blocks, "hit_rate": r.hit_rate} for r in sweep],
        "orders_of_eviction": [outcome.as_dict() for outcome in outcomes],
    }
    rows = table_rows(result)
    if restart:
        restart.end()
        summary["snapshot"] = restart.as_dict(cold)
        rows += restart.rows(cold)
    if trace.bad_lines:
        rows.append(("bad lines skipped", f"{trace.bad_lines:,}"))
    rows += [(f"hit rate with {r.num_blocks:,} blocks", f"{r.hit_rate:.1%}") for r in sweep]
    rows += [
        (f"{o.eviction}, {o.num_blocks:,} blocks", "-" if o.hit_rate is None else f"{o.hit_rate:.2%}") for o in outcomes
    ]
    title = f"{trace.name}: {len(trace):,} requests on {result.backend}, groups {args.groups}"
    if args.behaviour != "0.23":
        title += f", behaviour {args.behaviour}"
    if options.eviction != LRU:
        title += f", eviction {options.eviction}"
    table += _table(title, rows)
    if args.json is not None:
        text = msgspec.json.format(msgspec.json.encode(summary), indent=2) + b"\n"
        if "json" in files:
            files["json"].write(text)
        else:
            _write_bytes(text)
    if "report" in files:
        settings = {k: v for k, v in vars(args).items() if k not in ("run", "json", "report")}
        write_report(files["report"], trace.name, settings | {"git": summary["git"]}, result, sweep)


def _compare(trace: Trace, options: ReplayOptions, args: argparse.Namespace) -> list[Outcome]:
    """Replay on all orders of eviction that the command names, if there are several."""
    names, sizes = names_of(args.eviction), list(dict.fromkeys([args.num_blocks, *args.sweep_blocks]))
    if len(names) == 1:
        return []
    with tqdm(total=len(names) * len(sizes), unit="replay", desc="orders of eviction", disable=None) as bar:
        return compare(trace, options, names, sizes, bar.update)


def _write_bytes(text: bytes) -> None:
    """Write JSON to standard output as UTF-8, whatever its encoding."""
    binary = getattr(sys.stdout, "buffer", None)
    if binary is None:
        print(text.decode(), end="")
    else:
        sys.stdout.flush()
        binary.write(text)


def _run(replayer: Replayer, num_blocks: int, sink: EventSink | None, restart: Restart | None = None) -> ReplayResult:
    with tqdm(total=len(replayer.trace), unit="request", desc=f"{num_blocks:,} blocks", disable=None) as bar:
        return replayer.run(num_blocks, bar.update, sink, restart)
