"""Hit rates beside the real vLLM, 0.23 or 0.33: equal, and the command fails where kvgpu's are lower."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from in_vllm.oracle import require_vllm
from support.device.packages import needs

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["--limit", "60", "--num-blocks", "600", "--groups", "full,full+swa:64+swa:64,full+mamba:align"]
NO_HITS = (
    "from kvgpu.manager import KVCacheManager as M\n"
    "nothing = lambda self: (self.empty_kv_cache_blocks, 0, 0)[: 2 + self.behaviour.reports_junction]\n"
    "M.get_computed_blocks = lambda self, request: nothing(self)\n"
)


def run(tmp_path, before=""):
    """The command in a process of its own, after some code."""
    code = (
        f"import sys; sys.path[:0] = ['bench', '.']; sys.argv[0] = 'bench/peers/hit_rates.py'\n{before}\n"
        "from peers import hit_rates\nsys.exit(hit_rates.main())"
    )
    options = [*SMALL, "--data", str(tmp_path), "--json", str(tmp_path / "rows.json")]
    command = [sys.executable, "-c", code, *options]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


@needs("tqdm", "msgspec")
def test_without_vllm_it_is_an_error(tmp_path):
    done = run(tmp_path, "sys.modules['vllm'] = None")
    assert (done.returncode, list(tmp_path.glob("*"))) == (2, [])
    assert "vllm" in done.stderr.splitlines()[-1]


@pytest.fixture
def in_vllm():
    require_vllm("0.23", "0.33", whole_module=False)


@pytest.mark.filterwarnings("ignore")
def test_both_hit_the_same(tmp_path, in_vllm):
    done = run(tmp_path)
    assert (done.returncode, done.stderr.count("equal in all 60 admissions")) == (0, 3), done.stderr
    rates = [row for row in json.loads((tmp_path / "rows.json").read_text()) if row["metric"] == "hit rate"]
    assert all(row["kvgpu"] == row["peer"] > 0 for row in rates)
    assert all(row["peer_name"].startswith("vllm 0.") for row in rates)


@pytest.mark.filterwarnings("ignore")
def test_a_manager_that_hits_less_fails_the_comparison(tmp_path, in_vllm):
    done = run(tmp_path, NO_HITS)
    assert (done.returncode, done.stderr.count("DIFFERENT at admission")) == (1, 3), done.stderr
