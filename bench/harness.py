"""What every benchmark shares: rows in CSV files, the machine they were measured on, and tables.

A script checks its results, makes rows of what it has timed, and ends with `finish`.
"""

import argparse
import csv
import datetime
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

DATA = Path(__file__).resolve().parent / "data"
PACKAGES = ("numpy", "numba", "torch", "triton", "cupy-cuda13x", "cupy-cuda12x", "vllm", "sglang")


@dataclass
class Row:
    """One figure: what was measured, beside what, and the goal it is held against.

    Ratios are peer time / kvgpu time: above 1 kvgpu is faster. The peer may be another project, or what the
    hardware allows.
    """

    metric: str
    case: str
    unit: str
    kvgpu: float
    peer: float | None = None
    peer_name: str = ""
    goal: str = ""
    met: bool | None = None
    low: float | None = None
    high: float | None = None
    """20th and 80th percentile of `kvgpu` over the repetitions; the same follows for peer and ratio."""
    peer_low: float | None = None
    peer_high: float | None = None
    ratio_low: float | None = None
    ratio_middle: float | None = None
    """Median of the ratios round by round, where both sides took turns."""
    ratio_high: float | None = None
    device: str = ""
    """Name of the GPU, where one gave the figure."""
    checked: str = ""
    """What had been checked on it."""

    @property
    def key(self) -> tuple[str, ...]:
        """What a row replaces in a file: the one with the same."""
        return self.metric, self.case, self.peer_name, self.device

    @property
    def ratio(self) -> float | None:
        if self.ratio_middle is not None:
            return self.ratio_middle
        return None if self.peer is None else self.peer / self.kvgpu

    def hold_against(self, goal: float) -> "Row":
        """Set a goal: at least this ratio. Without a peer there is none."""
        if self.ratio is not None:
            self.goal, self.met = f">= {goal:g}x", bool(self.ratio >= goal)
        return self

    def stay_below(self, goal: float) -> "Row":
        """Set a goal: at most this figure."""
        self.goal, self.met = f"<= {goal:g} {self.unit}", bool(self.kvgpu <= goal)
        return self


QUANTILES = (0.2, 0.5, 0.8)
EXIT_WRONG = 2


def compared(
    metric: str,
    case: str,
    unit: str,
    times: Sequence[float],
    peer: Sequence[float] = (),
    peer_name: str = "",
    goal: float | None = None,
) -> Row:
    """Medians of both sides, which took turns, and of their ratio, with 20th and 80th percentiles."""
    low, middle, high = np.quantile(times, QUANTILES).tolist()
    row = Row(metric, case, unit, middle, low=low, high=high)
    if len(peer):
        row = Row(metric, case, unit, middle, peer_name=peer_name, low=low, high=high)
        row.peer_low, row.peer, row.peer_high = np.quantile(peer, QUANTILES).tolist()
        ratios = np.quantile(np.divide(peer, times), QUANTILES)
        row.ratio_low, row.ratio_middle, row.ratio_high = ratios.tolist()
    return row if goal is None else row.hold_against(goal)


def beside_limit(row: Row, limit: float, name: str) -> Row:
    """The same figure beside what the hardware allows."""
    return Row(row.metric, row.case, row.unit, row.kvgpu, limit, f"limit: {name}", low=row.low, high=row.high)


def machine() -> str:
    """CPU model and cores, in words."""
    model = platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    return f"{model}, {os.cpu_count()} cores"


def versions() -> str:
    """Python and the packages that matter, those that are installed."""
    found = [f"python {platform.python_version()}"]
    for name in PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


def revision() -> str:
    """Git revision of this checkout; `unknown` where git or its folder is missing."""
    try:
        done = subprocess.run(
            ["git", "-C", str(DATA.parent), "describe", "--always", "--dirty", "--exclude=*"],
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:
        return "unknown"
    return done.stdout.strip() or "unknown"


def command(name: str) -> str:
    """The command line that gave the figures: paths are shortened to their names, those of results left out."""
    words = list(sys.argv[1:])
    for option in ("--data", "--json", "--out"):
        if option in words:
            del words[words.index(option) : words.index(option) + 2]
    short = [Path(word).name if "/" in word else word for word in words]
    script, root = Path(sys.argv[0]).resolve(), DATA.parents[1]
    started = script.relative_to(root) if script.is_relative_to(DATA.parent) else f"bench/{name}.py"
    return " ".join(["python", str(started), *short])


NUMBERS = ["kvgpu", "low", "high", "peer", "peer_low", "peer_high", "ratio", "ratio_low", "ratio_high"]
FIELDS = [
    "metric",
    "case",
    "peer_name",
    "unit",
    *NUMBERS,
    "goal",
    "met",
    "machine",
    "versions",
    "revision",
    "date",
    "command",
]
DEVICE_FIELDS = ["device", "checked"]
"""More columns of rows of a GPU."""


def save(rows: Iterable[Row], path: Path, machine_words: str | None = None, revision_words: str = "") -> None:
    """Insert rows into a CSV file, or replace those with the same metric, case, peer and device."""
    rows = list(rows)
    fields = [*FIELDS, *(DEVICE_FIELDS if any(row.device for row in rows) else [])]
    path.parent.mkdir(parents=True, exist_ok=True)
    kept: dict[tuple[str, ...], dict[str, object]] = {}
    if path.exists():
        with path.open(newline="") as file:
            for old in csv.DictReader(file):
                key = old["metric"], old["case"], old["peer_name"], old.get("device", "")
                kept[key] = dict(old)
    common = {
        "machine": machine_words or machine(),
        "versions": versions(),
        "revision": revision_words or revision(),
        "date": datetime.date.today().isoformat(),
        "command": command(path.stem),
    }
    for row in rows:
        kept[row.key] = {name: getattr(row, name, None) for name in fields} | common
        for number in NUMBERS:
            value = getattr(row, number)
            kept[row.key][number] = "" if value is None else f"{value:.5g}"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fields, lineterminator="\n")
        writer.writeheader()
        writer.writerows(kept.values())


def table(rows: Sequence[Row]) -> str:
    """Rows as text, the goal beside each figure; rows of a rehearsal have none."""
    lines = [("", "kvgpu", "peer", "ratio", "goal", "")]
    lines += [
        (
            f"{row.metric}, {row.case}",
            "" if row.kvgpu is None else f"{row.kvgpu:.4g} {row.unit}",
            "" if row.peer is None else f"{row.peer:.4g} {row.peer_name}",
            "" if row.ratio is None else f"{row.ratio:.2f}x",
            row.goal,
            "" if row.met is None else "met" if row.met else "MISSED",
        )
        for row in rows
    ]
    widths = [max(len(line[column]) for line in lines) for column in range(6)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def benchmark_options(doc: str | None, rounds: int | None = None) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    if rounds is not None:
        parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--json", type=Path, help="write the rows as JSON ('-': standard output)")
    parser.add_argument("--data", type=Path, default=DATA, help="where the CSV files are")
    return parser


def finish(name: str, made: Iterable[Row], options: argparse.Namespace, machine_words: str | None = None) -> int:
    """Make all rows, print the table, save them, write them as JSON if asked to ('-': standard output).

    Args:
        made: Raises an AssertionError where an answer is wrong, an ImportError where a peer is missing; nothing is
            printed or saved then.

    Returns:
        The exit status: 1 if a goal is missed, 2 if there are no rows.
    """
    try:
        rows = list(made)
    except (AssertionError, ImportError) as error:
        print(f"nothing is printed: {error}", file=sys.stderr)
        return EXIT_WRONG
    to_stdout = str(options.json) == "-"
    print(table(rows), file=sys.stderr if to_stdout else sys.stdout)
    save(rows, options.data / f"{name}.csv", machine_words)
    if options.json is not None:
        # numpy's numbers and truth values are none of JSON's.
        text = json.dumps([asdict(row) for row in rows], indent=1, default=lambda x: x.item())
        print(text) if to_stdout else options.json.write_text(text)
    return 1 if any(row.met is not None and not row.met for row in rows) else 0
