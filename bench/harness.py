"""What every benchmark shares: rows in CSV files, the machine they were measured on, and tables."""

import csv
import datetime
import json
import os
import platform
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

DATA = Path(__file__).resolve().parent / "data"
PACKAGES = ("numpy", "numba", "torch", "triton", "cupy-cuda13x", "cupy-cuda12x", "vllm", "sglang")


@dataclass
class Row:
    """One figure: what was measured, beside what, and the goal it is held against.

    Ratios are peer time / kvgpu time: above 1 kvgpu is faster.
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
    """20th and 80th percentile of `kvgpu` over the repetitions."""

    key: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.key = (self.metric, self.case, self.peer_name)

    @property
    def ratio(self) -> float | None:
        return None if self.peer is None else self.peer / self.kvgpu


def at_least(ratio: float | None, goal: float) -> tuple[str, bool]:
    """Goal text, and whether it is met."""
    return f">= {goal:g}x", bool(ratio is not None and ratio >= goal)


def compared(
    metric: str, case: str, unit: str, times: Sequence[float], peer: Sequence[float] = (),
    peer_name: str = "", goal: float | None = None,
) -> Row:  # fmt: skip
    """Medians of both sides, with the 20th and 80th percentile of kvgpu's; the goal is a ratio."""
    low, middle, high = np.quantile(times, (0.2, 0.5, 0.8)).tolist()
    beside = float(np.median(peer)) if len(peer) else None
    row = Row(
        metric, case, unit, middle, beside, peer_name if len(peer) else "", low=low, high=high
    )
    if goal is not None:
        row.goal, row.met = at_least(row.ratio, goal)
    return row


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
    """Git revision of this checkout."""
    done = subprocess.run(
        ["git", "-C", str(DATA.parent), "describe", "--always", "--dirty", "--exclude=*"],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or "unknown"


FIELDS = [
    "metric",
    "case",
    "peer_name",
    "unit",
    "kvgpu",
    "low",
    "high",
    "peer",
    "ratio",
    "goal",
    "met",
    "machine",
    "versions",
    "revision",
    "date",
]


def save(
    name: str, rows: Iterable[Row], path: Path | None = None, machine_words: str | None = None
) -> Path:
    """Insert rows into `data/NAME.csv`, or replace those with the same metric, case and peer."""
    path = path or DATA / f"{name}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    kept: dict[tuple[str, ...], dict[str, object]] = {}
    if path.exists():
        with path.open(newline="") as file:
            for old in csv.DictReader(file):
                kept[old["metric"], old["case"], old["peer_name"]] = dict(old)
    common = {
        "machine": machine_words or machine(),
        "versions": versions(),
        "revision": revision(),
        "date": datetime.date.today().isoformat(),
    }
    for row in rows:
        kept[row.key] = {name: getattr(row, name, None) for name in FIELDS} | common
        for number in ("kvgpu", "low", "high", "peer", "ratio"):
            value = getattr(row, number)
            kept[row.key][number] = "" if value is None else f"{value:.5g}"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(kept.values())
    return path


def table(rows: Sequence[Row]) -> str:
    """Rows as text, the goal beside each figure."""
    lines = [("", "kvgpu", "peer", "ratio", "goal", "")]
    lines += [
        (
            f"{row.metric}, {row.case}",
            f"{row.kvgpu:.4g} {row.unit}",
            "" if row.peer is None else f"{row.peer:.4g} {row.peer_name}",
            "" if row.ratio is None else f"{row.ratio:.2f}x",
            row.goal,
            "" if row.met is None else "met" if row.met else "MISSED",
        )
        for row in rows
    ]
    widths = [max(len(line[column]) for line in lines) for column in range(6)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def finish(
    name: str, rows: Sequence[Row], json_path: Path | None, machine_words: str | None = None
) -> int:
    """Print the table, save the rows, write them as JSON if asked to ('-': standard output).

    Returns:
        The exit status: 1 if a goal is missed.
    """
    print(table(rows))
    save(name, rows, machine_words=machine_words)
    if json_path is not None:
        # numpy's numbers and truth values are none of JSON's.
        text = json.dumps([asdict(row) for row in rows], indent=1, default=lambda x: x.item())
        print(text) if str(json_path) == "-" else json_path.write_text(text)
    return 1 if any(row.met is not None and not row.met for row in rows) else 0
