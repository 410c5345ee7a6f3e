"""The benchmark for machines with a GPU: rehearsed on the CPU, without packages that such a machine lacks."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import support.device.tables  # noqa: F401 - skips where no kernel can run
from support.benchmarks import bench_module

ROOT = Path(__file__).resolve().parents[2]
COMPILERS = ("g++", "as", "ld")
"""What a rehearsal with compiled kernels starts."""

BLOCKED = """
import sys


class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {names!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)


sys.meta_path.insert(0, Blocker())
"""

PLANTED = """
from on_gpu.blocks import *
from on_gpu.blocks import GOAL_FINDS, GOAL_PREFIXES, HASHES, UPDATES


def wrong_finds(sizes):
    from on_gpu import table
    from kvgpu.kernels import triton_engine

    right = triton_engine.launch_find
    triton_engine.launch_find = lambda table, keys, groups, ids: ids.fill_(0)
    try:
        yield from table.goal_finds("triton", sizes)
    finally:
        triton_engine.launch_find = right


STEPS = [
    Step([
        Block("wrong finds", "planted:wrong_finds"), GOAL_PREFIXES[0], GOAL_FINDS[1], UPDATES[1], HASHES[1],
    ])
]
"""


def rehearsal_module():
    return bench_module("on_gpu.rehearsal")


def rehearse(out, *arguments, **environment):
    done = subprocess.run(
        [sys.executable, "bench/gpu.py", "--rehearse", "--out", str(out), *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
        env=environment,
    )
    lines = (out / "gpu.jsonl").read_text().splitlines()
    return done, [json.loads(line) for line in lines]


def skip_without_twins():
    """Skip a test in which the CUDA twins run on the CPU."""
    compiler = "nvcc" if rehearsal_module().usual_mode() == "compiled" else "g++"
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed: the CUDA twins were not rehearsed")


def ended(records):
    """Block -> how it went."""
    return {record["block"]: record["status"] for record in records if "status" in record}


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory):
    """A rehearsal without cbor2 and msgspec, and with no program of a GPU's on its path."""
    folder = tmp_path_factory.mktemp("rehearsal")
    for name in COMPILERS:
        if (program := shutil.which(name)) is not None:
            (folder / name).symlink_to(program)
    (folder / "sitecustomize.py").write_text(BLOCKED.format(names=("cbor2", "msgspec", "cupy")))
    home = {"HOME": str(Path.home()), "PYTHONHASHSEED": "7"}
    return rehearse(folder / "out", PYTHONPATH=str(folder), PATH=str(folder), **home)


def test_a_rehearsal_runs_everything_that_needs_no_gpu(rehearsal):
    done, records = rehearsal
    assert done.returncode == 0, done.stderr
    statuses = ended(records)
    assert set(statuses.values()) == {"done", "passed", "left out"}
    names_of_steps = [
        sys.executable,
        "-c",
        (
            "import sys; sys.path.insert(0, 'bench'); import on_gpu.blocks as b;"
            "print([x.name for s in b.STEPS for x in (*s.blocks, *s.tools)])"
        ),
    ]
    named = subprocess.run(names_of_steps, capture_output=True, text=True, cwd=ROOT, check=True)
    assert statuses.keys() == set(eval(named.stdout))
    for name in ("finds with goals", "updates", "prefixes with goals", "matches with goals"):
        assert statuses[f"{name}, triton"] == "done"
    for name in ("self-test, triton", "contended updates, triton", "tests on the device"):
        assert statuses[name] == "passed"


def test_no_speed_of_a_rehearsal_is_printed_or_written(rehearsal):
    done, records = rehearsal
    assert "rehearsed" in done.stdout
    without_goals = re.sub(r"<= \S+ \S+$", "", done.stdout, flags=re.M)
    assert not re.search(r"\d (?:ns|us)\b", without_goals)
    rows = [record for record in records if "metric" in record]
    assert len(rows) > 15
    assert all(row["kvgpu"] is None and row["met"] is None for row in rows)


def test_what_is_missing_is_named(rehearsal):
    _, records = rehearsal
    reasons = {record["block"]: record.get("left_out") for record in records}
    assert reasons["sha256"] == "CuPy is not installed"
    assert reasons["profile, triton"] == "ncu is not installed"
    assert reasons["compute-sanitizer memcheck, triton"] == "compute-sanitizer is not installed"
    assert {record["revision"] for record in records} == {"unknown"}


def test_every_record_says_where_it_comes_from(rehearsal):
    _, records = rehearsal
    late = records[-1]
    assert {"run", "device", "machine", "versions", "revision", "time", "checked"} <= late.keys()
    assert "self-test, triton" in late["checked"]
    first = next(record for record in records if record.get("metric", "").startswith("find"))
    assert first["checked"] == ["self-test, triton"]


def test_wrong_answers_have_no_row_and_the_next_block_runs(tmp_path):
    skip_without_twins()
    (tmp_path / "planted.py").write_text(PLANTED)
    (tmp_path / "cupy.py").write_text('"""Installed; the worker puts a stand-in in its place."""\n')
    path = os.pathsep.join([str(tmp_path), str(ROOT / "bench"), str(ROOT / "tests"), str(ROOT)])
    done, records = rehearse(tmp_path / "out", "--blocks", "planted", **os.environ | {"PYTHONPATH": path})
    assert done.returncode == 2
    statuses = ended(records)
    assert statuses.pop("wrong finds") == "failed", done.stderr
    assert set(statuses.values()) == {"done"}, done.stderr
    assert not [r for r in records if r["block"] == "wrong finds" and "metric" in r]
    (error,) = [r["error"] for r in records if "error" in r]
    assert "wrong answers" in error
