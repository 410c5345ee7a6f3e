"""When the plug-in is in force, and what it costs a process that schedules nothing; beside a stand-in for vLLM."""

import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import json, sys, vllm
from kvgpu.vllm.plugin import register
early = len(sys.argv) > 1
if early:
    import vllm.v1.engine.core
for _ in range(2):
    register()
heavy = sorted({"numpy", "numba", "torch", "kvgpu.manager"} & set(sys.modules))
import vllm.v1.engine.core as core, vllm.v1.core.sched.scheduler as scheduler
print(json.dumps([scheduler.KVCacheManager.__module__, core.get_request_block_hasher.__module__, heavy]))
"""
OURS, THEIRS = "kvgpu.vllm.plugin", ["vllm.v1.core.sched.scheduler", "vllm.v1.engine.core"]


@pytest.fixture
def run(tmp_path):
    """Runs `SCRIPT` beside a package called vllm that has the two names."""

    def run(*args, version="0.23.0", **variables):
        for folder in ("", "v1", "v1/engine", "v1/core", "v1/core/sched"):
            (tmp_path / "vllm" / folder).mkdir(parents=True, exist_ok=True)
            (tmp_path / "vllm" / folder / "__init__.py").write_text(f"__version__ = {version!r}\n")
        (tmp_path / "vllm/v1/core/sched/scheduler.py").write_text("class KVCacheManager: ...\n")
        (tmp_path / "vllm/v1/engine/core.py").write_text("def get_request_block_hasher(): ...\n")
        given = {name: value for name, value in os.environ.items() if name not in ("KVGPU_VLLM", "VLLM_PLUGINS")}
        given["PYTHONPATH"] = os.pathsep.join([str(tmp_path), str(ROOT)])
        return subprocess.run(
            [sys.executable, "-c", SCRIPT, *args], env={**given, **variables}, capture_output=True, text=True
        )

    return run


@pytest.mark.parametrize(
    "variables",
    [
        {"KVGPU_VLLM": "1"},
        {"KVGPU_VLLM": "check"},
        {"VLLM_PLUGINS": "kvgpu"},
        {"VLLM_PLUGINS": "other,kvgpu"},
        {"VLLM_PLUGINS": "other", "KVGPU_VLLM": "1"},
    ],
)
@pytest.mark.parametrize("args", [(), ("modules are there already",)])
def test_it_is_in_force_where_it_is_asked_for(run, variables, args):
    assert json.loads(run(*args, **variables).stdout) == [OURS, OURS, []]


@pytest.mark.parametrize(
    "variables", [{}, {"KVGPU_VLLM": "0"}, {"VLLM_PLUGINS": "kvgpu", "KVGPU_VLLM": "0"}, {"VLLM_PLUGINS": "kvgpu2"}]
)
def test_installed_alone_it_changes_nothing(run, variables):
    assert json.loads(run(**variables).stdout) == [*THEIRS, []]


def test_another_version_of_vllm_keeps_its_manager_and_says_so(run):
    done = run(version="0.33.0", KVGPU_VLLM="1")
    assert json.loads(done.stdout) == [*THEIRS, []]
    assert "kvgpu serves vLLM 0.23.0, and this is 0.33.0" in done.stderr


def test_a_bad_value_is_an_error(run):
    done = run(KVGPU_VLLM="yes")
    assert done.returncode == 1
    assert "unknown value of KVGPU_VLLM 'yes'; known: 0, 1, check" in done.stderr


def test_vllm_finds_the_plug_in():
    if not [*metadata.Distribution.discover(name="kvgpu")]:
        pytest.skip("kvgpu is not installed: it runs from its checkout")
    (found,) = metadata.entry_points(group="vllm.general_plugins", name="kvgpu")
    assert found.load().__module__ == OURS
