"""Text for a terminal: names of files are whatever somebody chose, escape sequences included."""

from typing import TextIO


def printable(text: str) -> str:
    """The text with what is no visible character, or cannot be encoded, as an escape. O(len(text)).

    Args:
        text: Any; what Python made of a file name that is not UTF-8, too.

    Returns:
        One line: line ends, control characters, marks that turn the direction of writing, and lone surrogates are
        written as in a Python string (`\\x1b`).
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def say(text: str, file: TextIO, flush: bool = False) -> None:
    """Print one line, with escapes for what is not visible or not in the encoding of the file. O(len(text))."""
    encoding = getattr(file, "encoding", None) or "utf-8"
    shown = printable(text).encode(encoding, "backslashreplace").decode(encoding)
    print(shown, file=file, flush=flush)
