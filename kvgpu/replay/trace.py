"""Traces: requests as flat arrays, read from JSON lines of two published formats."""

import reprlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from kvgpu.errors import TraceError, UnknownNameError


class TraceFormat(NamedTuple):
    """How one publisher writes traces: tokens per hash id, and what one timestamp unit is in ms."""

    block_tokens: int
    timestamp_ms: float


FORMATS = {
    "mooncake": TraceFormat(512, 1.0),
    "bailian": TraceFormat(16, 1000.0),
}
"""Mooncake FAST'25 (github.com/kvcache-ai/Mooncake) and Alibaba's qwen-bailian-usagetraces-anon."""

LARGEST = 10**15
"""Of timestamps and lengths: every integer up to here is an exact float."""

BAILIAN_FIELD = "chat_id"
"""A field that only Bailian lines have."""


@dataclass
class Trace:
    """Requests of a trace, in the order of their arrival.

    arrival_ms float64 [n]; input_length, output_length int64 [n], in tokens; ids int64 [total]: hash
    ids of request i at ids[offsets[i]:offsets[i + 1]]; block_tokens: tokens that one id stands for.
    Equal ids stand for equal tokens after an equal prefix.
    """

    name: str
    block_tokens: int
    arrival_ms: npt.NDArray[np.float64]
    input_length: npt.NDArray[np.int64]
    output_length: npt.NDArray[np.int64]
    offsets: npt.NDArray[np.int64]
    ids: npt.NDArray[np.int64]
    bad_lines: int = 0

    def __len__(self) -> int:
        return len(self.input_length)

    def ids_of(self, request: int) -> npt.NDArray[np.int64]:
        """Hash ids of one request; a view."""
        return self.ids[self.offsets[request] : self.offsets[request + 1]]

    def head(self, limit: int | None) -> "Trace":
        """The first `limit` requests; all if None."""
        if limit is None or limit >= len(self):
            return self
        return Trace(
            self.name,
            self.block_tokens,
            self.arrival_ms[:limit],
            self.input_length[:limit],
            self.output_length[:limit],
            self.offsets[: limit + 1],
            self.ids[: self.offsets[limit]],
            self.bad_lines,
        )


class _Rows:
    """Requests while they are collected."""

    def __init__(self) -> None:
        self.rows: list[tuple[float, int, int]] = []
        self.ids: list[npt.NDArray[np.int64]] = []

    def add(self, arrival_ms: float, input_length: int, output_length: int, ids: Any) -> None:
        self.rows.append((arrival_ms, input_length, output_length))
        self.ids.append(np.asarray(ids, np.int64))

    def trace(self, name: str, block_tokens: int, bad_lines: int = 0) -> Trace:
        order = sorted(range(len(self.rows)), key=lambda row: self.rows[row][0])
        table = np.array([self.rows[row] for row in order], np.float64).reshape(-1, 3)
        ids = [self.ids[row] for row in order]
        offsets = np.zeros(len(ids) + 1, np.int64)
        np.cumsum([len(part) for part in ids], out=offsets[1:])
        flat = np.concatenate(ids) if ids else np.empty(0, np.int64)
        lengths = table[:, 1:].astype(np.int64)
        return Trace(
            name, block_tokens, table[:, 0], lengths[:, 0], lengths[:, 1], offsets, flat, bad_lines
        )


def from_requests(
    name: str, block_tokens: int, requests: Iterable[tuple[float, int, int, Any]]
) -> Trace:
    """A trace from (arrival in ms, input tokens, output tokens, hash ids) of each request."""
    rows = _Rows()
    for request in requests:
        rows.add(*request)
    return rows.trace(name, block_tokens)


def _number(line: dict[str, Any], field: str, where: str) -> float:
    value = line.get(field)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= LARGEST:
        shown = reprlib.repr(value)
        raise TraceError(
            f"{where}: field '{field}' must be a number of 0 to {LARGEST}, got {shown}"
        )
    return value


def _parse(text: bytes, where: str, format: TraceFormat) -> tuple[float, int, int, list[int]]:
    try:
        line = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise TraceError(f"{where}: not a JSON object: {error}") from None
    if not isinstance(line, dict):
        raise TraceError(f"{where}: a JSON object is expected, got {type(line).__name__}")
    arrival = _number(line, "timestamp", where) * format.timestamp_ms
    lengths = [_number(line, field, where) for field in ("input_length", "output_length")]
    for field, value in zip(("input_length", "output_length"), lengths, strict=True):
        if value != int(value):
            raise TraceError(f"{where}: field '{field}' must be an integer, got {value!r}")
    if lengths[0] < 1:
        raise TraceError(f"{where}: field 'input_length' must be at least 1")
    ids = line.get("hash_ids")
    if not isinstance(ids, list) or not all(type(i) is int and 0 <= i < 1 << 48 for i in ids):
        raise TraceError(f"{where}: field 'hash_ids' must be a list of integers of 0 to 2**48")
    needed = -(-int(lengths[0]) // format.block_tokens)
    if len(ids) < needed:
        raise TraceError(
            f"{where}: field 'hash_ids' has {len(ids)} ids, input_length {int(lengths[0])} needs "
            f"{needed} of {format.block_tokens} tokens"
        )
    return arrival, int(lengths[0]), int(lengths[1]), ids[:needed]


def _guess_format(lines: list[bytes]) -> str:
    """Bailian lines name their conversation."""
    first = next((line for line in lines if line.strip()), b"")
    return "bailian" if b'"' + BAILIAN_FIELD.encode() + b'"' in first else "mooncake"


def read_trace(path: Path, format_name: str = "auto", skip_bad_lines: bool = False) -> Trace:
    """Read JSON lines.

    Args:
        path: The file.
        format_name: `mooncake`, `bailian`, or `auto` to tell by the fields of the first line.
        skip_bad_lines: Count lines that cannot be read instead of stopping at the first.

    Raises:
        TraceError: A line cannot be read (the message names file, line and field), or none can.
        UnknownNameError: No such format.
        OSError: The file cannot be read.
    """
    lines = path.read_bytes().split(b"\n")
    if format_name == "auto":
        format_name = _guess_format(lines)
    if format_name not in FORMATS:
        raise UnknownNameError("trace format", format_name, [*FORMATS, "auto"])
    format = FORMATS[format_name]
    rows = _Rows()
    bad_lines = 0
    for number, text in enumerate(lines, 1):
        if not text.strip():
            continue
        try:
            rows.add(*_parse(text, f"{path}:{number}", format))
        except TraceError:
            if not skip_bad_lines:
                raise
            bad_lines += 1
    if not rows.rows:
        raise TraceError(f"{path}: no request in it ({bad_lines} bad lines)")
    return rows.trace(path.name, format.block_tokens, bad_lines)
