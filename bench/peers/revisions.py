"""What a change costs: benchmarks of one revision of kvgpu beside earlier ones, which take turns.

    python bench/peers/revisions.py OLD [OLDER ...] [--new HEAD] [--pairs 7] [--benchmarks "calls --requests 300;steps"]

Each revision is taken from git and built in a folder of its own below build/revisions. In each round every benchmark
runs once per revision, and once more for OLD: how OLD differs from itself says what the machine can tell apart. A
benchmark checks its own results, and gives no time without; options that a revision lacks are left out there. The first
round compiles, and does not count.
A ratio is the time of an earlier revision / that of the new one, the median of those of the rounds. The goal: at most
1.03 times the time of OLD, or its spread beside itself (the 80th percentile of how far it is off 1) where that is
larger; calls that take OLD less than 2 us may take 0.1 us more. Rows that OLDER revisions lack are left out.
Exit status: 0 all goals met, 1 a goal missed, 2 a revision or a benchmark fails.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT), str(HERE.parent)]

import numpy as np  # noqa: E402
from harness import QUANTILES, Row, benchmark_options, finish  # noqa: E402
from tqdm import tqdm  # noqa: E402

BENCHMARKS = (
    "calls --requests 300 --rounds 5;"
    "steps --requests 300 --rounds 3 --age 20000 --most 1024;"
    "queues --requests 300 --rounds 3"
)
MOST = 1.03
"""Times the cost of OLD."""
SHORT_US, MOST_MORE_US = 2.0, 0.1
"""Below so many us a call may take so much more, rather than so many times as long."""
UNITS_OF_CALLS = ("us/call", "us/request")
AGAIN = "again"

Name = tuple[str, str, str]
"""Metric, case and unit of a row."""


class Side(NamedTuple):
    """A revision: how it was named, its short hash, and where it lies."""

    name: str
    commit: str
    tree: Path


def made_tree(revision: str, repository: Path = ROOT) -> Side:
    """Take a revision from git and build it.

    Raises:
        ImportError: git does not know it, or it cannot be built.
    """
    try:
        words = ["git", "-C", str(repository), "rev-parse", "--short", "--verify", "--quiet", f"{revision}^{{commit}}"]
        commit = subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
        tree = repository / "build" / "revisions" / commit
        done = tree / ".built"
        if not done.exists():
            tree.mkdir(parents=True, exist_ok=True)
            archive = subprocess.run(["git", "-C", str(repository), "archive", commit], capture_output=True, check=True)
            subprocess.run(["tar", "-x", "-C", str(tree)], input=archive.stdout, check=True)
            build = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
            subprocess.run(build, cwd=tree, capture_output=True, check=True)
            done.touch()
    except (OSError, subprocess.CalledProcessError) as error:
        raise ImportError(f"revision {revision} cannot be made: {error}") from None
    return Side(revision, commit, tree)


def command_of(side: Side, benchmark: str) -> list[str]:
    """The command of a benchmark in a revision, without options that it does not have there; empty if it is missing."""
    name, *words = benchmark.split()
    command = [sys.executable, str(side.tree / "bench" / f"{name}.py")]
    if not Path(command[1]).exists():
        return []
    known = subprocess.run([*command, "--help"], capture_output=True, text=True, check=False, cwd=side.tree).stdout
    for option, value in zip(words[::2], words[1::2], strict=True):
        command += [option, value] if f"{option} " in known else []
    return command


def run(side: Side, command: list[str]) -> dict[Name, float]:
    """Figures in units of time of one run of a benchmark, whose exit status says whether its results are right.

    Raises:
        AssertionError: Its results are wrong, or it has no rows.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.json"
        once = [*command, "--data", folder, "--json", str(path)]
        done = subprocess.run(once, capture_output=True, text=True, check=False, cwd=side.tree)
        if done.returncode > 1 or not path.exists():
            raise AssertionError(f"{Path(command[1]).stem} of {side.commit}: {done.stderr.strip()[-1000:]}")
        rows = json.loads(path.read_text(encoding="utf-8"))
    timed = (row for row in rows if row["unit"].split("/")[0] in ("ns", "us", "ms", "s") and row["kvgpu"])
    return {(row["metric"], row["case"], row["unit"]): row["kvgpu"] for row in timed}


def row_of(name: Name, peer: str, new: list[float], old: list[float]) -> Row:
    """A row with the median of the ratios of the rounds, without a goal."""
    row = Row(*name, float(np.median(new)), float(np.median(old)), f"kvgpu {peer}")
    row.low, _, row.high = np.quantile(new, QUANTILES).tolist()
    row.peer_low, _, row.peer_high = np.quantile(old, QUANTILES).tolist()
    row.ratio_low, row.ratio_middle, row.ratio_high = np.quantile(np.divide(old, new), QUANTILES).tolist()
    return row


def held_against(row: Row, new: list[float], old: list[float], again: list[float]) -> Row:
    """The row beside OLD, with its goal."""
    spread = float(np.quantile(np.exp(np.abs(np.log(np.divide(again, old)))), 0.8))
    steps = re.search(r"(\d+) steps$", row.case)
    calls = int(steps[1]) if steps else 1
    if row.unit in UNITS_OF_CALLS and statistics.median(old) < SHORT_US * calls:
        more = statistics.median(np.subtract(new, old).tolist()) / calls
        row.goal, row.met = f"at most {MOST_MORE_US} us a call more", more <= MOST_MORE_US
        return row
    limit = max(MOST, spread)
    row.hold_against(1 / limit)
    row.goal = f">= {1 / limit:.3f}x (beside itself {spread:.3f})"
    return row


def rows_of(sides: list[Side], found: dict[str, dict[Name, list[float]]]) -> Iterator[Row]:
    """All rows: what each revision took in each round, by revision and name of a row.

    The first of `sides` is new, the second OLD, whose second run in each round is found by `AGAIN`.
    """
    new, old, *older = sides
    for name, times in found[new.commit].items():
        before, again = found[old.commit].get(name), found[AGAIN].get(name)
        if before is None or again is None:
            continue
        yield held_against(row_of(name, old.commit, times, before), times, before, again)
        for side in older:
            if (long_before := found[side.commit].get(name)) is not None:
                yield row_of(name, side.commit, times, long_before)


def measured(sides: list[Side], benchmarks: list[str], pairs: int) -> dict[str, dict[Name, list[float]]]:
    """What `rows_of` takes, of so many rounds."""
    found: dict[str, dict[Name, list[float]]] = defaultdict(lambda: defaultdict(list))
    turns = [*((side.commit, side) for side in sides), (AGAIN, sides[1])]
    commands = {(side, text): command_of(side, text) for side in sides for text in benchmarks}
    for (side, text), command in commands.items():
        if not command and side in sides[:2]:
            raise AssertionError(f"{side.commit} has no benchmark {text.split()[0]}")
    with tqdm(total=(pairs + 1) * len(benchmarks) * len(turns), disable=None, unit="run") as bar:
        for turn in range(pairs + 1):
            shift = turn % len(turns)
            for benchmark in benchmarks:
                for key, side in turns[shift:] + turns[:shift]:
                    bar.update()
                    command = commands[side, benchmark]
                    figures = run(side, command) if command else {}
                    for name, figure in figures.items() if turn else ():
                        found[key][name].append(figure)
    return found


def made(options: argparse.Namespace, repository: Path = ROOT) -> Iterator[Row]:
    """All rows.

    Raises:
        ImportError: A revision cannot be made.
        AssertionError: A benchmark fails.
    """
    sides = [made_tree(revision, repository) for revision in (options.new, options.old, *options.older)]
    benchmarks = options.benchmarks.split(";")
    yield from rows_of(sides, measured(sides, benchmarks, options.pairs))


def main() -> int:
    """Build, measure, print, save."""
    parser = benchmark_options(__doc__)
    add = parser.add_argument
    add("old", help="a revision for git: what the new one is held against")
    add("older", nargs="*", help="earlier ones, so that small steps do not add up unseen")
    add("--new", default="HEAD", help="the revision that is measured (%(default)s)")
    add("--pairs", type=int, default=7, help="rounds that count (%(default)s)")
    add("--benchmarks", default=BENCHMARKS, help="with pairs of option and value, and ; between (%(default)s)")
    options = parser.parse_args()
    if any(len(text.split()) % 2 == 0 for text in options.benchmarks.split(";")):
        parser.error("--benchmarks: a name, and pairs of option and value, are expected")
    return finish("revisions", made(options), options)


if __name__ == "__main__":
    sys.exit(main())
