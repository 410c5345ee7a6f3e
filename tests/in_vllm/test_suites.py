"""What is said of vLLM's own tests: whose code they ran, which of them count, and which failed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SUITES = ROOT / "tests/in_vllm/suites"


@pytest.fixture
def suites(monkeypatch):
    """Modules of the suites that need no vLLM."""
    monkeypatch.syspath_prepend(str(SUITES))
    from in_vllm.suites import cases, recorder, table

    return {"cases": cases, "recorder": recorder, "table": table}


@pytest.fixture
def packages(tmp_path):
    """Calls a function of a stand-in for kvgpu or for vLLM."""
    files = {
        "kvgpu/manager.py": "class Manager:\n  def ask(self): return inner()\ndef inner(): return 1",
        "vllm/v1/core/block_pool.py": "class BlockPool:\n  def take(self): return 2",
        "vllm/v1/core/kv_cache_utils.py": "class Queue:\n  def pop(self): return 3\ndef plan(): return [1]",
        "vllm/v1/request.py": "class Request:\n  def ask(self): return 4",
    }
    names = {}
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        names[name] = space = {}
        exec(compile(text, str(path), "exec"), space)
    return names


def test_a_recorder_names_whose_code_ran(suites, packages, tmp_path):
    recorder = suites["recorder"].Recorder(tmp_path / "kvgpu", tmp_path / "vllm")
    with recorder:
        packages["kvgpu/manager.py"]["Manager"]().ask()
    assert (recorder.kvgpu, recorder.vllm) == (["manager.Manager", "manager.inner"], [])
    with recorder:
        packages["vllm/v1/core/block_pool.py"]["BlockPool"]().take()
        packages["vllm/v1/core/kv_cache_utils.py"]["Queue"]().pop()
    assert (recorder.kvgpu, recorder.vllm) == ([], ["block_pool.BlockPool", "kv_cache_utils.Queue"])
    with recorder:  # neither requests nor the planning of memory are kvgpu's concern
        packages["vllm/v1/core/kv_cache_utils.py"]["plan"]()
        packages["vllm/v1/request.py"]["Request"]().ask()
    assert (recorder.kvgpu, recorder.vllm) == ([], [])
    assert sys.getprofile() is None


def test_cases_come_back_from_their_file(suites, tmp_path):
    cases = suites["cases"]
    one = cases.Case("a::b", "failed", "why", ["x"], ["y"], {"kvgpu": 2})
    cases.write_cases(tmp_path / "cases.json", [one])
    assert cases.read_cases(tmp_path / "cases.json") == [one]
    assert cases.read_cases(tmp_path / "none.json") == []


@pytest.mark.parametrize(
    ("ours", "theirs", "counts"), [(["a"], [], True), (["a"], ["b"], False), ([], [], False), ([], ["b"], False)]
)
def test_a_test_counts_if_it_ran_on_kvgpu_alone(suites, ours, theirs, counts):
    assert suites["cases"].Case("name", kvgpu=ours, vllm=theirs).ran_on_kvgpu is counts


def test_the_version_is_that_of_the_source(suites, tmp_path):
    (tmp_path / "PKG-INFO").write_text("Metadata-Version: 2.4\nName: vllm\nVersion: 0.33.0\n")
    assert suites["table"].version_of(tmp_path) == "0.33.0"
    (tmp_path / "PKG-INFO").write_text("Name: vllm\n")
    with pytest.raises(ValueError, match="names no version"):
        suites["table"].version_of(tmp_path)


def test_every_version_of_the_table_has_requirements(suites):
    assert {path.stem for path in (ROOT / "tests/in_vllm/requirements").glob("0*.txt")} == set(suites["table"].SUITES)


def test_modes_are_known(suites):
    table = suites["table"]
    assert {mode for each in table.SUITES.values() for suite in each.values() for mode in suite.passed} <= set(
        table.MODES
    )


def test_a_version_that_is_not_in_the_table_is_an_error(tmp_path):
    (tmp_path / "PKG-INFO").write_text("Version: 0.1.0\n")
    done = subprocess.run(
        [sys.executable, str(SUITES / "run.py"), str(tmp_path)], capture_output=True, text=True, env=dict(os.environ)
    )
    assert done.returncode == 2
    assert "this is 0.1.0" in done.stderr
