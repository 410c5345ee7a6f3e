"""The benchmarks inside vLLM: they run small, and print nothing where the sides differ or vLLM is missing."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest
from in_vllm.oracle import require_vllm
from support.benchmarks import SMALL_IN_VLLM
from support.device.packages import needs

ROOT = Path(__file__).resolve().parents[2]
STEPS = ["32 running, sync", "32 running, async", "32 running, sync, full + window"]
PREFILLS = ["20 x 32k, 24k shared", "20 x 32k, nothing shared"]
CASES = {
    "vllm_calls": {"full", "full + window"},
    "vllm_steps": {
        "20 x 32k, 24k shared",
        "20 x 32k, nothing shared",
        *STEPS,
        *(f"{case}, 100 % from arrays" for case in STEPS),
    },
}
NO_HITS = (
    "from kvgpu.manager import KVCacheManager as M\n"
    "M.get_computed_blocks = lambda self, request: (self.empty_kv_cache_blocks, 0)\n"
)
OTHER_BLOCKS = (
    "from kvgpu.blocks.kv_cache_blocks import KVCacheBlocks as B\n"
    "real = B.get_block_ids\n"
    "B.get_block_ids = lambda self, *a, **k: ids and tuple([i + 1 for i in part] for part in ids)"
    " if (ids := real(self, *a, **k)) else ids\n"
)
PLANTED = {"vllm_calls": NO_HITS, "vllm_steps": OTHER_BLOCKS}
per_benchmark = pytest.mark.parametrize("name", SMALL_IN_VLLM)


def run(name, tmp_path, before=""):
    """A benchmark in a process of its own, after some code."""
    code = (
        f"import sys; sys.path[:0] = ['bench', '.']; sys.argv[0] = 'bench/{name}.py'\n{before}\n"
        f"import {name}\nsys.exit({name}.main())"
    )
    command = [sys.executable, "-c", code, *SMALL_IN_VLLM[name], "--data", str(tmp_path)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


@per_benchmark
@needs("tqdm")
def test_without_vllm_it_is_an_error(name, tmp_path):
    done = run(name, tmp_path, "sys.modules['vllm'] = None")
    assert (done.returncode, list(tmp_path.glob("*.csv"))) == (2, [])
    assert "vllm" in done.stderr.splitlines()[-1]


@pytest.fixture
def in_vllm():
    require_vllm(whole_module=False)


@per_benchmark
@pytest.mark.filterwarnings("ignore")
def test_rows_are_saved(name, tmp_path, in_vllm):
    done = run(name, tmp_path)
    assert done.returncode in (0, 1), done.stderr
    with (tmp_path / f"{name}.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["case"] for row in rows} == CASES[name]
    assert all(float(row["kvgpu"]) > 0 and float(row["peer"]) > 0 for row in rows)


@per_benchmark
@pytest.mark.filterwarnings("ignore")
def test_with_a_wrong_answer_nothing_is_printed_or_saved(name, tmp_path, in_vllm):
    done = run(name, tmp_path, PLANTED[name])
    assert (done.returncode, list(tmp_path.glob("*.csv"))) == (2, []), done.stderr
    assert " us" not in done.stdout
