"""The example inside vLLM: its sides generate the same tokens, and a wrong slot, or no vLLM, is an error."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from in_vllm.oracle import require_vllm
from support.device.packages import needs

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["--requests", "24", "--blocks", "110", "--running", "24", "--budget", "128"]
MANAGERS = ["vllm.v1.core.kv_cache_manager.KVCacheManager", *["kvgpu.manager.KVCacheManager"] * 2]


def run(*args, first_on_path=None):
    """The example, small, in a process of its own."""
    command = [sys.executable, "examples/vllm_cpu.py", *SMALL, "--json", "-", *args]
    paths = [str(first_on_path or ""), os.environ.get("PYTHONPATH", "")]
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=variables, check=False)


@pytest.mark.parametrize(
    ("text", "words"),
    [("raise ImportError('it is not there')", "it is not there"), ("__version__ = '0.33.0'", "this is vLLM 0.33.0")],
)
@needs("tqdm")
def test_without_this_version_of_vllm_it_is_an_error(text, words, tmp_path):
    (tmp_path / "vllm").mkdir()
    (tmp_path / "vllm/__init__.py").write_text(text)
    done = run(first_on_path=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "this example needs vLLM 0.23.0" in done.stderr
    assert words in done.stderr


@pytest.fixture
def in_vllm():
    require_vllm(whole_module=False)


@pytest.mark.filterwarnings("ignore")
def test_all_sides_generate_the_same_tokens(in_vllm):
    done = run("--window", "64", "--async")
    assert done.returncode == 0, done.stderr
    sides = json.loads(done.stdout)["sides"]
    assert [side["manager"] for side in sides] == MANAGERS
    assert [side["scheduler"].rpartition(".")[2] for side in sides] == ["AsyncScheduler"] * 3
    for name in ("tokens", "cached_tokens", "preemptions", "chunks", "steps"):
        # What is not there was not tried.
        assert len({side[name] for side in sides}) == 1, name
        assert sides[0][name] > 0, name
    assert sides[0]["new_blocks"] > 110  # some were evicted


@pytest.mark.filterwarnings("ignore")
def test_a_planted_wrong_slot_is_found(in_vllm):
    done = run("--plant")
    assert done.returncode == 1, done.stderr
    found = json.loads(done.stdout)
    planted = found["sides"][-1]["planted"]
    assert f"plug-in and Scheduler: request {planted}, token 0 is" in found["verdict"]
    assert found["verdict"] in done.stderr
    assert [side["planted"] for side in found["sides"]] == [None, None, planted]
