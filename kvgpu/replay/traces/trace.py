"""Traces: requests as flat arrays, read from JSON lines of two published formats, or from one's own lines or table."""

import os
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kvgpu.errors import TraceError, UnknownNameError
from kvgpu.replay.traces.fields import TraceFormat, has_hashes, object_of, request_of
from kvgpu.replay.traces.lines import lines_of
from kvgpu.replay.traces.names import Names
from kvgpu.replay.traces.ranges import check_whole
from kvgpu.replay.traces.rows import Header, header_of

LARGEST_BLOCK = 1 << 15
"""Most tokens per hash id: the tokens of all ids are numbered in 63 bits."""

MOONCAKE, BAILIAN, OWN = "mooncake", "bailian", "own"
FORMATS = {MOONCAKE: TraceFormat(512, 1.0), BAILIAN: TraceFormat(16, 1000.0), OWN: TraceFormat(16, 1.0, any_ids=True)}
"""Mooncake FAST'25 (github.com/kvcache-ai/Mooncake), Alibaba's qwen-bailian-usagetraces-anon, and that of one's own
traces, as JSON lines or as a table."""

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

    def chosen(self, which: npt.NDArray[np.bool_]) -> "Trace":
        """Return the requests for which this is true, bool [requests]. O(ids)."""
        counts = np.diff(self.offsets)
        return Trace(
            self.name,
            self.block_tokens,
            self.arrival_ms[which],
            self.input_length[which],
            self.output_length[which],
            np.concatenate([[0], np.cumsum(counts[which])]).astype(np.int64),
            self.ids[np.repeat(which, counts)],
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


def _told_by(line: dict[str, Any]) -> str:
    """Return the format of a line: only Bailian lines name their conversation, only one's own have tokens or hashes."""
    if BAILIAN_FIELD in line:
        return BAILIAN
    return OWN if "token_ids" in line or has_hashes(line.get("hash_ids")) else MOONCAKE


class _Reader:
    """Makes requests of lines, one after the other."""

    def __init__(self, block_tokens: int | None) -> None:
        self.rows = _Rows()
        self._block_tokens = block_tokens
        self._names = Names()

    def format(self, name: str) -> TraceFormat:
        """Return a format, with the number of tokens per id that the caller gave."""
        found = FORMATS[name]
        return found if self._block_tokens is None else found._replace(block_tokens=self._block_tokens)

    def add(self, line: dict[str, Any], where: str, name: str) -> None:
        """Add the request of a line, in the format of this name."""
        format = self.format(name)
        request = request_of(line, where, format)
        if request.tokens is not None:
            ids = self._names.of_tokens(request.tokens, format.block_tokens)
        else:
            assert request.ids is not None
            ids = self._names.of_ids(request.ids) if format.any_ids else request.ids
        self.rows.add(request.arrival_ms, request.input_length, request.output_length, ids)


def read_trace(
    path: Path, format_name: str = "auto", skip_bad_lines: bool = False, block_tokens: int | None = None
) -> Trace:
    """Read a trace. O(bytes) time; memory for one line and the arrays of the trace, and for the names of one's own ids.

    Args:
        path: The file or pipe; may be compressed by gzip or zstd.
        format_name: `mooncake`, `bailian`, `own`, or `auto` to detect it from the header of a table, or from the fields
            of the first line that can be read.
        skip_bad_lines: Whether to count lines that cannot be read, instead of stopping at the first one.
        block_tokens: Tokens that one hash id stands for; None for the number in the published traces of the format.
            The ids of a line cover exactly its input: as many ids as input_length needs, no more and no fewer.

    Raises:
        TraceError: A line cannot be read (the message names file, line and field), no line can be read, or the file is
            not a trace.
        UnknownNameError: There is no such format.
        ConfigError: `block_tokens` is out of range.
        MissingPackageError: The file is compressed by zstd, and zstandard is not installed.
        OSError: The file cannot be read.
    """
    if format_name not in (*FORMATS, "auto"):
        raise UnknownNameError("trace format", format_name, [*FORMATS, "auto"])
    if block_tokens is not None:
        check_whole("tokens per hash id (--trace-block-size)", block_tokens, 1, LARGEST_BLOCK)
    name = None if format_name == "auto" else format_name
    reader = _Reader(block_tokens)
    header: Header | None = None
    first_error = ""
    bad_lines = 0
    for number, text in lines_of(path):
        where = f"{path}:{number}"
        if not reader.rows.counts and header is None and name in (None, OWN) and (header := header_of(text)):
            name = OWN
            continue
        try:
            line = object_of(text, where) if header is None else header.fields(text, where)
            found = name or _told_by(line)
            reader.add(line, where, found)
            name = found
        except TraceError as error:
            if not skip_bad_lines:
                raise
            first_error = first_error or f"; the first: {error}"
            bad_lines += 1
    if name is None or not reader.rows.counts:
        raise TraceError(f"{path}: no request in it ({bad_lines} bad lines{first_error})")
    return reader.rows.trace(readable(path.name), reader.format(name).block_tokens, bad_lines)


def readable(name: str) -> str:
    """Return the name of a file as text that can be written, though the name may not be UTF-8. O(len(name))."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
