"""Compiled code on disk: where it lies, when it is loaded, and what happens where it cannot be written."""

import importlib
import importlib.util
import os
import pkgutil
import pwd
import stat
import sys
import tempfile

import numba
import pytest
from numba.core import caching
from numba.core.dispatcher import Dispatcher
from support.compiled_code import files_below

import kvgpu
from kvgpu.compiled import cache as compiled_cache
from kvgpu.compiled import code_files
from kvgpu.compiled import jit as _jit


def test_the_folder_lies_where_it_is_configured_and_is_the_users_alone(start, kept_in):
    folder = start().folder
    assert folder.parent == kept_in
    assert [stat.S_IMODE(path.stat().st_mode) for path in (kept_in, folder)] == [0o700, 0o700]


def test_a_second_process_loads_what_the_first_compiled(start):
    first = start()
    second = start()
    assert (first.hits, first.warnings) == (0, [])
    assert (second.hits, second.warnings) == (1, [])


def test_signatures_are_kept_beside_each_other(start):
    start()
    start(floats=True)
    assert start(floats=True).hits == 2


def test_nothing_is_kept_elsewhere_and_numbas_own_cache_is_left_alone(start, kept_in, monkeypatch):
    own = kept_in.parent / "own"
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(own))
    monkeypatch.setattr(numba.config, "CACHE_LOCATOR_CLASSES", "UserWideCacheLocator")
    assert start().folder.parent == kept_in
    assert str(own) == numba.config.CACHE_DIR
    assert not own.exists()


def test_a_function_without_a_source_file_is_compiled_all_the_same(start):
    start()
    names = {}
    exec(compile("def add(a, b): return a + b", "<typed in>", "exec"), names)
    compiled = _jit.jit(names["add"])
    assert compiled(1, 2) == 3
    assert compiled.stats.cache_path is None


def test_another_function_at_the_same_place_is_not_taken_for_the_first(start, tmp_path, kept_in, monkeypatch):
    """Its constants are no part of the key, so the digest of its file has to tell."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # it is as old, to a second, and as long
    start()
    for number in (1, 2, 1):
        (tmp_path / "module.py").write_text(f"def number():\n    return {number}\n")
        compiled_cache._digest_of_file.cache_clear()
        spec = importlib.util.spec_from_file_location("module", tmp_path / "module.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        assert _jit.jit(module.number)() == number


def modules():
    names = [info.name for info in pkgutil.walk_packages(kvgpu.__path__, "kvgpu.")]
    return [name for name in names if not name.endswith("__main__")]


@pytest.mark.parametrize("name", modules())
def test_no_module_keeps_compiled_code_through_another_door(name):
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        pytest.skip(str(error))
    caches = {type(v._cache) for v in vars(module).values() if isinstance(v, Dispatcher)}
    assert caches <= {compiled_cache.CompiledCode, caching.NullCache}


# Places that cannot be written


@pytest.mark.parametrize("call", ["open", "write", "fsync", "replace"])
def test_on_a_full_disk_code_is_used_and_not_kept(start, monkeypatch, call):
    folder = start().folder
    before = files_below(folder)
    real_open = os.open

    def full(*_):
        raise OSError(28, "No space left on device")

    def open_to_read(path, flags, *mode):
        return full() if flags & os.O_CREAT else real_open(path, flags, *mode)

    if call == "write":
        monkeypatch.setattr(code_files, "write_whole", full)
    else:
        monkeypatch.setattr(os, call, open_to_read if call == "open" else full)
    run = start(floats=True)
    assert run.hits == 1
    (warning,) = run.warnings
    assert str(folder) in warning
    assert "No space left on device" in warning
    assert files_below(folder) == before


@pytest.fixture
def read_only(monkeypatch):
    """Makes all folders read-only, for root too."""

    def refuse(path, flags, *mode):
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            raise OSError(30, "Read-only file system", str(path))
        return real(path, flags, *mode)

    real = os.open
    return lambda: monkeypatch.setattr(os, "open", refuse)


def test_a_folder_that_can_only_be_read_is_used_without_a_word(start, read_only):
    start()
    read_only()
    run = start()
    assert (run.hits, run.warnings) == (1, [])


def test_what_a_folder_that_can_only_be_read_lacks_is_compiled(start, read_only, kept_in):
    start()
    read_only()
    before = files_below(kept_in)
    run = start(floats=True)
    assert run.hits == 1
    assert len(run.warnings) == 1
    assert files_below(kept_in) == before


def test_a_folder_that_cannot_be_made_is_named_in_one_warning(start, kept_in):
    kept_in.write_text("")
    run = start(floats=True)
    assert run.folder is None
    (warning,) = run.warnings
    assert f"{kept_in} is not a folder" in warning


def test_without_a_home_code_is_compiled_for_this_process(start, monkeypatch):
    def unknown(uid):
        raise KeyError(uid)

    for name in ("KVGPU_CACHE_DIR", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    run = start(floats=True)
    assert run.folder is None
    (warning,) = run.warnings
    assert "there is no home directory" in warning


def test_no_temporary_directory_is_needed(start, monkeypatch):
    def none(*_, **__):
        raise FileNotFoundError("No usable temporary directory found")

    for name in ("gettempdir", "mkdtemp", "mkstemp", "TemporaryFile", "NamedTemporaryFile"):
        monkeypatch.setattr(tempfile, name, none)
    start()
    assert start().hits == 1
