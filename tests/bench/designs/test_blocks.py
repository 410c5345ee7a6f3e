"""Designs as a block of the GPU's benchmark: rehearsed with compiled kernels, and one that is wrong."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.benchmarks import bench_module
from support.device.tables import torch

ROOT = Path(__file__).resolve().parents[3]

REHEARSED = """
from on_gpu.blocks import *


def twins(sizes):
    from support.device.tables import why_not_cuda

    reason = why_not_cuda()
    assert reason is None, reason
    yield "the CUDA twins can run"


STEPS = [Step([Block("twins", "rehearsed:twins"), *DESIGNS])]
"""


@pytest.fixture
def finds():
    return bench_module("on_gpu.designs.finds")


@pytest.fixture
def untimed(monkeypatch, finds):
    """Without a GPU: designs are started, and no time is taken."""

    def started(start, rounds):
        start()
        return np.full(3, np.nan)

    monkeypatch.setattr(finds, "seconds", started)


@pytest.fixture
def sizes():
    return bench_module("on_gpu.sizes").SMALL


@pytest.mark.skipif(
    None in (shutil.which("nvcc"), shutil.which("g++")), reason="nvcc or g++ is not installed: nothing was rehearsed"
)
def test_a_rehearsal_runs_every_design_in_every_case(tmp_path, finds, sizes):
    (tmp_path / "rehearsed.py").write_text(REHEARSED)
    path = os.pathsep.join([str(tmp_path), str(ROOT / "bench"), str(ROOT / "tests"), str(ROOT)])
    command = [sys.executable, "bench/gpu.py", "--rehearse", "compiled", "--blocks", "rehearsed"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
        env=os.environ | {"PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in (tmp_path / "gpu.jsonl").read_text().splitlines()]
    assert [record["says"] for record in records if "says" in record] == ["the CUDA twins can run"]
    measured = {(record["metric"], record["case"]) for record in records if "metric" in record}
    assert measured == {
        (f"find, {design.name}, {engine}", str(case))
        for engine, designs in finds.DESIGNS.items()
        for design in designs
        for case in sizes.designs
    }


def test_a_design_that_fails_is_a_row_and_the_next_one_is_timed(monkeypatch, finds, untimed, sizes):
    def broken(table, keys, groups, ids):
        raise RuntimeError("no such instruction")

    wrong = finds.Design("wrong", lambda table, keys, groups, ids: ids.fill_(0))
    right = finds.Design("right", finds.launch_find)
    monkeypatch.setitem(finds.DESIGNS, "triton", (wrong, finds.Design("broken", broken), right))
    sizes = replace(sizes, designs=sizes.designs[:1])
    rows = list(finds.designs("triton", sizes))
    case = sizes.designs[0]
    assert rows[:2] == [
        f"find, wrong, triton: failed, {case}: AssertionError: wrong answers",
        f"find, broken, triton: failed, {case}: RuntimeError: no such instruction",
    ]
    assert rows[2].metric == "find, right, triton"
    assert rows[2].peer_name == "find, triton"


def test_a_table_that_the_cache_cannot_hold_has_no_window(monkeypatch, finds, untimed, sizes):
    monkeypatch.setattr(finds, "MOST_BYTES", 0)
    metrics = {row.metric for row in finds.designs("triton", sizes)}
    assert "find, cache hints, triton" in metrics
    assert "find, persisting window, triton" not in metrics


def test_a_copy_in_one_piece_is_the_same_table(finds):
    table, keys = finds.filled(bench_module("axes").Find(64, 48), "triton")
    view, piece = finds.in_one_piece(table.view)
    assert piece.nbytes == view.words.nbytes + view.records.nbytes
    assert piece.data_ptr() == view.words.data_ptr()
    assert torch.equal(view.words, table.view.words)
    assert torch.equal(view.records, table.view.records)
    assert view.records.data_ptr() % 64 == piece.data_ptr() % 64
    assert keys.shape == (64, 4)
