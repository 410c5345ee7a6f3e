"""Rows of a table (CSV) as the fields of requests."""

import csv
import reprlib
from typing import Any

from kvgpu.errors import TraceError
from kvgpu.replay.traces.lines import LONGEST_LINE, check_line

LONGEST_HEADER = 1 << 16
"""In bytes."""

LISTS = ("hash_ids", "token_ids")
NUMBERS = ("timestamp", "input_length", "output_length")


def header_of(text: bytes) -> "Header | None":
    """Return the header that a line is, or None: it names times, outputs, and ids or tokens. O(len(text))."""
    if text.startswith(b"{") or len(text) > LONGEST_HEADER:
        return None
    delimiter = "\t" if b"\t" in text else ";" if b";" in text else ","
    try:
        names = [cell.strip() for cell in _cells(text, delimiter)]
    except (csv.Error, UnicodeDecodeError):
        return None
    if {"timestamp", "output_length"} <= set(names) and set(LISTS) & set(names):
        return Header(names, delimiter)
    return None


class Header:
    """The names of the columns, which make fields of the rows below it."""

    def __init__(self, names: list[str], delimiter: str) -> None:
        self._names = names
        self._delimiter = delimiter

    def fields(self, text: bytes, where: str) -> dict[str, Any]:
        """Return the fields of a row, lists and numbers as JSON would have them. O(len(text)).

        A list has spaces or commas between its members, and may stand in brackets; empty cells are no fields.

        Raises:
            TraceError: The row cannot be read; the message begins with `where`.
        """
        check_line(text, where)
        try:
            cells = _cells(text, self._delimiter)
        except (csv.Error, UnicodeDecodeError) as error:
            raise TraceError(f"{where}: not a row of a table (CSV): {error}") from None
        if len(cells) != len(self._names):
            raise TraceError(f"{where}: {len(cells)} cells, where the header has {len(self._names)}")
        found: dict[str, Any] = {}
        for name, cell in zip(self._names, cells, strict=True):
            cell = cell.strip()
            if cell and name in LISTS:
                members = [member.strip("'\"") for member in cell.strip("[]").replace(",", " ").split()]
                found[name] = members if name == "hash_ids" else [_token(member) for member in members]
            elif cell and name in NUMBERS:
                found[name] = _number(name, cell, where)
        return found


def _cells(text: bytes, delimiter: str) -> list[str]:
    before = csv.field_size_limit(LONGEST_LINE)
    try:
        return next(csv.reader([text.decode()], delimiter=delimiter, strict=True))
    finally:
        csv.field_size_limit(before)


def _is_whole(text: str) -> bool:
    # Python refuses to read thousands of digits.
    return text.isascii() and text.isdigit() and len(text) <= 40


def _token(text: str) -> int | str:
    return int(text) if _is_whole(text) else text


def _number(name: str, cell: str, where: str) -> int | float:
    try:
        return int(cell) if _is_whole(cell) else float(cell)
    except ValueError:
        raise TraceError(f"{where}: field '{name}' must be a number, got {reprlib.repr(cell)}") from None
