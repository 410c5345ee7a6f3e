"""The digest that names the folder of compiled code: which sources change it, and which do not."""

import importlib.util
import shutil
from pathlib import Path

import numba
import pytest

import kvgpu
from kvgpu.compiled.source_digest import source_digest

PACKAGE = Path(kvgpu.__file__).resolve().parent

COMPILED_FROM = [
    "blocks/lru.py",
    "blocks/record.py",
    "compiled/helpers.py",
    "compiled/jit.py",
    "groups/compiled.py",
    "index/host/table.py",
    "index/journal.py",
    "index/prefix_cache.py",
    "layout.py",
    "rules/hits.py",
]
"""Sources whose functions or constants end up in machine code."""


@pytest.fixture
def copy(tmp_path):
    """A copy of the package's sources, with its link to the kernels, to be changed."""
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("kvgpu", "kernels"):
        source = PACKAGE.parent / name
        shutil.copytree(source, tmp_path / "copy" / name, symlinks=True, ignore=ignored)
    return tmp_path / "copy" / "kvgpu"


def digest(package=PACKAGE):
    """Of the sources of a package, as another process would find it."""
    spec = importlib.util.spec_from_file_location("fresh", package / "compiled" / "source_digest.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.source_digest()


def test_equal_sources_have_one_digest_wherever_they_lie(copy):
    assert digest(copy) == digest()


@pytest.mark.parametrize("name", COMPILED_FROM)
def test_a_changed_source_of_compiled_code_changes_the_digest(copy, name):
    before = digest(copy)
    with (copy / name).open("a") as file:
        file.write("\nCHANGED = 1\n")
    assert digest(copy) != before


def test_the_files_of_the_list_are_in_the_package():
    assert [name for name in COMPILED_FROM if not (PACKAGE / name).is_file()] == []


def test_a_new_source_of_compiled_code_changes_the_digest(copy):
    before = digest(copy)
    (copy / "index" / "new.py").write_text("@jit\ndef f(): ...\n")
    assert digest(copy) != before


def test_a_module_that_compiled_code_imports_by_its_package_changes_the_digest(copy):
    (copy / "index" / "new.py").write_text("from kvgpu.replay import limits\n\n\n@jit\ndef f(): ...\n")
    before = digest(copy)
    with (copy / "replay" / "limits.py").open("a") as file:
        file.write("\nCHANGED = 1\n")
    assert digest(copy) != before


def test_a_changed_source_without_compiled_code_keeps_the_digest(copy):
    before = digest(copy)
    with (copy / "cli.py").open("a") as file:
        file.write("\nCHANGED = 1\n")
    assert digest(copy) == before


def test_another_numba_has_another_digest(monkeypatch):
    before = digest()
    monkeypatch.setattr(numba, "__version__", "0.0.0")
    assert digest() != before


def test_a_second_digest_of_the_same_sources_is_the_same():
    assert source_digest() == source_digest()
