"""Text for a terminal."""

import io
import string

import pytest

from kvgpu.console.printable import printable, say


@pytest.mark.parametrize(
    "text", ["", string.printable[:95], "Gr\N{LATIN SMALL LETTER U WITH DIAERESIS}n", "\u65e5\u672c"]
)
def test_what_is_visible_is_left_as_it_is(text):
    assert printable(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2Jx", r"\x1b[2Jx"),
        ("\x9b31m", r"\x9b31m"),
        ("a\nb\r\tc", r"a\nb\r\tc"),
        ("\x07\x08\x7f\0", r"\x07\x08\x7f\x00"),
        ("\N{RIGHT-TO-LEFT OVERRIDE}gpj", r"\u202egpj"),
        ("\N{LINE SEPARATOR}", r"\u2028"),
        ("caf\udce9", r"caf\udce9"),
    ],
)
def test_what_is_not_is_an_escape(text, shown):
    assert printable(text) == shown


def test_every_character_is_shown_as_visible_ones():
    everything = "".join(map(chr, range(0x110000)))
    assert printable(everything).isprintable()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_line_is_said_in_any_encoding(encoding):
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding, write_through=True)
    say("a\x1b\N{GREEK SMALL LETTER OMEGA}\udce9", file)
    omega = "\N{GREEK SMALL LETTER OMEGA}" if encoding == "utf-8" else r"\u03c9"
    assert raw.getvalue().decode(encoding) == rf"a\x1b{omega}\udce9" + "\n"


def test_a_file_without_an_encoding_is_written_as_well():
    file = io.StringIO()
    say("a\n", file)
    assert file.getvalue() == "a\\n\n"
