"""`CodeFiles`: the files in which the compiled code of one function lies."""

import hashlib
import itertools
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba.core.serialize import dumps

from kvgpu.compiled.trusted_files import write_whole

CHECKSUM_BYTES = 16


class CodeFiles:
    """The files of one function: an index, which maps a signature and a processor to a file, and these files.

    A file also holds its key: if two processes compile at once, one may overwrite the other's file or index.

    folder: Where they lie.

    Args:
        path: Of the files, without their endings.
        stamp: Digest of the source that the code must have been made of.
        read: Reads a file, or raises OSError.
    """

    def __init__(self, path: Path, stamp: bytes, read: Callable[[str], bytes]) -> None:
        self.folder = path.parent
        self._path = str(path)
        self._stamp = stamp
        self._read = read

    def load(self, key: Any) -> Any:
        """Return what is stored for a key, or None."""
        name = self._index().get(key)
        if name is None:
            return None
        try:
            kept, data = read_object(self._file(name), self._read)
        except FileNotFoundError:
            return None
        return data if kept == key else None

    def save(self, key: Any, data: Any) -> None:
        """Store something for a key, in place of what was stored before."""
        try:
            numbers = self._index()
        except Exception:  # damaged or not trusted: `load` has reported it
            numbers = {}
        taken = set(numbers.values())
        free = next(number for number in itertools.count(1) if number not in taken)
        number = numbers.setdefault(key, free)
        write_object(self._file(number), (key, data))
        if number == free:
            self._write_index(numbers)

    def flush(self) -> None:
        """Forget everything that is stored."""
        self._write_index({})

    def _file(self, number: int) -> str:
        return f"{self._path}.{number}.nbc"

    def _index(self) -> dict[Any, int]:
        """Return the index, key -> number of its file; an empty one if it was written for another source."""
        try:
            stamp, numbers = read_object(f"{self._path}.nbi", self._read)
        except FileNotFoundError:
            return {}
        return numbers if stamp == self._stamp else {}

    def _write_index(self, numbers: dict[Any, int]) -> None:
        write_object(f"{self._path}.nbi", (self._stamp, numbers))


def read_object(path: str, read: Callable[[str], bytes]) -> Any:
    """Read an object that `write_object` has written.

    The checksum does not defend against an attacker; the check of who may write does. The checksum finds files that
    were cut short, and machine code that a power cut has damaged, which LLVM would run unchecked.

    Raises:
        ValueError: The file is damaged.
        OSError: It cannot be read.
    """
    content = read(path)
    checksum, data = content[:CHECKSUM_BYTES], content[CHECKSUM_BYTES:]
    if checksum != checksum_of(data):
        raise ValueError(f"{path} is damaged")
    return pickle.loads(data)


def write_object(path: str, value: Any) -> None:
    """Replace a file atomically by one with an object in it.

    Raises:
        OSError: The file cannot be written; the old one is unchanged.
    """
    data: bytes = dumps(value)
    write_whole(path, checksum_of(data) + data)


def checksum_of(data: bytes) -> bytes:
    """Return the checksum with which a file begins."""
    return hashlib.blake2b(data, digest_size=CHECKSUM_BYTES).digest()
