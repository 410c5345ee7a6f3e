"""Whole processes on folders of compiled code as they are found in the field."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.device.packages import needs
from support.other_owner import STRANGER

import kvgpu

ROOT = Path(kvgpu.__file__).resolve().parent.parent

PROGRAM = """
import json
import sys

import numpy as np

from kvgpu.compiled import jit as _jit

exec(sys.argv[1])


@_jit.jit
def total(values):
    result = 0
    for value in values:
        result += value
    return result


found = int(total(np.arange(10)))
hits = sum(total.stats.cache_hits.values())
print(json.dumps({"found": found, "hits": hits, "folder": total.stats.cache_path}))
"""

BECOME_A_STRANGER = f"""
import numba, os
numba.njit(lambda values: values.sum())(np.arange(3))  # imports what this user may not be able to read
os.setegid({STRANGER})
os.seteuid({STRANGER})
"""

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")


@pytest.fixture
def place():
    """A folder that every user can reach."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)


@pytest.fixture
def run(place):
    """Runs the program after the statements in `first`; variables that are None are unset."""
    program = place / "program.py"
    program.write_text(PROGRAM)

    def start(first="", **variables):
        values = {"PYTHONPATH": str(ROOT), "KVGPU_CACHE_DIR": str(place / "cache")} | variables
        environment = {k: v for k, v in os.environ.items() if k not in values}
        done = subprocess.run(
            [sys.executable, str(program), first],
            env=environment | {k: v for k, v in values.items() if v is not None},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return SimpleNamespace(**json.loads(done.stdout), said=done.stderr.splitlines())

    return start


def index_below(place):
    return next(place.glob("cache/numba-*/*.total-*.nbi"))


def test_a_second_process_is_served_by_the_first_ones_code(run):
    assert [(r.found, r.hits, r.said) for r in (run(), run())] == [(45, 0, []), (45, 1, [])]


@as_root
def test_code_that_lies_in_a_shared_folder_of_another_user_is_not_run(run, place):
    run()
    os.chmod(place / "cache", 0o1777)
    os.chown(place / "cache", STRANGER, STRANGER)
    again = run()
    assert (again.found, again.hits, again.folder, len(again.said)) == (45, 0, None, 1)
    assert f"{place / 'cache'} belongs to user {STRANGER}" in again.said[0]


@as_root
def test_code_that_another_user_has_laid_into_a_shared_folder_is_not_run(run, place):
    run()
    os.chmod(place / "cache", 0o1777)
    os.chown(index_below(place).parent, STRANGER, STRANGER)
    again = run()
    assert (again.found, again.hits, again.folder, len(again.said)) == (45, 0, None, 1)


@as_root
def test_root_is_believed_by_a_user_and_another_user_is_not(run, place):
    run()
    files = [*place.rglob("cache"), *(place / "cache").rglob("*")]
    for path in files:
        path.chmod(0o755)
    assert run(BECOME_A_STRANGER).hits == 1
    for path in files:
        os.chown(path, STRANGER + 1, -1)
    again = run(BECOME_A_STRANGER)
    assert (again.found, again.hits, again.folder, len(again.said)) == (45, 0, None, 1)


def test_a_file_that_the_group_may_write_is_not_loaded(run, place):
    run()
    index_below(place).chmod(0o660)
    again = run()
    assert (again.found, again.hits, len(again.said)) == (45, 0, 1)
    assert f"others may write {index_below(place)}" in again.said[0]
    assert (run().hits, index_below(place).stat().st_mode & 0o777) == (1, 0o600)


def test_an_index_without_contents_is_compiled_over(run, place):
    run()
    os.truncate(index_below(place), 0)
    again = run()
    assert (again.found, again.hits, len(again.said)) == (45, 0, 1)
    assert f"{index_below(place)} is damaged" in again.said[0]
    assert (run().hits, run().said) == (1, [])


def test_a_disk_that_takes_no_file_is_no_error(run, place):
    limited = run("import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))")
    assert (limited.found, len(limited.said)) == (45, 1)
    assert f"cannot be written to {limited.folder}" in limited.said[0]
    assert [path for path in place.rglob("*") if ".tmp." in path.name] == []
    assert (run().hits, run().hits) == (0, 1)


def test_an_account_without_a_home_is_served(run):
    unknown = "import pwd\ndef getpwuid(uid): raise KeyError(uid)\npwd.getpwuid = getpwuid"
    served = run(unknown, KVGPU_CACHE_DIR=None, XDG_CACHE_HOME=None, HOME=None)
    assert (served.found, served.folder, len(served.said)) == (45, None, 1)
    assert "there is no home directory" in served.said[0]


@pytest.fixture
def read_only_folder(run, place):
    """What the program has compiled, for reading only; the statements that make a process obey that."""
    run()
    index = index_below(place)
    for path in (index.parent, *index.parent.iterdir(), place / "cache"):
        path.chmod(0o555)
    yield BECOME_A_STRANGER if os.geteuid() == 0 else ""
    for path in (place / "cache", index.parent):
        path.chmod(0o755)


def test_a_folder_that_can_only_be_read_is_used(run, read_only_folder):
    served = run(read_only_folder)
    assert (served.found, served.hits, served.said) == (45, 1, [])


def test_what_a_folder_that_can_only_be_read_lacks_is_compiled(run, place, read_only_folder):
    index = index_below(place)
    index.parent.chmod(0o755)
    index.unlink()
    index.parent.chmod(0o555)
    before = sorted(place.rglob("*"))
    served = run(read_only_folder)
    assert (served.found, served.hits, len(served.said)) == (45, 0, 1)
    assert f"cannot be written to {served.folder}" in served.said[0]
    assert sorted(place.rglob("*")) == before


def python(code, **variables):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "NUMBA_DISABLE_JIT": "1"} | variables
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)


def test_without_compilation_the_package_can_be_imported():
    done = python("import kvgpu, kvgpu.errors; print(kvgpu.__version__)")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", ["KVCacheManager", "Request", "BlockPool", "BatchManager"])
def test_without_compilation_what_needs_it_is_one_clear_error(name):
    done = python(f"import kvgpu\ntry: kvgpu.{name}\nexcept kvgpu.KVGPUError as e: print(type(e).__name__, e)")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("ConfigError NUMBA_DISABLE_JIT is set")
    assert len(done.stdout.splitlines()) == 1


@needs("msgspec", "tqdm")
def test_without_compilation_a_command_says_so_in_one_line():
    done = python("import sys; from kvgpu.cli import main; sys.exit(main(['replay']))")
    assert done.returncode == 2
    assert done.stderr.startswith("kvgpu: error: NUMBA_DISABLE_JIT is set")
    assert len(done.stderr.splitlines()) == 1
