"""A rehearsal runs the lines that a card will run, whatever goes wrong: none of them is new on a machine with a GPU."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import support.device.tables  # noqa: F401 - skips where no kernel can run
from support.rehearsal import programs

coverage = pytest.importorskip("coverage", reason="coverage is not installed: lines were not counted")

ROOT = Path(__file__).resolve().parents[2]
PREDICTIONS = "code.py", "rounds.py"
"""What expectations rest on, not run on a card."""
FILES = [
    ROOT / "bench" / "gpu.py",
    *(path for path in sorted((ROOT / "bench" / "on_gpu").rglob("*.py")) if path.name not in PREDICTIONS),
]
COMPILED = r"^@triton\.jit", r"^@kernel\("
"""Functions that Python does not run."""
LEAST, LEAST_OF_A_FILE = 95, 80
"""Per cent of the lines."""
DEADLINE = 45
"""Enough for a worker to start and to rehearse one block, of which nothing has to be compiled any more."""
SECONDS = 600
"""A rehearsal that takes longer hangs."""

CONFIGURATION = """[run]
parallel = true
data_file = {folder}/coverage
include =
    {root}/bench/gpu.py
    {root}/bench/on_gpu/*
"""

pytestmark = [
    pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed: no compiled kernel was run"),
    pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed: the CUDA twins were not rehearsed"),
]


class Rehearsal:
    """A rehearsal of compiled kernels in a folder of its own, whose lines are counted.

    installed: whether CuPy, ncu, compute-sanitizer and nvidia-smi are, or what stands for them.
    """

    def __init__(self, folder, *arguments, installed=True):
        self._out = folder / "out"
        folder.mkdir()
        paths = [folder, ROOT / "bench", ROOT / "tests"]
        code = "import sys\n\nimport coverage\n\ncoverage.process_startup()\n"
        (folder / "coverage.ini").write_text(CONFIGURATION.format(folder=folder.parent, root=ROOT))
        if installed:
            (folder / "cupy.py").write_text('"""Installed; the worker puts a stand-in in its place."""\n')
            programs.install(folder)
        else:
            code += "sys.modules['cupy'] = None\n"
        (folder / "sitecustomize.py").write_text(code)
        self._process = subprocess.Popen(
            [sys.executable, "bench/gpu.py", "--rehearse", "compiled", "--out", str(self._out), *arguments],
            cwd=ROOT,
            env=os.environ
            | {
                "PYTHONPATH": os.pathsep.join(map(str, paths)),
                "PATH": os.pathsep.join([str(folder), os.environ["PATH"]]),
                "COVERAGE_PROCESS_START": str(folder / "coverage.ini"),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait(self):
        """Until it has ended, and look at what it has written."""
        self.printed, self.errors = self._process.communicate(timeout=SECONDS)
        self.status = self._process.returncode
        self.records = [json.loads(line) for line in (self._out / "gpu.jsonl").read_text().splitlines()]
        self.rows = [record for record in self.records if "metric" in record]
        self.ended = {record["block"]: record for record in self.records if "status" in record}


@pytest.fixture(scope="module")
def rehearsals(tmp_path_factory):
    """Of everything; beside it one with faults, and behind that one with a deadline that passes."""
    folder = tmp_path_factory.mktemp("rehearsals")
    made = {
        "everything": Rehearsal(folder / "everything"),
        "faults": Rehearsal(
            folder / "faults", "--blocks", "support.rehearsal.faults", "--data", str(folder), installed=False
        ),
    }
    made["faults"].wait()
    arguments = ("--blocks", "support.rehearsal.deadline", "--deadline", str(DEADLINE))
    made["deadline"] = Rehearsal(folder / "deadline", *arguments)
    made["everything"].wait()
    made["deadline"].wait()
    return made


def counted(folder):
    """File -> number of its lines of code, and of those that ran."""
    count = coverage.Coverage(data_file=str(folder / "coverage"))
    count.combine([str(folder)], keep=True)
    for decorator in COMPILED:
        count.exclude(decorator)
    found = {}
    for file in FILES:
        _, lines, _, missing, _ = count.analysis2(str(file))
        found[file] = len(lines), len(lines) - len(missing)
    return found


def test_nearly_every_line_runs_in_a_rehearsal(rehearsals, tmp_path_factory):
    folder = rehearsals["everything"]._out.parents[1]
    lines = counted(folder)
    low = {
        file.relative_to(ROOT).as_posix(): f"{ran} of {every}"
        for file, (every, ran) in lines.items()
        if 100 * ran < LEAST_OF_A_FILE * every
    }
    share = 100 * sum(ran for _, ran in lines.values()) / sum(every for every, _ in lines.values())
    print(f"{share:.1f} % of the lines ran")
    assert low == {}
    assert share >= LEAST, {file.name: every - ran for file, (every, ran) in lines.items()}


def test_everything_is_rehearsed_where_all_is_installed(rehearsals):
    rehearsal = rehearsals["everything"]
    assert rehearsal.status == 0, rehearsal.errors
    assert {record["status"] for record in rehearsal.ended.values()} == {"done", "passed"}
    assert not [record for record in rehearsal.records if "error" in record]
    metrics = {row["metric"] for row in rehearsal.rows}
    assert {"longest prefix, cuda, graph", "match_async, triton, graph from idle"} < metrics
    peers = {row["peer_name"] for row in rehearsal.rows}
    assert {"2 random lines", "1 random compare-and-swap"} < peers
    profiled = {record["kernel"] for record in rehearsal.records if "kernel" in record}
    assert any(name.startswith("find") for name in profiled)
    assert any(name.startswith("update") or "update" in name for name in profiled)


def test_every_row_says_where_it_comes_from(rehearsals):
    for row in rehearsals["everything"].rows:
        assert row["device"] == "kernels compiled for sm_90, run on the CPU"
        assert "driver 580.95.05" in row["machine"]
        assert "triton" in row["versions"]
        assert row["clocks"] == "SM 1980 MHz of 1980 MHz, memory 3201 MHz of 3201 MHz"
        assert {"run", "time", "revision", "checked"} <= row.keys()


def test_no_figure_of_a_rehearsal_is_printed_or_written(rehearsals):
    for rehearsal in rehearsals.values():
        assert all(row["kvgpu"] is row["peer"] is row["met"] is None for row in rehearsal.rows)
        assert not (rehearsal._out.parents[1] / "gpu.csv").exists()
        without_goals = re.sub(r"<= \S+ \S+$", "", rehearsal.printed, flags=re.M)
        assert not re.search(r"\d (?:ns|us)\b|(?:met|MISSED)$", without_goals, re.M)


def test_the_goals_are_printed_last_and_briefly(rehearsals):
    printed = rehearsals["everything"].printed.splitlines()
    end = printed[next(i for i, line in enumerate(printed) if " s in all; rows are in" in line) :]
    assert len(end) <= 60
    goals = end[next(i for i, line in enumerate(end) if line.startswith("goals:")) :]
    for metric, goal in {
        "find, triton": "<= 0.0333333 ns/key",
        "find, cuda": ">= 0.75x",
        "update, triton": ">= 0.5x",
        "longest prefix, triton, graph": "<= 8 us",
        "match from Python, cuda": "<= 25 us",
        "hash, kvgpu128": ">= 0.5x",
        "hash, sha256": ">= 100x",
    }.items():
        assert any(line.startswith(metric) and line.endswith(goal) for line in goals), metric


def test_what_fails_is_a_record_and_everything_else_is_measured(rehearsals):
    rehearsal = rehearsals["faults"]
    assert rehearsal.status == 2
    failed = {name: record["error"] for name, record in rehearsal.ended.items() if record["status"] == "failed"}
    assert {name: error.split(":")[0] for name, error in failed.items()} == {
        "without numba": "ModuleNotFoundError",
        "out of memory": "OutOfMemoryError",
        "hangs": "TimeoutError",
        "crashes": "RuntimeError",
        "loses device": "RuntimeError",
        "waits": "AssertionError",
        "finds something": "AssertionError",
        "hangs, too": "TimeoutError",
        "does not start": "FileNotFoundError",
    }, rehearsal.errors
    left_out = {name: r["left_out"] for name, r in rehearsal.ended.items() if r["status"] == "left out"}
    assert {name: why for name, why in left_out.items() if "cupy" in why.lower()}.keys() >= {
        "ceilings",
        "finds with goals, cuda",
    }
    assert left_out.keys() == {
        "ceilings",
        "finds with goals, cuda",
        "profile, cuda",
        "compute-sanitizer memcheck, cuda",
    }
    blocks = {row["block"] for row in rehearsal.rows}
    real = {"finds with goals, triton", "prefixes with goals, triton", "updates, triton", "kvgpu128"}
    assert {*real, "out of memory", "no figure"} == blocks
    assert [r["error"] for r in rehearsal.records if r["block"] == "no figure" and "error" in r] == [
        "nothing, timed: nan us is no figure"
    ]


def test_a_rehearsal_that_is_stopped_finishes_its_row(rehearsals):
    rehearsal = rehearsals["faults"]
    said = [record["says"] for record in rehearsal.records if record["block"] == "is stopped" and "says" in record]
    assert said == ["before it is stopped", "behind it"]
    for name in ("is stopped", "sha256"):
        assert rehearsal.ended[name]["status"] == "cut off"
        assert "SIGTERM" in rehearsal.ended[name]["error"]


def test_what_was_measured_before_the_deadline_is_kept(rehearsals):
    rehearsal = rehearsals["deadline"]
    assert rehearsal.ended.pop("prefixes with goals, triton")["status"] == "done", rehearsal.errors
    assert {name: record["status"] for name, record in rehearsal.ended.items()} == dict.fromkeys(
        ("hangs", "hangs, too", "kvgpu128", "comes too late"), "cut off"
    )
    assert {row["block"] for row in rehearsal.rows} == {"prefixes with goals, triton"}
    assert rehearsal.status == 2, "a check was cut off"
