"""The package from outside: lazy names, version, typing, the link to the kernels."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.device.packages import needs

import kvgpu

ROOT = Path(kvgpu.__file__).resolve().parent.parent

HEAVY = ["numba", "llvmlite", "numpy", "torch", "msgspec", "cbor2", "matplotlib"]


def run_python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)


def test_importing_the_package_imports_none_of_what_it_needs():
    done = run_python(f"import sys, kvgpu; print([m for m in {HEAVY} if m in sys.modules])")
    assert done.stdout == "[]\n"


@needs("msgspec", "tqdm")
def test_a_replay_needs_no_torch():
    code = (
        "import sys; sys.modules['torch'] = None; from kvgpu.cli import main; "
        "sys.exit(main(['replay', '--limit', '2', '--num-blocks', '500']))"
    )
    done = run_python(code)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", kvgpu.__all__)
def test_every_public_name_leads_to_something_of_that_name(name):
    value = getattr(kvgpu, name)
    assert name == "__version__" or value.__name__ == name


@pytest.mark.parametrize("name", [n for n in kvgpu.__all__ if n != "__version__"])
def test_every_public_name_is_that_of_its_module(name):
    value = getattr(kvgpu, name)
    assert getattr(importlib.import_module(value.__module__), name) is value


def test_the_public_names_are_listed():
    assert set(kvgpu.__all__) <= set(dir(kvgpu))


def test_a_name_is_listed_once():
    assert len(kvgpu.__all__) == len(set(kvgpu.__all__))


def test_star_import_gives_the_public_names():
    names = {}
    exec("from kvgpu import *", names)
    assert set(kvgpu.__all__) <= set(names)


@pytest.mark.parametrize("name", ["KVCacheManger", "sglang", "_nothing"])
def test_an_unknown_name_is_an_attribute_error_that_names_it(name):
    with pytest.raises(AttributeError, match=f"'kvgpu'.*'{name}'"):
        getattr(kvgpu, name)


def test_an_unknown_name_cannot_be_imported():
    with pytest.raises(ImportError):
        exec("from kvgpu import KVCacheManger")


def test_the_version_is_that_of_the_package_metadata():
    declared = re.findall(r'version="([^"]+)"', (ROOT / "setup.py").read_text())
    assert declared == [kvgpu.__version__]


def test_the_version_is_three_numbers():
    assert re.fullmatch(r"\d+\.\d+\.\d+", kvgpu.__version__)


def test_the_kernels_of_the_package_are_those_of_the_repository():
    kernels = ROOT / "kvgpu" / "kernels"
    assert kernels.is_symlink()
    assert kernels.resolve() == ROOT / "kernels"


def test_the_package_says_that_it_is_typed():
    assert (ROOT / "kvgpu" / "py.typed").is_file()
    assert '"py.typed"' in (ROOT / "setup.py").read_text()
