"""Compiled code: where it is kept, and when it is compiled anew."""

import importlib.util
import shutil
import sys
from pathlib import Path

import numba
import numpy as np
import pytest

import kvgpu
from kvgpu import _jit

PACKAGE = Path(kvgpu.__file__).resolve().parent

COMPILED_FROM = [
    "_jit.py",
    "blocks.py",
    "free_list.py",
    "groups/block_tables.py",
    "index/journal.py",
    "index/table.py",
    "kernels/layout.py",
    "policies.py",
    "prefix_cache.py",
]
"""Sources whose functions or constants end up in machine code."""


def add(a, b):
    return a + b


@_jit.inline
def first_two(values):
    return values[:2]


@_jit.leaf
def sum_of_first_two(values):
    return sum_in_parts(values)


@_jit.inline
def sum_in_parts(values):
    return first_two(values).sum()


@_jit.inline
def twice(a):
    return 2 * a


def four_times(a):
    return twice(twice(a))


def total_with_prefetch(values):
    result = 0
    for i in range(len(values)):
        _jit.prefetch(values, min(i + 8, len(values) - 1))
        result += values[i]
    return result


@pytest.fixture
def copy(tmp_path):
    """A copy of the package's sources, with its link to the kernels, to be changed."""
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("kvgpu", "kernels"):
        source = PACKAGE.parent / name
        shutil.copytree(source, tmp_path / "copy" / name, symlinks=True, ignore=ignored)
    return tmp_path / "copy" / "kvgpu"


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    """Loads the module anew from a directory, as another process would."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def load(package=PACKAGE):
        spec = importlib.util.spec_from_file_location("fresh_jit", package / "_jit.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


def cache_dir_name(module):
    return Path(module.numba_cache_dir()).name


@pytest.fixture
def kept_in(tmp_path, monkeypatch):
    """An empty directory for compiled code."""
    monkeypatch.setenv("KVGPU_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_equal_sources_share_a_cache_directory_wherever_they_lie(copy, fresh, kept_in):
    assert cache_dir_name(fresh(copy)) == cache_dir_name(fresh())


@pytest.mark.parametrize("name", COMPILED_FROM)
def test_a_changed_source_of_compiled_code_changes_the_cache_directory(copy, fresh, kept_in, name):
    before = cache_dir_name(fresh(copy))
    with (copy / name).open("a") as file:
        file.write("\nCHANGED = 1\n")
    assert cache_dir_name(fresh(copy)) != before


def test_the_files_of_the_list_are_in_the_package():
    assert [name for name in COMPILED_FROM if not (PACKAGE / name).is_file()] == []


def test_a_new_source_of_compiled_code_changes_the_cache_directory(copy, fresh, kept_in):
    before = cache_dir_name(fresh(copy))
    (copy / "index" / "new.py").write_text("@jit\ndef f(): ...\n")
    assert cache_dir_name(fresh(copy)) != before


def test_a_changed_source_without_compiled_code_keeps_the_cache_directory(copy, fresh, kept_in):
    before = cache_dir_name(fresh(copy))
    with (copy / "cli.py").open("a") as file:
        file.write("\nCHANGED = 1\n")
    assert cache_dir_name(fresh(copy)) == before


def test_another_numba_has_another_cache_directory(fresh, kept_in, monkeypatch):
    before = cache_dir_name(fresh())
    monkeypatch.setattr(numba, "__version__", "0.0.0")
    assert cache_dir_name(fresh()) != before


def test_the_cache_directory_lies_where_it_is_configured(fresh, kept_in):
    directory = Path(fresh().numba_cache_dir())
    assert directory.is_dir()
    assert directory.parent == kept_in


def test_a_directory_that_cannot_be_made_is_replaced_by_a_temporary_one(
    fresh, tmp_path, monkeypatch
):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("KVGPU_CACHE_DIR", str(tmp_path / "file" / "below"))
    directory = Path(fresh().numba_cache_dir())
    assert directory.is_dir()
    assert directory.parent == tmp_path


def test_a_directory_that_cannot_be_written_is_replaced_by_a_temporary_one(
    fresh, kept_in, tmp_path, monkeypatch
):
    monkeypatch.setattr("os.access", lambda path, mode: False)
    directory = Path(fresh().numba_cache_dir())
    assert directory.is_dir()
    assert directory.parent == tmp_path


def test_machine_code_is_written_to_the_cache_directory(fresh, kept_in):
    module = fresh()
    compiled = module.jit(add)
    assert compiled(1, 2) == 3
    assert [*Path(module.numba_cache_dir()).rglob("*.nbi")] != []


def test_a_second_process_loads_what_the_first_compiled(fresh, kept_in):
    fresh().jit(add)(1, 2)
    again = fresh().jit(add)
    again(1, 2)
    assert sum(again.stats.cache_hits.values()) == 1


def test_the_cache_directory_of_others_is_left_as_it_was(fresh, kept_in):
    before = numba.config.CACHE_DIR
    fresh().jit(add)
    assert before == numba.config.CACHE_DIR


def test_a_failing_compilation_leaves_the_cache_directory_of_others(fresh, kept_in, monkeypatch):
    def fail(**options):
        raise RuntimeError("no compiler")

    before = numba.config.CACHE_DIR
    module = fresh()
    monkeypatch.setattr(numba, "njit", fail)
    with pytest.raises(RuntimeError, match="no compiler"):
        module.jit(add)
    assert before == numba.config.CACHE_DIR


def test_compiled_functions_call_inlined_ones(fresh, kept_in):
    assert fresh().jit(four_times)(3) == 12


def test_loading_ahead_changes_no_result(fresh, kept_in):
    assert fresh().jit(total_with_prefetch)(np.arange(100)) == 4950


def test_the_python_function_behind_a_compiled_one_can_be_had(fresh, kept_in):
    assert _jit.python_of(fresh().jit(add)) is add


def test_the_python_function_behind_a_python_function_is_itself():
    assert _jit.python_of(add) is add


def test_code_that_a_leaf_has_compiled_first_counts_references_all_the_same():
    """Numba passes options on to what it compiles on the way; code that does not count takes what it never gave."""
    from_leaf = _jit.jit(lambda values: sum_of_first_two(values))
    directly = _jit.jit(lambda values: first_two(values))
    values = np.arange(5)
    before = sys.getrefcount(values)
    assert from_leaf(values) == 1
    for _ in range(100):
        assert directly(values).tolist() == [0, 1]
    after = sys.getrefcount(values)
    assert after == before
