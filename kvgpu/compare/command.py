"""`kvgpu compare`: runs of `kvgpu replay --json` side by side."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from kvgpu.console.output_file import output_file, place_of
from kvgpu.console.printable import say
from kvgpu.errors import ConfigError
from kvgpu.report.document import read_run
from kvgpu.report.page import write_comparison
from kvgpu.report.rows import aligned, changed_settings, side_by_side
from kvgpu.report.sentences import differences


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command to its parser."""
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="what `kvgpu replay --json` wrote, two or more"
    )
    parser.add_argument("--report", type=Path, help="write a page of HTML")


def run_command(args: argparse.Namespace) -> int:
    """Run the command; return the exit status.

    Raises:
        ConfigError: A file is not the JSON of a replay, there are fewer than two, or the page would overwrite one.
        OSError: A file cannot be read or written.
    """
    if len(args.runs) < 2:
        raise ConfigError("a comparison needs two runs, or more")
    if args.report is not None and place_of(args.report) in map(place_of, args.runs):
        raise ConfigError(f"--report would overwrite a run: {args.report}")
    runs = [read_run(path) for path in args.runs]
    names = _names(args.runs)
    if args.report is not None:
        with output_file(args.report) as file:
            write_comparison(file, runs, names)
    rows = [("", *names), *side_by_side(runs), *changed_settings(runs)]
    for line in [*aligned(rows), "", *differences(runs, names)]:
        say(line.rstrip(), sys.stdout)
    if args.report is not None:
        say(f"report: {args.report}", sys.stdout)
    return 0


def _names(paths: Sequence[Path]) -> list[str]:
    """Return names that differ: without endings and folders, if that is enough; else numbered."""
    for names in ([path.stem for path in paths], [str(path) for path in paths]):
        if len(set(names)) == len(names):
            return names
    return [f"{path} ({number})" for number, path in enumerate(paths, 1)]
