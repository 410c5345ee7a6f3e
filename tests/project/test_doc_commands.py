"""Every command that the documentation shows is run, small where it is long, or is known to run elsewhere."""

import os
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

import msgspec
import pytest
from support.benchmarks import SMALL, SMALL_IN_VLLM
from support.device.packages import lacked_in
from support.replays.runs import run as made_up_run

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
VENV = sys.prefix
STAMPS = [word for name in (".base", ".dev", ".kernels") for word in ("-o", f"{VENV}/{name}")]
IN_CI = {"lint", "aot", "conformance", "test", "test-compiled"}
"""Targets that .ci/run calls: not again from a test."""
NOT_INSTALLED = "kvgpu is not installed: it runs from its checkout"
CALLED = {
    "card": "tests/conformance/run.py",
    "test-pythons": "make",
    "fuzz": "tests/fuzz/run.py",
    "hit-rates": "bench/peers/hit_rates.py",
    "races": "tests/ptx/races.py",
    "vllm": "tests/in_vllm/suites/run.py",
}
"""What other targets call."""


def shown_commands():
    """Lines of indented blocks and of `text` blocks that begin with a program, without comments."""
    found = {}
    for page in PAGES:
        text = re.sub(r"<!-- rows .*?<!-- end -->", "", page.read_text(encoding="utf-8"), flags=re.S)
        quoted = "\n".join(re.findall(r"^```text\n(.*?)^```", text, re.M | re.S))
        text = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
        programs = "|".join(WAYS)
        for lines, indent in ((text, " {4}"), (quoted, "")):
            for line in re.findall(rf"^{indent}((?:{programs}) [^\n]+)", lines, re.M):
                found.setdefault(re.split(r"\s{2,}#", line)[0].strip(), page.name)
    return found


def run(*words, **environment):
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, check=False, env=os.environ | environment)
    if (why := lacked_in(done.stderr)) is not None:
        pytest.skip(why)
    assert done.returncode == 0, done.stderr
    return done


def of_make(rest, tmp_path):
    target = rest.split()[0]
    if target in IN_CI:
        assert re.search(rf"^ *make {target}\b", (ROOT / ".ci" / "run").read_text(), re.M)
    elif target in ("bench", "bench-peers"):
        # What it calls is run by tests/bench/test_commands.py.
        words = run("make", "-n", target, f"VENV={VENV}", *STAMPS).stdout
        called = set(re.findall(r"for name in ([^;]*);", words))
        assert called
        assert {name for names in called for name in names.split()} <= SMALL.keys()
    elif target in CALLED:
        # What they call is run by other tests, on this interpreter.
        assert CALLED[target] in run("make", "-n", target).stdout
    elif target == "wheel":
        # What it sets makes the wheel of tests/project/test_installed.py, too.
        assert "KVGPU_BUILD_CODE=1" in run("make", "-n", "wheel", f"VENV={VENV}", *STAMPS).stdout
    elif target == "gpu":
        # Rehearsed by tests/bench/test_gpu.py.
        assert "bench/gpu.py" in run("make", "-n", "gpu").stdout
    elif target == "venv":
        run("make", "venv", f"VENV={VENV}", *STAMPS)
    elif target in ("plots", "tables"):
        # Run by tests/bench/test_tables.py, into another directory.
        assert f"bench/documents/{target}.py" in run("make", "-n", target, f"VENV={VENV}", *STAMPS).stdout
    else:
        assert target == "replay"
        options = f"--limit 8 --num-blocks 2000 --report {tmp_path / 'report.html'}"
        run("make", "replay", f"VENV={VENV}", *STAMPS, f"ARGS={options}")
        assert (tmp_path / "report.html").exists()


def of_python(rest, tmp_path):
    script = rest.split()[0]
    if script == "examples/vllm_cpu.py":
        # Run by tests/in_vllm/test_example.py.
        assert "--window" in run(sys.executable, script, "--help").stdout
    elif script == "tests/differential/run.py":
        assert "--calls" in run(sys.executable, script, "--help").stdout
    elif script == "tests/conformance/run.py":
        # Run by tests/conformance/test_later_runner.py.
        assert "--behaviour" in run(sys.executable, script, "--help").stdout
    elif script == "bench/peers/revisions.py":
        # Run by tests/bench/test_revisions.py.
        assert "--pairs" in run(sys.executable, script, "--help").stdout
    elif script == "tests/in_vllm/suites/run.py":
        # Run by make vllm.
        assert "--suites" in run(sys.executable, script, "--help").stdout
    else:
        # Run by tests/bench/test_commands.py, and by tests/in_vllm/test_benchmarks.py.
        assert re.fullmatch(r"bench/(.+)[.]py", script)[1] in SMALL | SMALL_IN_VLLM


def of_kvgpu(rest, tmp_path):
    small = {
        "replay": ["--limit", "8", "--num-blocks", "2000"],
        "warmup": ["--json"],
        "doctor": ["--backend", "host", "--json", str(tmp_path / "doctor.json")],
    }
    name = rest.split()[0]
    if name == "compare":
        small[name] = [str(tmp_path / "a.json"), str(tmp_path / "b.json")]
        for path in small[name]:
            Path(path).write_bytes(msgspec.json.encode(made_up_run()))
    assert run(sys.executable, "-m", "kvgpu", name, *small[name]).stdout


def of_pip(rest, tmp_path):
    try:
        extras = set(metadata("kvgpu").get_all("Provides-Extra") or ())
    except PackageNotFoundError:
        pytest.skip(NOT_INSTALLED)
    assert rest.startswith("install")
    assert set(re.findall(r"(?:kvgpu|\.)\[(\w+)\]", rest)) <= extras


def of_export(rest, tmp_path):
    name = rest.split("=")[0]
    script = f"export {rest}; python3 -c 'import os; print(os.environ[\"{name}\"])'"
    assert run("bash", "-c", script).stdout.strip()


def of_bash(rest, tmp_path):
    assert rest.split()[0] == ".ci/run"
    assert (ROOT / ".ci" / "run").exists()


WAYS = {"make": of_make, "python": of_python, "kvgpu": of_kvgpu, "pip": of_pip, "export": of_export, "bash": of_bash}


COMMANDS = shown_commands()


def test_commands_are_found():
    assert {"make replay", "make test", "make bench-peers"} <= {" ".join(command.split()[:2]) for command in COMMANDS}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_works(command, tmp_path):
    program, rest = command.split(None, 1)
    WAYS[program](rest, tmp_path)
