"""What a contributor relies on: versions that agree, and commands and files that the guides name."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PINNED = dict(re.findall(r"^([\w-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.M))
HOOKS = (ROOT / ".pre-commit-config.yaml").read_text()
GUIDE = (ROOT / "CONTRIBUTING.md").read_text()


@pytest.mark.parametrize(("name", "version"), sorted(set(re.findall(r"([\w-]+)==([\w.]+)", HOOKS))))
def test_a_hook_has_the_version_that_ci_has(name, version):
    assert PINNED[name] == version


@pytest.mark.parametrize("tool", ["ruff check", "ruff format", "mypy"])
def test_a_commit_is_checked_by(tool):
    assert f"entry: {tool}" in HOOKS
    assert tool.split()[0] in PINNED


def test_a_missing_interpreter_is_an_error_before_any_test_runs():
    words = ["make", "test-pythons", f"PYTHONS={sys.executable} python3.99"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode != 0
    assert "python3.99 is missing" in done.stderr
    assert "==" not in done.stdout


def test_each_interpreter_has_an_environment_of_its_own(tmp_path):
    words = ["make", "-n", "test-pythons", "PYTHONS=python3.11 python3.12"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, check=True, env=os.environ)
    assert re.search(r'VENV="build/python-\$version"', done.stdout)


def test_the_guide_names_every_target():
    targets = re.findall(r"^([a-z-]+):(?!=)", (ROOT / "Makefile").read_text(), re.M)
    told = set(re.findall(r"^ {4}make ([a-z-]+)", GUIDE + (ROOT / "README.md").read_text(), re.M))
    assert set(targets) - {"clean"} <= told


@pytest.mark.parametrize("path", sorted((ROOT / ".github").rglob("*.*")), ids=lambda path: path.name)
def test_a_template_names_files_that_exist(path):
    for name in re.findall(r"[\w./-]+\.(?:md|toml|txt|py)\b", path.read_text()):
        assert (ROOT / name).exists()
