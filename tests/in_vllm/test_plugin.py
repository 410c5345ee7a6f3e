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


FILES = {
    "v1/core/sched/scheduler.py": "class KVCacheManager: ...",
    "v1/engine/core.py": "def get_request_block_hasher(): ...",
    "v1/core/kv_cache_manager.py": "class KVCacheManager:\n  def __init__(self, kv_cache_config{more}): ...",
    "v1/core/block_pool.py": "class BlockPool:\n  def free_blocks(self, ordered_blocks{prepend}): ...",
    "v1/core/kv_cache_utils.py": "",
    "v1/kv_cache_interface.py": (
        "from dataclasses import dataclass\n@dataclass\nclass KVCacheSpec: ...\n@dataclass\nclass KVCacheConfig: ..."
    ),
    "distributed/kv_events.py": (
        "from types import SimpleNamespace as S\nKVCacheEvent = S(__struct_config__=S(array_like={arrays}))"
    ),
}
"""A vLLM as far as the plug-in looks at it, before a manager is made."""
V23 = {"prepend": ", prepend=False", "arrays": True, "more": ""}
V24 = {"prepend": "", "arrays": False, "more": ""}
V26 = {**V24, "more": ", max_in_flight_tokens"}


@pytest.fixture
def run(tmp_path):
    """Runs `SCRIPT` beside a package called vllm that looks like a version of it."""

    def run(*args, vllm=V23, **variables):
        for name, text in FILES.items():
            path = tmp_path / "vllm" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text.format(**vllm) + "\n")
        for folder in ("", "v1", "v1/engine", "v1/core", "v1/core/sched", "distributed"):
            # Versions are not looked at.
            (tmp_path / "vllm" / folder / "__init__.py").write_text("__version__ = '7.0'\n")
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
    *served, heavy = json.loads(run(*args, **variables).stdout)
    assert served == [OURS, OURS]
    assert args or heavy == []  # an engine core, which has the modules, needs NumPy in any case


@pytest.mark.parametrize(
    "variables", [{}, {"KVGPU_VLLM": "0"}, {"VLLM_PLUGINS": "kvgpu", "KVGPU_VLLM": "0"}, {"VLLM_PLUGINS": "kvgpu2"}]
)
def test_installed_alone_it_changes_nothing(run, variables):
    assert json.loads(run(**variables).stdout) == [*THEIRS, []]


def test_a_version_that_is_served_gets_kvgpu(run):
    assert json.loads(run(vllm=V24, KVGPU_VLLM="1").stdout)[:2] == [OURS, OURS]


@pytest.mark.parametrize(
    ("vllm", "why"),
    [
        (V26, "kvgpu does not serve what vLLM does since 0.26"),
        ({**V23, "more": ", num_surprises=0"}, "kvgpu does not know it"),
        ({**V23, "arrays": False}, "kvgpu does not know it"),
    ],
)
def test_a_vllm_that_does_something_else_keeps_its_manager_and_says_so_once(run, vllm, why):
    done = run(vllm=vllm, KVGPU_VLLM="1")
    assert json.loads(done.stdout) == [*THEIRS, []]
    assert done.stderr.splitlines() == [f"vLLM 7.0 goes on with its own KVCacheManager: {why}"]


def test_a_bad_value_is_an_error(run):
    done = run(KVGPU_VLLM="yes")
    assert done.returncode == 1
    assert "unknown value of KVGPU_VLLM 'yes'; known: 0, 1, check" in done.stderr


def test_vllm_finds_the_plug_in():
    if not [*metadata.Distribution.discover(name="kvgpu")]:
        pytest.skip("kvgpu is not installed: it runs from its checkout")
    (found,) = metadata.entry_points(group="vllm.general_plugins", name="kvgpu")
    assert found.load().__module__ == OURS
