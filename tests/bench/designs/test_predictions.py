"""What predictions of designs rest on: code that the compilers make without a GPU, and a simulation of the table."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.benchmarks import bench_module
from support.device.tables import make_table, random_keys, torch
from support.slot_hashes import mixed

from kvgpu.layout import OVERFLOW_FULL, OVERFLOW_SHIFT

ROOT = Path(__file__).resolve().parents[3]
NVCC = shutil.which("nvcc")
LINE = re.compile(
    r"(.+?)  +(\d+) bytes +(\d+) registers +(\d+) B stack +(\d+) instructions for (\d+) keys +([\d,]+) keys"
)

cooperative = bench_module("on_gpu.designs.cooperative")
persistent_lanes = bench_module("on_gpu.designs.persistent_lanes")
rounds = bench_module("on_gpu.designs.rounds")


@pytest.fixture(scope="module")
def code():
    """(design, bytes of a key) -> registers, bytes of the stack, instructions, keys of a warp, keys in flight."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "bench/on_gpu/designs/code.py"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    lines = [LINE.match(line) for line in done.stdout.splitlines()]
    return {(line[1], int(line[2])): [int(text.replace(",", "")) for text in line.groups()[2:]] for line in lines}


needs_nvcc = pytest.mark.skipif(NVCC is None, reason="nvcc is not installed: designs in CUDA were not compiled")


@needs_nvcc
def test_no_design_spills(code):
    assert len(code) == 10
    assert {design: stack for design, (_, stack, *_) in code.items() if stack} == {}


@needs_nvcc
@pytest.mark.parametrize("key_bytes", [16, 32])
def test_a_persistent_grid_is_as_large_as_what_runs_at_once(code, key_bytes):
    *_, in_turn = code["lanes in turn", key_bytes]
    *_, together = code["lanes together", key_bytes]
    assert in_turn == persistent_lanes.PROGRAMS * 32
    assert together == cooperative.BLOCKS * cooperative.THREADS


@needs_nvcc
@pytest.mark.parametrize("target", [80, 90, 100, 120])
def test_the_design_in_cuda_compiles_without_warnings(tmp_path, target):
    command = [NVCC, *cooperative.options(), f"-arch=sm_{target}", "-Werror", "all-warnings", "-cubin"]
    done = subprocess.run(
        [*command, "-o", str(tmp_path / "out.cubin"), str(cooperative.SOURCE)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("load", [0.5, 0.8])
def test_the_simulation_reads_as_many_buckets_as_lookups_of_a_table(load):
    count = 4_000
    table, keys = make_table(count, 16, load_factor=load, seed=7), random_keys(2 * count, 16)
    table.update_async(keys[:count], torch.arange(count, dtype=torch.int32, device=table.device), validate=False)
    words = table.view.words.cpu().numpy().view(np.uint64)
    reads = []
    for key in keys.tolist():
        h = mixed(table.view.seed, [*key, 0, 0], 0)
        bucket, tag, field = (h >> 32) * len(words) >> 32, h % 2**32, OVERFLOW_FULL << 8 * (h >> OVERFLOW_SHIFT & 7)
        reads.append(1)
        while tag not in (words[bucket, :7] >> 32) and int(words[bucket, 7]) & field:
            bucket = (bucket + 1) % len(words)
            reads[-1] += 1
    simulated = [rounds.lookups(load, len(words), seed) for seed in range(50)]
    for kind, measured in (("hit", reads[:count]), ("miss", reads[count:])):
        means = [lookups[kind].mean() for lookups in simulated]
        assert min(means) <= np.mean(measured) <= max(means)


def test_a_warp_needs_as_many_rounds_as_its_slowest_lane():
    reads = np.ones(32 * 31 * 2, np.int32)
    reads[::64] = 5
    assert rounds.rounds_together(reads, 32) == pytest.approx(3.0, abs=0.01)
    assert rounds.rounds_together(reads, 64) == pytest.approx(5.0, abs=0.01)
    reads[:] = 1
    reads[0] = 32
    assert rounds.rounds_in_turn(reads) == (62 / 31 + 31 / 31) / 2
