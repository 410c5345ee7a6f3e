"""Traces: requests as flat arrays, read from JSON lines of two published formats."""

import os
import reprlib
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from kvgpu.errors import TraceError, UnknownNameError
from kvgpu.replay.traces.lines import LONGEST_LINE, lines_of, looks_like
from kvgpu.replay.traces.ranges import check_whole


class TraceFormat(NamedTuple):
    """How one publisher writes traces: tokens per hash id, and the unit of timestamps in ms."""

    block_tokens: int
    timestamp_ms: float


FORMATS = {"mooncake": TraceFormat(512, 1.0), "bailian": TraceFormat(16, 1000.0)}
"""Mooncake FAST'25 (github.com/kvcache-ai/Mooncake) and Alibaba's qwen-bailian-usagetraces-anon."""

LARGEST = 10**15
"""Largest timestamp: every integer up to this one is an exact float."""

LARGEST_LENGTH = 10**7
"""Most tokens that one request may have, or generate: more than the context of any model, yet they fit into memory."""

LARGEST_BLOCK = 1 << 15
"""Most tokens per hash id: the tokens of all ids are numbered in 63 bits."""

ID_BITS = 48

BAILIAN_FIELD = "chat_id"
"""A field that only Bailian lines have."""


@dataclass
class Trace:
    """Requests of a trace, in order of arrival.

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
        """Return the hash ids of one request, as a view."""
        return self.ids[self.offsets[request] : self.offsets[request + 1]]

    def head(self, limit: int | None) -> "Trace":
        """Return the first `limit` requests; all if it is None."""
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
    """Collects requests as plain numbers instead of objects, since a trace may have millions."""

    def __init__(self) -> None:
        self.arrival_ms = array("d")
        self.lengths = array("q")
        self.counts = array("q")
        self.ids = array("q")

    def add(self, arrival_ms: float, input_length: int, output_length: int, ids: Any) -> None:
        self.arrival_ms.append(arrival_ms)
        self.lengths.extend((input_length, output_length))
        self.counts.append(len(ids))
        self.ids.frombytes(np.asarray(ids, np.int64).tobytes())

    def trace(self, name: str, block_tokens: int, bad_lines: int = 0) -> Trace:
        arrival_ms = np.array(self.arrival_ms, np.float64)
        order = np.argsort(arrival_ms, kind="stable")
        lengths = np.array(self.lengths, np.int64).reshape(-1, 2)[order]
        counts = np.array(self.counts, np.int64)
        begins = (np.cumsum(counts) - counts)[order]
        offsets = np.zeros(len(counts) + 1, np.int64)
        np.cumsum(counts[order], out=offsets[1:])
        # Place of each id before the requests were sorted.
        places = np.repeat(begins - offsets[:-1], counts[order]) + np.arange(offsets[-1])
        ids = np.array(self.ids, np.int64)[places]
        return Trace(name, block_tokens, arrival_ms[order], lengths[:, 0], lengths[:, 1], offsets, ids, bad_lines)


def from_requests(name: str, block_tokens: int, requests: Iterable[tuple[float, int, int, Any]]) -> Trace:
    """Make a trace from (arrival in ms, input tokens, output tokens, hash ids) of each request."""
    rows = _Rows()
    for request in requests:
        rows.add(*request)
    return rows.trace(name, block_tokens)


def _field(line: dict[str, Any], field: str, where: str) -> Any:
    if field not in line:
        raise TraceError(f"{where}: field '{field}' is missing; the line has {reprlib.repr(list(line))}")
    return line[field]


def _number(line: dict[str, Any], field: str, largest: int, where: str) -> float:
    value = _field(line, field, where)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= largest:
        shown = reprlib.repr(value)
        raise TraceError(f"{where}: field '{field}' must be a number of 0 to {largest}, got {shown}")
    return value


def _length(line: dict[str, Any], field: str, least: int, where: str) -> int:
    value = _number(line, field, LARGEST_LENGTH, where)
    if value != int(value):
        raise TraceError(f"{where}: field '{field}' must be an integer, got {value!r}")
    if value < least:
        raise TraceError(f"{where}: field '{field}' must be at least {least}")
    return int(value)


def _object(text: bytes, where: str) -> dict[str, Any]:
    if len(text) > LONGEST_LINE:
        raise TraceError(f"{where}: a line of more than {LONGEST_LINE:,} bytes")
    if not text.startswith(b"{"):
        raise TraceError(f"{where}: one JSON object per line is expected, but this is {looks_like(text)}")
    try:
        line = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        hint = "; it has NUL bytes: the file was cut off" if b"\0" in text else ""
        raise TraceError(f"{where}: not one JSON object: {error}{hint}") from None
    assert isinstance(line, dict)
    return line


def _request(line: dict[str, Any], where: str, format: TraceFormat) -> tuple[float, int, int, list[int]]:
    arrival_ms = _number(line, "timestamp", LARGEST, where) * format.timestamp_ms
    input_length = _length(line, "input_length", 1, where)
    output_length = _length(line, "output_length", 0, where)
    ids = _field(line, "hash_ids", where)
    if not isinstance(ids, list) or not all(type(i) is int and 0 <= i < 1 << ID_BITS for i in ids):
        raise TraceError(f"{where}: field 'hash_ids' must be a list of integers of 0 to 2**{ID_BITS} - 1")
    needed = _num_ids(input_length, format.block_tokens)
    if len(ids) != needed:
        raise TraceError(
            f"{where}: field 'hash_ids' has {len(ids)} ids, input_length {input_length} needs {needed} of "
            f"{format.block_tokens} tokens: --trace-block-size N says how many tokens an id stands for"
            + _fitting(input_length, len(ids))
        )
    return arrival_ms, input_length, output_length, ids


def _num_ids(tokens: int, per_id: int) -> int:
    return -(-tokens // per_id)


def _fitting(tokens: int, num_ids: int) -> str:
    """Return a hint: the least number of tokens per id for which the line would be right."""
    size = _num_ids(tokens, max(num_ids, 1))
    return f" ({size} would fit this line)" if _num_ids(tokens, size) == num_ids else ""


def _told_by(line: dict[str, Any]) -> TraceFormat:
    """Return the format of a line: only Bailian lines name their conversation."""
    return FORMATS["bailian" if BAILIAN_FIELD in line else "mooncake"]


def read_trace(
    path: Path, format_name: str = "auto", skip_bad_lines: bool = False, block_tokens: int | None = None
) -> Trace:
    """Read a trace from JSON lines. O(bytes) time; memory for one line and the arrays of the trace.

    Args:
        path: The file or pipe; may be compressed by gzip.
        format_name: `mooncake`, `bailian`, or `auto` to detect it from the fields of the first line that can be read.
        skip_bad_lines: Whether to count lines that cannot be read, instead of stopping at the first one.
        block_tokens: Tokens that one hash id stands for; None for the number in the published traces of the format.
            The ids of a line cover exactly its input: as many ids as input_length needs, no more and no fewer.

    Raises:
        TraceError: A line cannot be read (the message names file, line and field), no line can be read, or the file is
            not a trace.
        UnknownNameError: There is no such format.
        ConfigError: `block_tokens` is out of range.
        OSError: The file cannot be read.
    """
    if format_name not in (*FORMATS, "auto"):
        raise UnknownNameError("trace format", format_name, [*FORMATS, "auto"])
    if block_tokens is not None:
        check_whole("tokens per hash id (--trace-block-size)", block_tokens, 1, LARGEST_BLOCK)
    format = FORMATS.get(format_name)
    rows = _Rows()
    first_error = ""
    bad_lines = 0
    for number, text in lines_of(path):
        where = f"{path}:{number}"
        try:
            line = _object(text, where)
            found = format or _told_by(line)
            if block_tokens is not None:
                found = found._replace(block_tokens=block_tokens)
            rows.add(*_request(line, where, found))
            format = found
        except TraceError as error:
            if not skip_bad_lines:
                raise
            first_error = first_error or f"; the first: {error}"
            bad_lines += 1
    if format is None or not rows.counts:
        raise TraceError(f"{path}: no request in it ({bad_lines} bad lines{first_error})")
    # A name that is not UTF-8 could not be written.
    name = os.fsencode(path.name).decode("utf-8", "backslashreplace")
    return rows.trace(name, format.block_tokens, bad_lines)
