"""Files that only the user and root can have written, so that their contents may be run.

Checking a path and using it afterwards is safe here. Links are resolved, then folders are checked from / downwards.
In a folder that only the user and root may write, no other user can add, rename or replace an entry. In a folder with
the sticky bit, no other user can rename or replace entries that belong to these two. So in a folder that has passed,
the next name always leads to the same place, and in the end the whole path does. A file is checked by the descriptor
from which it is read.
"""

import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path

ROOT = 0


def trusted_folder(folder: Path) -> Path:
    """Check a folder and all folders above it; missing ones are made, with access for the user only.

    Args:
        folder: Path of the folder, which may be relative and contain links.

    Returns:
        The real path of the folder.

    Raises:
        PermissionError: Another user may change the folder or one above it; nothing is made there.
        OSError: The path is not a folder, or the folder cannot be made.

    O(folders above it).
    """
    real = Path(os.path.realpath(folder))
    for path in (*reversed(real.parents), real):
        status = _made(path)
        if not stat.S_ISDIR(status.st_mode):  # links have been resolved, so a link is an error too
            raise NotADirectoryError(f"{path} is not a folder")
        _refuse_what_others_write(path, status, sticky_is_enough=path != real)
    return real


def read_trusted(path: str) -> bytes:
    """Read a file in a trusted folder.

    Raises:
        PermissionError: The file belongs to another user, others may write it, or it is not a regular file.
        OSError: The file cannot be read.

    O(bytes).
    """
    # Opening a link is an error, and opening a pipe does not wait for its writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise PermissionError(f"{path} is not a regular file")
        _refuse_what_others_write(path, status)
        return file.read()


def write_whole(path: str, data: bytes) -> None:
    """Replace `path` atomically by a file that only the user may read or write.

    The data are on the disk before the file gets its name, so a power cut leaves either the old file or the new one.

    Raises:
        OSError: The file cannot be written; the old file is unchanged.

    O(bytes).
    """
    beside = f"{path}.tmp.{secrets.token_hex(8)}"
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        os.replace(beside, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(beside)
        raise


def _made(path: Path) -> os.stat_result:
    """Return the status of a folder, after making it if it does not exist."""
    try:
        return os.lstat(path)
    except FileNotFoundError:
        with suppress(FileExistsError):  # another process was faster
            os.mkdir(path, 0o700)
    status = os.lstat(path)
    if status.st_uid == os.geteuid() and ~status.st_mode & 0o700:
        path.chmod(0o700)  # the umask had removed permissions that the owner needs
    return status


def _refuse_what_others_write(path: Path | str, status: os.stat_result, *, sticky_is_enough: bool = False) -> None:
    if status.st_uid not in (ROOT, os.geteuid()):
        raise PermissionError(f"{path} belongs to user {status.st_uid}")
    closed = not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if not closed and not (sticky_is_enough and status.st_mode & stat.S_ISVTX):
        mode = stat.S_IMODE(status.st_mode)
        raise PermissionError(f"others may write {path} (mode {mode:04o}; `chmod go-w` closes it)")
