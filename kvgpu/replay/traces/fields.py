"""Fields of one line of a trace: what each must be, and what is said if it is not."""

import reprlib
from typing import Any, NamedTuple

import msgspec

from kvgpu.errors import TraceError
from kvgpu.replay.traces.lines import check_line, looks_like

LARGEST = 10**15
"""Largest timestamp: every integer up to this one is an exact float."""

LARGEST_LENGTH = 10**7
"""Most tokens that one request may have, or generate: more than the context of any model, yet they fit into memory."""

ID_BITS = 48


class TraceFormat(NamedTuple):
    """How lines are written: tokens per hash id, the unit of timestamps in ms, and whether ids may be anything."""

    block_tokens: int
    timestamp_ms: float
    any_ids: bool = False


class Fields(NamedTuple):
    """A request as a line has it: arrival in ms, tokens of prompt and output, and hash ids or, if those are None, the
    tokens of the prompt."""

    arrival_ms: float
    input_length: int
    output_length: int
    ids: list[Any] | None
    tokens: list[int] | None


def object_of(text: bytes, where: str) -> dict[str, Any]:
    """Return the JSON object of a line. O(len(text)).

    Raises:
        TraceError: The line is none; the message begins with `where`.
    """
    check_line(text, where)
    if not text.startswith(b"{"):
        raise TraceError(f"{where}: one JSON object per line is expected, but this is {looks_like(text)}")
    try:
        line = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        hint = "; it has NUL bytes: the file was cut off" if b"\0" in text else ""
        raise TraceError(f"{where}: not one JSON object: {error}{hint}") from None
    assert isinstance(line, dict)
    return line


def request_of(line: dict[str, Any], where: str, format: TraceFormat) -> Fields:
    """Return the request of a line. O(ids, or tokens).

    Args:
        line: Field -> value.
        where: File and line, for messages.
        format: How the line is written.

    Raises:
        TraceError: A field is missing, or out of range.
    """
    arrival_ms = _number(line, "timestamp", LARGEST, where) * format.timestamp_ms
    output_length = _length(line, "output_length", 0, where)
    if format.any_ids and "token_ids" in line:
        tokens = _tokens(line, where)
        return Fields(arrival_ms, len(tokens), output_length, None, tokens)
    input_length = _length(line, "input_length", 1, where)
    ids = _field(line, "hash_ids", where)
    if not isinstance(ids, list) or not all(map(_is_any_id if format.any_ids else _is_id, ids)):
        kind = "integers or strings" if format.any_ids else f"integers of 0 to 2**{ID_BITS} - 1"
        raise TraceError(f"{where}: field 'hash_ids' must be a list of {kind}")
    needed = _num_ids(input_length, format.block_tokens)
    if len(ids) != needed:
        raise TraceError(
            f"{where}: field 'hash_ids' has {len(ids)} ids, input_length {input_length} needs {needed} of "
            f"{format.block_tokens} tokens: --trace-block-size N says how many tokens an id stands for"
            + _fitting(input_length, len(ids))
        )
    return Fields(arrival_ms, input_length, output_length, ids, None)


def has_hashes(ids: Any) -> bool:
    """Return whether these are ids that only one's own traces may have: hashes as text, or of more bits. O(ids)."""
    return isinstance(ids, list) and all(map(_is_any_id, ids)) and not all(map(_is_id, ids))


def _is_id(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << ID_BITS


def _is_any_id(value: Any) -> bool:
    return type(value) in (int, str)


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


def _tokens(line: dict[str, Any], where: str) -> list[int]:
    tokens = line["token_ids"]
    if not isinstance(tokens, list) or not 1 <= len(tokens) <= LARGEST_LENGTH:
        raise TraceError(f"{where}: field 'token_ids' must be a list of 1 to {LARGEST_LENGTH} integers")
    if not all(type(token) is int for token in tokens):
        raise TraceError(f"{where}: field 'token_ids' must be a list of integers")
    if "input_length" in line and _length(line, "input_length", 1, where) != len(tokens):
        raise TraceError(f"{where}: field 'token_ids' has {len(tokens)} tokens, input_length {line['input_length']}")
    return tokens


def _num_ids(tokens: int, per_id: int) -> int:
    return -(-tokens // per_id)


def _fitting(tokens: int, num_ids: int) -> str:
    """Return a hint: the least number of tokens per id for which the line would be right."""
    size = _num_ids(tokens, max(num_ids, 1))
    return f" ({size} would fit this line)" if _num_ids(tokens, size) == num_ids else ""
