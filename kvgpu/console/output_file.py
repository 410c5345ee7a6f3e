"""A file that a command writes: it appears complete or not at all."""

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
    """Resolve all links of a path. O(parts of the path).

    Raises:
        ConfigError: No file can have this name.
    """
    try:
        os.stat(path)
    except OSError:
        pass  # the file need not exist
    except ValueError as error:
        raise ConfigError(f"{str(path)!r} cannot be the name of a file: {error}") from None
    return Path(os.path.realpath(path))


@contextmanager
def output_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing.

    The output goes into a new file in the same folder. When the block ends, the new file replaces the one at `path`
    and takes over its mode. If the block raises an exception, the new file is removed and `path` is unchanged. If
    `path` is not a regular file (a device, a pipe), it is written directly.

    Args:
        path: The file; links are followed.

    Raises:
        ConfigError: No file can have this name.
        OSError: The folder does not exist or may not be written, the file may not be written, or `path` is a folder.
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
    """Return type and permissions of a file, or None if it does not exist."""
    try:
        return os.stat(path).st_mode
    except FileNotFoundError:
        return None
