"""Compressed traces: gzip and zstd are read, in bounded memory."""

import gzip
import io
import zlib
from pathlib import Path
from typing import Any, BinaryIO

from kvgpu.errors import MissingPackageError, TraceError

GZIP = b"\x1f\x8b"
ZSTD = b"\x28\xb5\x2f\xfd"

AT_ONCE = 512
"""Compressed bytes that are decompressed at once: of zstd, these may become 16 MiB."""


def decompressed(file: BinaryIO, head: bytes, path: Path) -> BinaryIO:
    """Return what a file holds, whose first bytes say whether it is compressed. O(1).

    Args:
        file: The file, from its beginning.
        head: Its first bytes.
        path: Its name, for messages.

    Raises:
        MissingPackageError: It is compressed by zstd, which needs a package that is not installed.
    """
    if head.startswith(GZIP):
        return io.BufferedReader(_Gzip(file, path))
    if head.startswith(ZSTD):
        return io.BufferedReader(_Zstd(file, path))
    return file


class _Gzip(io.RawIOBase):
    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file = gzip.GzipFile(fileobj=file)
        self._path = path

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        try:
            return self._file.readinto(buffer)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise TraceError(f"{self._path}: compressed by gzip, and cut off or damaged: {error}") from None


class _Zstd(io.RawIOBase):
    """Frames of zstd, one after the other; unlike zstandard's own reader it notices that the last one was cut off."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        try:
            import zstandard
        except ImportError as error:
            raise MissingPackageError(
                f"{path}: compressed by zstd: install kvgpu[traces], which brings zstandard, or decompress it ({error})"
            ) from None
        self._damaged = zstandard.ZstdError
        self._make = zstandard.ZstdDecompressor().decompressobj
        self._file, self._path = file, path
        self._frame: Any = None
        self._compressed = b""
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._ready:
            self._compressed = self._compressed or self._file.read(AT_ONCE)
            if not self._compressed:
                if self._frame is not None:
                    self._refuse("it ends inside of a frame")
                return 0
            self._decompress()
        part = self._ready[: len(buffer)]
        self._ready = self._ready[len(part) :]
        buffer[: len(part)] = part
        return len(part)

    def _decompress(self) -> None:
        if self._frame is None:
            self._frame = self._make()
        try:
            self._ready = memoryview(self._frame.decompress(self._compressed))
        except self._damaged as error:
            self._refuse(str(error))
        self._compressed = b""
        if self._frame.eof:
            self._compressed = self._frame.unused_data
            self._frame = None

    def _refuse(self, why: str) -> None:
        raise TraceError(f"{self._path}: compressed by zstd, and cut off or damaged: {why}") from None
