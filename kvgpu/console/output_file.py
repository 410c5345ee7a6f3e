"""A file that a command writes: it takes its place when it is whole, or not at all."""

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from kvgpu.errors import ConfigError


def place_of(path: Path) -> Path:
    """Where a path leads, through links. O(parts of the path).

    Raises:
        ConfigError: No file can have that name.
    """
    try:
        os.stat(path)
    except OSError:
        pass  # it need not exist
    except ValueError as error:
        raise ConfigError(f"{str(path)!r} cannot be the name of a file: {error}") from None
    return Path(os.path.realpath(path))


@contextmanager
def output_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file to be written.

    What is written goes into a new file in the same folder. That takes the place of `path`, with its mode, when the
    block ends; if it ends with an exception, the new file is removed and what was at `path` stays as it was. What is no
    regular file (a device, a pipe) is written as it is.

    Args:
        path: The file; links are followed.

    Raises:
        ConfigError: No file can have that name.
        OSError: There is no such folder, nothing may be written there, or `path` is a folder.
    """
    place = place_of(path)
    mode = _mode_of(path)
    if mode is not None and not stat.S_ISREG(mode):
        with path.open("wb") as file:  # raises for a folder
            yield file
        return
    if mode is not None and not _may_write(place):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    new = place.with_name(f".kvgpu-{secrets.token_hex(8)}")
    try:
        try:
            file = new.open("xb")
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from None
        with file:
            if mode is not None:
                os.chmod(new, stat.S_IMODE(mode))
            yield file
        os.replace(new, place)
    except BaseException:
        with suppress(OSError):
            new.unlink()
        raise


def _may_write(place: Path) -> bool:
    effective = os.access in os.supports_effective_ids
    return os.access(place, os.W_OK, effective_ids=effective)


def _mode_of(path: Path) -> int | None:
    """Type and permissions of what is there; None if nothing is."""
    try:
        return os.stat(path).st_mode
    except FileNotFoundError:
        return None
