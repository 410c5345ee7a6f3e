"""`kvgpu replay`: what it runs, output files and exit status."""

import argparse
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
from tqdm import tqdm

from kvgpu.console.output_file import output_file, place_of
from kvgpu.console.printable import say
from kvgpu.errors import ConfigError
from kvgpu.events.messages import KVCacheEvent, KVEventBatch
from kvgpu.eviction.names import EVICTIONS, LRU
from kvgpu.replay.command_line import OUTPUTS, add_arguments, changed, options_of, trace_of
from kvgpu.replay.comparison import compare, names_of, outcome_of
from kvgpu.replay.restart import Restart
from kvgpu.replay.result import ReplayResult
from kvgpu.replay.run import Replayer, ReplayOptions, warm_up
from kvgpu.replay.scheduler import EventSink
from kvgpu.replay.series import over_time, quantiles
from kvgpu.replay.traces.trace import Trace
from kvgpu.report.document import Order, Run, run_of
from kvgpu.report.page import write_report
from kvgpu.report.rows import ORDER_COLUMNS, aligned, order_rows, rows_of
from kvgpu.report.sentences import sentences

__all__ = ["add_arguments", "run_command"]

STANDARD_OUTPUT = "-"


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


def _output_paths(args: argparse.Namespace) -> dict[str, Path]:
    """Return the files to write, by the option that names them.

    Raises:
        ConfigError: Two of them are the same file, or one is the trace.
    """
    paths = {name: getattr(args, name) for name in OUTPUTS}
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


def _table(run: Run, options: ReplayOptions) -> list[str]:
    """Return what the terminal shows of a replay."""
    title = f"{run.trace}: {run.requests + run.rejected:,} requests on {run.backend}, groups {options.groups}"
    if options.behaviour != "0.23":
        title += f", behaviour {options.behaviour}"
    if options.eviction != LRU:
        title += f", eviction {options.eviction}"
    rows = rows_of(run)
    rows += [
        (f"hit rate with {order.num_blocks:,} blocks", f"{order.hit_rate:.1%}")
        for order in run.orders_of_eviction
        if order.eviction == run.eviction and order.num_blocks != run.num_blocks
    ]
    width = max(len(name) for name, _ in rows)
    lines = [title, *(f"  {name:<{width}}  {value}" for name, value in rows)]
    if len({order.eviction for order in run.orders_of_eviction}) > 1:
        lines += ["", *(f"  {line}" for line in aligned([ORDER_COLUMNS, *order_rows(run)]))]
    return [*lines, "", *sentences(run)]


def run_command(args: argparse.Namespace) -> int:
    """Run the command; return the exit status.

    Bad options are refused before the replay begins, if possible. The output files appear only if all has gone well.

    Raises:
        KVGPUError: Bad options or a bad trace.
        OSError: A file cannot be read or written.
    """
    options = options_of(args)
    paths = _output_paths(args)
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
    trace = trace_of(args)
    restart = None if args.snapshot is None else Restart(args.snapshot)
    replayer = Replayer(trace, options, keep_hashes=bool(args.sweep_blocks or restart), follows_blocks=True)
    warm_up(options)
    sink = _event_sink(files["events"]) if "events" in files else None
    result = _run(replayer, options.num_blocks, sink, restart)
    cold = _run(replayer, options.num_blocks, None) if restart and restart.loaded_blocks is not None else None
    orders = _orders(args, replayer, outcome_of(cold or result))
    summary = _summary(args, trace, result, orders)
    if restart:
        restart.end()
        summary["snapshot"] = restart.as_dict(cold)
    run = run_of(summary)
    table += _table(run, options)
    if args.json is not None:
        text = msgspec.json.format(msgspec.json.encode(summary), indent=2) + b"\n"
        if "json" in files:
            files["json"].write(text)
        else:
            _write_bytes(text)
    if "report" in files:
        write_report(files["report"], run)


def _orders(args: argparse.Namespace, replayer: Replayer, first: Order) -> list[Order]:
    """Replay on the other pools, and with the other orders of eviction, that the command names."""
    names, sizes = names_of(args.eviction), list(dict.fromkeys([args.num_blocks, *args.sweep_blocks]))
    if len(names) == 1:
        return [first, *(outcome_of(_run(replayer, size, None)) for size in sizes[1:])]
    trace = replayer.trace
    num_replays = sum(name in EVICTIONS for name in names) * len(sizes) - 1
    with tqdm(total=num_replays * len(trace), unit="request", desc="orders of eviction", disable=None) as bar:
        return compare(trace, replayer.options, names, sizes, [first], bar.update)


def _summary(args: argparse.Namespace, trace: Trace, result: ReplayResult, orders: list[Order]) -> dict[str, Any]:
    """Return what the JSON says."""
    rate_of = {order.num_blocks: order.hit_rate for order in orders if order.eviction == result.eviction}
    return {
        **result.as_dict(),
        "trace": trace.name,
        "policy": args.policy,
        "bad_lines": trace.bad_lines,
        "git": _git_revision(),
        "settings": changed(args),
        "sweep": [{"num_blocks": size, "hit_rate": rate_of[size]} for size in args.sweep_blocks],
        "orders_of_eviction": [msgspec.to_builtins(order) for order in orders],
        "over_time": over_time(result),
        "quantiles": quantiles(result),
    }


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
