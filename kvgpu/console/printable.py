"""Text for a terminal: file names may contain anything, escape sequences included."""

from typing import TextIO


def printable(text: str) -> str:
    """Replace characters that are invisible or cannot be encoded by escapes. O(len(text)).

    Args:
        text: Any text, including what Python makes of a file name that is not UTF-8.

    Returns:
        One line: line ends, control characters, characters that change the direction of writing, and lone surrogates
        are written as in a Python string (`\\x1b`).
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def say(text: str, file: TextIO, flush: bool = False) -> None:
    """Print one line; escapes replace characters that are invisible or not in the file's encoding. O(len(text))."""
    encoding = getattr(file, "encoding", None) or "utf-8"
    shown = printable(text).encode(encoding, "backslashreplace").decode(encoding)
    print(shown, file=file, flush=flush)
