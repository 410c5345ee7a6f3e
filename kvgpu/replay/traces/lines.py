"""Lines of a trace file, compressed or not, of limited length; and what a file is if it has no such lines."""

import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from kvgpu.errors import TraceError
from kvgpu.replay.traces.compression import decompressed

LONGEST_LINE = 1 << 24
"""In bytes. The line of a prompt of ten million tokens has up to 8 MB at 16 tokens per id."""

LARGEST_FILE = 1 << 31
"""In bytes, after decompression."""

HEAD = 64
"""Number of first bytes that show what a file is."""

BYTE_ORDER_MARK = b"\xef\xbb\xbf"

_KINDS = {
    b"version https://git-lfs": "a Git LFS pointer and not the trace itself: `git lfs pull` gets that",
    b"\xfd7zXZ": "compressed by xz: decompress it first",
    b"BZh": "compressed by bzip2: decompress it first",
    b"PK\x03\x04": "a ZIP archive: unpack it first",
    b"PAR1": "a Parquet file: write its rows as JSON, one object a line",
    b"ARROW1": "an Arrow file: write its rows as JSON, one object a line",
    b"\x93NUMPY": "a NumPy array and not a trace",
    b"%PDF": "a PDF document and not a trace",
    b"\xff\xfe": "UTF-16 text: convert it to UTF-8",
    b"\xfe\xff": "UTF-16 text: convert it to UTF-8",
    b"{\0": "UTF-16 text: convert it to UTF-8",
    b"\0{": "UTF-16 text: convert it to UTF-8",
    b"\0\0": "full of NUL bytes: it was never written, or cut off",
}
"""First bytes -> what the file is."""


def lines_of(path: Path) -> Iterator[tuple[int, bytes]]:
    """Read the lines of a file one after the other, with only one line in memory.

    Args:
        path: A file or a pipe; gzip and zstd are decompressed.

    Returns:
        (number, line without white space and byte order mark) of each line that is not empty. A line of more than
        `LONGEST_LINE` bytes is cut to one byte more than that.

    Raises:
        TraceError: The file is of a kind that is known not to be a trace, larger than `LARGEST_FILE`, damaged, or a
            device.
        MissingPackageError: It is compressed by zstd, and zstandard is not installed.
        OSError: The file cannot be read.
    """
    left = LARGEST_FILE
    number = 0
    with _opened(path) as file:
        while text := file.readline(LONGEST_LINE + 1):
            number += 1
            is_cut = len(text) > LONGEST_LINE and not text.endswith(b"\n")
            rest = text
            while rest and not rest.endswith(b"\n"):
                left -= len(rest)
                _check_size(left, path)
                rest = file.readline(1 << 20)
            left -= len(rest)
            _check_size(left, path)
            if not is_cut:
                text = text.removeprefix(BYTE_ORDER_MARK).strip()
            if text:
                yield number, text


def check_line(text: bytes, where: str) -> None:
    """Check that a line was not cut by `lines_of`. O(1).

    Raises:
        TraceError: It was; the message begins with `where`.
    """
    if len(text) > LONGEST_LINE:
        raise TraceError(f"{where}: a line of more than {LONGEST_LINE:,} bytes")


def looks_like(text: bytes) -> str:
    """Describe what a line that is not a JSON object seems to be, from its first bytes. O(len(text))."""
    begin = text[:HEAD]
    if not begin.strip(b"\0"):
        return "NUL bytes: the file was cut off, or not written to its end"
    if begin.startswith(b"["):
        return "a JSON array: `jq -c '.[]'` writes its objects one a line"
    if begin.startswith(b"<"):
        return "a page of HTML or XML"
    shown = repr(begin[:40])[1:]
    if (b"," in text or b"\t" in text) and b"{" not in text:
        return f"a row of a table (CSV) without a header of timestamp, output_length and hash_ids or token_ids, {shown}"
    return shown


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        raw = path.open("rb", buffering=0)
    except ValueError as error:
        raise TraceError(f"{path}: cannot be the name of a file: {error}") from None
    with raw:
        status = os.fstat(raw.fileno())
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISFIFO(status.st_mode)):
            raise TraceError(f"{path}: a device; a trace is read from a file or a pipe")
        _check_size(LARGEST_FILE - status.st_size, path)
        head = b""
        while len(head) < HEAD and (more := raw.read(HEAD - len(head))):
            head += more
        for begin, kind in _KINDS.items():
            if head.startswith(begin):
                raise TraceError(f"{path}: {kind}")
        yield decompressed(io.BufferedReader(_Rejoined(head, raw)), head, path)


class _Rejoined(io.RawIOBase):
    """A stream with the bytes already read put back, since a pipe cannot be rewound."""

    def __init__(self, head: bytes, rest: io.FileIO) -> None:
        self._head = head
        self._rest = rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        if not self._head:
            return self._rest.readinto(buffer) or 0
        part = self._head[: len(buffer)]
        self._head = self._head[len(part) :]
        buffer[: len(part)] = part
        return len(part)


def _check_size(left: int, path: Path) -> None:
    if left < 0:
        raise TraceError(f"{path}: larger than {LARGEST_FILE:,} bytes: split it")
