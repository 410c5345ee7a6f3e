"""The benchmark of single calls: it runs small, and prints nothing where the sides differ or vLLM is missing."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest
from in_vllm.oracle import require_vllm

ROOT = Path(__file__).resolve().parents[2]
WRONG_HITS = (
    "from kvgpu.manager import KVCacheManager as M\n"
    "M.get_computed_blocks = lambda self, request: (self.empty_kv_cache_blocks, 0)\n"
)


def run(tmp_path, before=""):
    """The benchmark in a process of its own, after some code."""
    code = (
        f"import sys; sys.path[:0] = ['bench', '.']; sys.argv[0] = 'bench/vllm_calls.py'\n{before}\n"
        "import vllm_calls\nsys.exit(vllm_calls.main())"
    )
    command = [sys.executable, "-c", code, "--rounds", "1", "--most", "32", "--data", str(tmp_path)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


def test_without_vllm_it_is_an_error(tmp_path):
    done = run(tmp_path, "sys.modules['vllm'] = None")
    assert (done.returncode, list(tmp_path.glob("*.csv"))) == (2, [])
    assert "vllm" in done.stderr.splitlines()[-1]


@pytest.fixture
def in_vllm():
    require_vllm(whole_module=False)


@pytest.mark.filterwarnings("ignore")
def test_rows_are_saved(tmp_path, in_vllm):
    done = run(tmp_path)
    assert done.returncode in (0, 1), done.stderr
    with (tmp_path / "vllm_calls.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["case"] for row in rows} == {"full", "full + window"}
    assert all(float(row["kvgpu"]) > 0 and float(row["peer"]) > 0 for row in rows)


@pytest.mark.filterwarnings("ignore")
def test_with_a_wrong_answer_nothing_is_printed_or_saved(tmp_path, in_vllm):
    done = run(tmp_path, WRONG_HITS)
    assert (done.returncode, list(tmp_path.glob("*.csv"))) == (2, []), done.stderr
    assert "us/call" not in done.stdout
