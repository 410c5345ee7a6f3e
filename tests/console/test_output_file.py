"""Files that a command writes: whole or not at all."""

import os
import stat
import tempfile
import threading
from contextlib import nullcontext
from pathlib import Path

import pytest

from kvgpu.console.output_file import output_file, place_of
from kvgpu.errors import ConfigError


def write(path, content=b"new"):
    with output_file(path) as file:
        file.write(content)


def fail(path, error):
    with output_file(path) as file:
        file.write(b"half")
        raise error


def test_what_is_written_is_there_at_the_end_and_nothing_else(tmp_path):
    write(tmp_path / "out")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("out", b"new")]


def test_until_then_the_old_file_is_there(tmp_path):
    path = tmp_path / "out"
    path.write_bytes(b"old")
    with output_file(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize("old", [None, b"old"])
def test_after_an_error_all_is_as_before(tmp_path, error, old):
    path = tmp_path / "out"
    if old is not None:
        path.write_bytes(old)
    with pytest.raises(error):
        fail(path, error)
    assert [p.read_bytes() for p in tmp_path.iterdir()] == ([] if old is None else [old])


def test_the_mode_of_the_old_file_is_kept(tmp_path):
    path = tmp_path / "out"
    path.write_bytes(b"old")
    path.chmod(0o604)
    write(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o604


def test_a_new_file_has_the_mode_that_open_gives(tmp_path):
    (tmp_path / "plain").write_bytes(b"")
    write(tmp_path / "out")
    assert (tmp_path / "out").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("there", [False, True])
def test_a_link_is_followed_and_stays(tmp_path, there):
    (tmp_path / "folder").mkdir()
    if there:
        (tmp_path / "folder" / "real").write_bytes(b"old")
    link = tmp_path / "link"
    link.symlink_to("folder/real")
    write(link)
    assert link.is_symlink()
    assert (tmp_path / "folder" / "real").read_bytes() == b"new"


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("missing/out", FileNotFoundError),
        ("folder", IsADirectoryError),
        (".", IsADirectoryError),
        ("file/out", NotADirectoryError),
        ("x" * 300, OSError),
        ("loop", OSError),
    ],
)
def test_where_nothing_can_be_written_it_is_said_at_once_with_the_name(tmp_path, name, error):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(error) as raised, output_file(tmp_path / name):
        pytest.fail("the block must not be entered")
    assert raised.value.filename in (str(tmp_path / name), tmp_path / name)


@pytest.fixture
def nobody():
    """Root may write anywhere, so be another one for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    yield
    os.seteuid(0)


@pytest.mark.parametrize("mode", [0o555, 0o755])
def test_what_may_not_be_written_is_not(nobody, mode):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        path.write_bytes(b"old")
        path.chmod(0o444)
        Path(folder).chmod(mode)
        with pytest.raises(PermissionError, match="file"), output_file(path):
            pytest.fail("the block must not be entered")
        with pytest.raises(PermissionError, match="new") if mode == 0o555 else nullcontext():
            write(Path(folder) / "new")
        Path(folder).chmod(0o755)
        assert path.read_bytes() == b"old"


def test_the_longest_name_can_be_written(tmp_path):
    write(tmp_path / ("x" * 255))
    assert (tmp_path / ("x" * 255)).read_bytes() == b"new"


def test_a_name_of_other_bytes_than_utf_8_can_be_written(tmp_path):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xe9\xff"))
    write(path)
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("name", ["a\0b", "\ud800"])
def test_what_is_no_name_is_a_config_error(name):
    with pytest.raises(ConfigError, match="name of a file"):
        place_of(Path(name))
    with pytest.raises(ConfigError, match="name of a file"):
        write(Path(name))


def test_a_device_is_written_as_it_is():
    write(Path("/dev/null"))
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_a_pipe_is_written_as_it_is(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    got = []
    reader = threading.Thread(target=lambda: got.append(path.read_bytes()))
    reader.start()
    write(path)
    reader.join()
    assert got == [b"new"]
    assert path.is_fifo()
