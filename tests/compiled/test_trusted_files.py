"""Folders and files that nobody but the user and root can have written."""

import os
import stat
from pathlib import Path

import pytest
from support.other_owner import STRANGER

from kvgpu.compiled.trusted_files import read_trusted, trusted_folder, write_whole


@pytest.fixture
def umask():
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


def mode_of(path):
    return stat.S_IMODE(os.lstat(path).st_mode)


# Folders


@pytest.mark.parametrize("mask", [0o000, 0o002, 0o022, 0o077, 0o277, 0o777])
def test_folders_that_are_made_are_open_to_the_user_only(tmp_path, umask, mask):
    umask(mask)
    folder = trusted_folder(tmp_path / "a" / "b" / "c")
    assert [mode_of(path) for path in (folder, *folder.parents[:2])] == 3 * [0o700]


@pytest.mark.parametrize("mode", [0o755, 0o700, 0o555, 0o500])
def test_a_folder_that_only_the_owner_may_write_is_trusted_and_left_as_it_is(tmp_path, mode):
    folder = tmp_path / "folder"
    folder.mkdir()
    folder.chmod(mode)
    assert trusted_folder(folder) == folder.resolve()
    assert mode_of(folder) == mode


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o777, 0o1777, 0o720, 0o702])
def test_a_folder_that_others_may_write_is_not_trusted(tmp_path, mode):
    folder = tmp_path / "folder"
    folder.mkdir()
    folder.chmod(mode)
    with pytest.raises(PermissionError, match=rf"{folder} \(mode {mode:04o}; `chmod go-w`"):
        trusted_folder(folder)


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o777])
def test_nothing_is_made_below_a_folder_that_others_may_write(tmp_path, mode):
    tmp_path.chmod(mode)
    with pytest.raises(PermissionError, match=f"others may write {tmp_path} "):
        trusted_folder(tmp_path / "a" / "b")
    assert [*tmp_path.iterdir()] == []


def test_a_shared_folder_with_the_sticky_bit_may_lie_above(tmp_path):
    tmp_path.chmod(0o1777)
    assert trusted_folder(tmp_path / "a").is_dir()


def test_in_a_shared_folder_with_the_sticky_bit_a_folder_of_another_user_is_not_trusted(tmp_path, stranger):
    tmp_path.chmod(0o1777)
    folder = tmp_path / "a"
    folder.mkdir(mode=0o755)
    stranger.take(folder)
    with pytest.raises(PermissionError, match=f"{folder} belongs to user {STRANGER}"):
        trusted_folder(folder)


@pytest.mark.parametrize("mode", [0o755, 0o1777])
def test_nothing_is_made_below_a_folder_of_another_user(tmp_path, stranger, mode):
    tmp_path.chmod(mode)
    stranger.take(tmp_path)
    with pytest.raises(PermissionError, match=f"{tmp_path} belongs to user {STRANGER}"):
        trusted_folder(tmp_path / "a")
    assert [*tmp_path.iterdir()] == []


def test_root_may_own_what_another_user_uses(tmp_path, monkeypatch):
    """Folders of the user are a stranger's then, and those of root are not."""
    monkeypatch.setattr(os, "geteuid", lambda: STRANGER)
    assert trusted_folder(Path("/")) == Path("/")


def test_a_link_to_a_trusted_folder_is_followed(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    assert trusted_folder(tmp_path / "link" / "new") == (tmp_path / "folder" / "new").resolve()


def test_where_a_link_leads_is_judged_and_not_where_it_lies(tmp_path):
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    (tmp_path / "link").symlink_to(tmp_path / "open")
    with pytest.raises(PermissionError, match=str(tmp_path / "open")):
        trusted_folder(tmp_path / "link" / "new")


def test_a_link_that_takes_the_place_of_a_folder_after_it_was_resolved_is_not_followed(tmp_path, monkeypatch):
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    monkeypatch.setattr(os.path, "realpath", str)
    with pytest.raises(NotADirectoryError, match="link is not a folder"):
        trusted_folder(tmp_path / "link")


def test_a_link_that_leads_to_itself_is_an_error(tmp_path):
    (tmp_path / "link").symlink_to("link")
    with pytest.raises(OSError, match="link"):
        trusted_folder(tmp_path / "link" / "new")


@pytest.mark.parametrize("below", [(), ("a",)])
def test_a_file_is_no_folder(tmp_path, below):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="file"):
        trusted_folder(tmp_path.joinpath("file", *below))


def test_a_folder_that_another_process_makes_meanwhile_is_used(tmp_path, monkeypatch):
    mkdir = os.mkdir

    def late(path, mode):
        mkdir(path, mode)
        mkdir(path, mode)

    monkeypatch.setattr(os, "mkdir", late)
    assert trusted_folder(tmp_path / "a").is_dir()


# Files


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "file"
    write_whole(str(path), b"contents")
    return path


@pytest.mark.parametrize("mask", [0o000, 0o002, 0o022, 0o077])
def test_a_file_that_is_written_is_open_to_the_user_only(tmp_path, umask, mask):
    umask(mask)
    write_whole(str(tmp_path / "file"), b"contents")
    assert mode_of(tmp_path / "file") == 0o600


def test_what_was_written_is_read(file):
    assert read_trusted(str(file)) == b"contents"


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o400, 0o755])
def test_a_file_that_only_the_owner_may_write_is_read(file, mode):
    file.chmod(mode)
    assert read_trusted(str(file)) == b"contents"


@pytest.mark.parametrize("mode", [0o660, 0o602, 0o666])
def test_a_file_that_others_may_write_is_not_read(file, mode):
    file.chmod(mode)
    with pytest.raises(PermissionError, match=f"{file} \\(mode {mode:04o}; `chmod go-w`"):
        read_trusted(str(file))


def test_a_file_of_another_user_is_not_read(file, stranger):
    stranger.take(file)
    with pytest.raises(PermissionError, match=f"{file} belongs to user {STRANGER}"):
        read_trusted(str(file))


def test_a_link_is_not_read(file):
    link = file.with_name("link")
    link.symlink_to(file)
    with pytest.raises(OSError, match="link"):
        read_trusted(str(link))


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(PermissionError, match="not a regular file"):
        read_trusted(str(tmp_path / "pipe"))


def test_a_missing_file_is_one_that_is_not_found(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_trusted(str(tmp_path / "file"))


def test_writing_puts_a_new_file_in_the_place_of_the_old_one(file):
    """Whoever has the old one open may write into it for ever."""
    with file.open("r+b") as old:
        write_whole(str(file), b"new")
        old.write(b"CONTENTS")
    assert read_trusted(str(file)) == b"new"


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError("no space left"), KeyboardInterrupt()])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(file, monkeypatch, step, error):
    def fail(*_):
        raise error

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(type(error)):
        write_whole(str(file), b"new")
    assert [(path.name, path.read_bytes()) for path in file.parent.iterdir()] == [("file", b"contents")]
