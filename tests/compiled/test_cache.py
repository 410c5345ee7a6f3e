"""Compiled code on disk: when it is compiled anew, whom it is believed, and what may be wrong with it."""

import importlib
import importlib.util
import logging
import os
import pickle
import pkgutil
import pwd
import shutil
import stat
import sys
import tempfile
from pathlib import Path

import numba
import pytest
from numba.core import caching
from numba.core.dispatcher import Dispatcher
from support.other_owner import OtherOwner

import kvgpu
from kvgpu.compiled import cache as compiled_cache
from kvgpu.compiled import jit as _jit

PACKAGE = Path(kvgpu.__file__).resolve().parent

COMPILED_FROM = [
    "blocks/lru.py",
    "blocks/record.py",
    "compiled/jit.py",
    "groups/compiled.py",
    "index/host/table.py",
    "index/journal.py",
    "index/prefix_cache.py",
    "layout.py",
    "rules/hits.py",
]
"""Sources whose functions or constants end up in machine code."""


def add(a, b):
    return a + b


# The name of the folder


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
    spec = importlib.util.spec_from_file_location("fresh", package / "compiled" / "cache.py")
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
    (copy / "index" / "new.py").write_text("from kvgpu.replay import ranges\n\n\n@jit\ndef f(): ...\n")
    before = digest(copy)
    with (copy / "replay" / "ranges.py").open("a") as file:
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


# Starts: a first call in a process that has found its folder, and what it said


class Start:
    """hits: how many signatures were not compiled. folder: where code is kept, or None. warnings: what was said."""

    def __init__(self, folder, compiled, records):
        self.folder = folder
        self.hits = sum(compiled.stats.cache_hits.values())
        self.warnings = [r.getMessage() for r in records if r.levelno >= logging.WARNING]


@pytest.fixture
def kept_in(tmp_path, monkeypatch):
    """The folder that is configured, which is not there."""
    monkeypatch.setenv("KVGPU_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def start(kept_in, caplog):
    """Compiles, or loads, and calls as a new process would; twice with `floats`, for two signatures."""

    def first_call(floats=False):
        compiled_cache.code_folder.cache_clear()
        caplog.clear()
        compiled = _jit.jit(add)
        assert compiled(1, 2) == 3
        assert not floats or compiled(0.25, 0.5) == 0.75
        return Start(compiled_cache.code_folder().path, compiled, caplog.records)

    yield first_call
    compiled_cache.code_folder.cache_clear()


@pytest.fixture
def stranger(monkeypatch):
    return OtherOwner(monkeypatch)


def files_below(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def index_of(folder):
    return next(folder.glob("*.add-*.nbi"))


def code_of(folder):
    return next(folder.glob("*.add-*.1.nbc"))


FILES = {"index": index_of, "code": code_of}


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


# Whom the folder is believed


@pytest.fixture(params=["foreign", "foreign parent", "open", "open parent", "open above"])
def untrusted(request, start, kept_in, stranger):
    """A folder full of compiled code that another user may have written."""
    folder = start().folder
    {
        "foreign": lambda: stranger.take(folder),
        "foreign parent": lambda: (kept_in.chmod(0o1777), stranger.take(kept_in)),
        "open": lambda: folder.chmod(0o1777),
        "open parent": lambda: kept_in.chmod(0o775),
        "open above": lambda: kept_in.parent.chmod(0o777),
    }[request.param]()
    return folder


def test_in_a_folder_that_others_may_write_nothing_is_read_or_written(untrusted, start, kept_in):
    before = files_below(kept_in.parent)
    run = start(floats=True)
    assert (run.folder, run.hits) == (None, 0)
    assert files_below(kept_in.parent) == before


def test_a_folder_that_others_may_write_is_named_in_one_warning(untrusted, start, kept_in):
    (warning,) = start(floats=True).warnings
    assert f"not kept in {kept_in}" in warning
    assert "Set KVGPU_CACHE_DIR to a folder that only you can write" in warning


def test_where_nothing_can_be_kept_nothing_is_left_behind(untrusted, start, tmp_path, monkeypatch):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    start()
    assert [*temporary.iterdir()] == []


class Payload:
    """A pickle that makes a folder when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("whose", ["own", "foreign", "writable by the group"])
def test_only_files_that_nobody_else_can_have_written_are_unpickled(start, tmp_path, stranger, whose, file):
    path = FILES[file](start().folder)
    payload = pickle.dumps(Payload(tmp_path / "executed"))
    path.write_bytes(compiled_cache._checksum(payload) + payload)
    if whose == "foreign":
        stranger.take(path)
    elif whose == "writable by the group":
        path.chmod(0o660)
    start()
    assert (tmp_path / "executed").exists() == (whose == "own")


# Files that cannot be used

DAMAGE = {
    "empty": lambda path, stranger: path.write_bytes(b""),
    "cut in half": lambda path, stranger: os.truncate(path, path.stat().st_size // 2),
    "cut by a byte": lambda path, stranger: os.truncate(path, path.stat().st_size - 1),
    "junk": lambda path, stranger: path.write_bytes(b"\xa5" * 5000),
    "zeros": lambda path, stranger: path.write_bytes(bytes(path.stat().st_size)),
    "another pickle": lambda path, stranger: path.write_bytes(pickle.dumps({"a": 1})),
    "a checked pickle of something else": lambda path, stranger: compiled_cache._write(path, 7),
    "one byte changed": lambda path, stranger: change_last_byte(path),
    "foreign": lambda path, stranger: stranger.take(path),
    "writable by the group": lambda path, stranger: path.chmod(0o660),
    "writable by all": lambda path, stranger: path.chmod(0o606),
    "a link": lambda path, stranger: path.symlink_to(path.rename(path.with_suffix(".moved"))),
    "a pipe": lambda path, stranger: (path.unlink(), os.mkfifo(path, 0o600)),
}


def change_last_byte(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_file_that_cannot_be_used_is_replaced_with_one_warning(start, stranger, damage, file):
    folder = start(floats=True).folder
    DAMAGE[damage](FILES[file](folder), stranger)
    run = start(floats=True)
    assert run.hits < 2
    (warning,) = run.warnings
    assert str(folder) in warning
    again = start(floats=True)
    assert (again.hits, again.warnings) == (2, [])


def test_code_in_which_a_page_was_lost_is_damaged_although_it_can_be_unpickled(tmp_path):
    """LLVM would run it."""
    path = tmp_path / "code"
    compiled_cache._write(str(path), b"code" * 5000)
    content = bytearray(path.read_bytes())
    content[8192:12288] = bytes(4096)
    path.write_bytes(content)
    pickle.loads(content[compiled_cache.CHECKSUM_BYTES :])
    with pytest.raises(ValueError, match="damaged"):
        compiled_cache._read(str(path))


@pytest.mark.parametrize("file", FILES)
def test_a_file_that_is_missing_is_made_again(start, file):
    FILES[file](start().folder).unlink()
    assert (start().warnings, start().hits) == ([], 1)


@pytest.mark.parametrize("file", FILES)
def test_a_file_that_can_neither_be_used_nor_replaced_is_left(start, file):
    path = FILES[file](start().folder)
    path.unlink()
    path.mkdir()
    assert len(start().warnings) == 1
    assert len(start().warnings) == 1
    assert [name for name in files_below(path.parent) if ".tmp." in name] == []


def test_code_of_another_signature_is_not_run(start):
    """Two processes that compile at once may give one name to two signatures."""
    folder = start(floats=True).folder
    one, other = sorted(folder.glob("*.add-*.nbc"))
    shutil.copyfile(one, other)
    assert start(floats=True).hits == 1
    assert start(floats=True).hits == 2


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
        monkeypatch.setattr(compiled_cache, "write_whole", full)
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


def test_only_the_first_problem_is_a_warning(start, caplog):
    caplog.set_level(logging.INFO, "kvgpu")
    folder = start(floats=True).folder
    for path in folder.glob("*.add-*.nbc"):
        path.write_bytes(b"")
    start(floats=True)
    levels = [record.levelno for record in caplog.records if record.name.startswith("kvgpu")]
    assert levels == [logging.WARNING, logging.INFO]
