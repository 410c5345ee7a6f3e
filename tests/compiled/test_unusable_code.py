"""Compiled code on disk that is not run: others may have written it, or it is damaged."""

import logging
import os
import pickle
import shutil
import tempfile

import pytest
from support.compiled_code import FILES, files_below

from kvgpu.compiled import code_files
from kvgpu.compiled.trusted_files import read_trusted

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
    path.write_bytes(code_files.checksum_of(payload) + payload)
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
    "a checked pickle of something else": lambda path, stranger: code_files.write_object(path, 7),
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
    code_files.write_object(str(path), b"code" * 5000)
    content = bytearray(path.read_bytes())
    content[8192:12288] = bytes(4096)
    path.write_bytes(content)
    pickle.loads(content[code_files.CHECKSUM_BYTES :])
    with pytest.raises(ValueError, match="damaged"):
        code_files.read_object(str(path), read_trusted)


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


def test_only_the_first_problem_is_a_warning(start, caplog):
    caplog.set_level(logging.INFO, "kvgpu")
    folder = start(floats=True).folder
    for path in folder.glob("*.add-*.nbc"):
        path.write_bytes(b"")
    start(floats=True)
    levels = [record.levelno for record in caplog.records if record.name.startswith("kvgpu")]
    assert levels == [logging.WARNING, logging.INFO]
