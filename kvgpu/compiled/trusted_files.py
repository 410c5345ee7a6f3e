"""Files that nobody but the user and root can have written, so that what they hold may be run.

Checking a path and using it afterwards is safe here. Links are resolved, then folders are judged from / downwards.
Where only the user and root may write, nobody else can put, rename or replace an entry; under the sticky bit nobody
else can rename or replace those that belong to the two. So behind a folder that has passed the next name leads to the
same place for good, and in the end the whole path does. A file is judged by the descriptor that it is read from.
"""

import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path

ROOT = 0


def trusted_folder(folder: Path) -> Path:
    """Vouch for a folder and all above it; what is missing is made, open to the user only.

    Args:
        folder: It may be relative, and lead through links.

    Returns:
        Where it really is.

    Raises:
        PermissionError: Somebody else may change it, or a folder above it; nothing is made there.
        OSError: It is no folder, or cannot be made.

    O(folders above it).
    """
    real = Path(os.path.realpath(folder))
    for path in (*reversed(real.parents), real):
        status = _made(path)
        if not stat.S_ISDIR(status.st_mode):  # nor a link, by now
            raise NotADirectoryError(f"{path} is not a folder")
        _refuse_what_others_write(path, status, sticky_is_enough=path != real)
    return real


def read_trusted(path: str) -> bytes:
    """What a file in a trusted folder holds.

    Raises:
        PermissionError: It belongs to somebody else, others may write it, or it is no regular file.
        OSError: It cannot be read.

    O(bytes).
    """
    # A link is an error, and a pipe does not wait for its writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise PermissionError(f"{path} is not a regular file")
        _refuse_what_others_write(path, status)
        return file.read()


def write_whole(path: str, data: bytes) -> None:
    """Put a file that only the user may read or write in place of `path`, all of it or nothing.

    It is on the disk before it gets its name: after a power cut there is the old file or the new one.

    Raises:
        OSError: It cannot be written; the old file is as it was.

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
    """The status of a folder, which is made where there is none."""
    try:
        return os.lstat(path)
    except FileNotFoundError:
        with suppress(FileExistsError):  # another process was faster
            os.mkdir(path, 0o700)
    status = os.lstat(path)
    if status.st_uid == os.geteuid() and ~status.st_mode & 0o700:
        path.chmod(0o700)  # the umask had taken away what the owner needs
    return status


def _refuse_what_others_write(path: Path | str, status: os.stat_result, *, sticky_is_enough: bool = False) -> None:
    if status.st_uid not in (ROOT, os.geteuid()):
        raise PermissionError(f"{path} belongs to user {status.st_uid}")
    closed = not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if not closed and not (sticky_is_enough and status.st_mode & stat.S_ISVTX):
        mode = stat.S_IMODE(status.st_mode)
        raise PermissionError(f"others may write {path} (mode {mode:04o}; `chmod go-w` closes it)")
