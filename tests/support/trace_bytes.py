"""Files that are nearly traces: good lines, lines with one odd field, junk, and mutations of their bytes."""

import gzip
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st
from support.traces import line

ODD_NUMBERS = [
    ...,
    None,
    True,
    "",
    "1",
    -1,
    -0.5,
    0,
    0.5,
    1e300,
    10**7 + 1,
    10**15,
    10**15 + 1,
    2**63,
    10**400,
    "\ud800",
    [],
    {},
]
ODD_IDS = [..., None, True, "1", {}, 7, [], [[]], [-1], [2**48], [2**64], [1.0], ["1"], [True], [1, 2], [1] * 3000]
ODD_LINES = [
    b"",
    b" ",
    b"{}",
    b"[]",
    b"[" * 5000,
    b"{" * 5000,
    b'{"a":' * 5000,
    b"null",
    b"7",
    b"hello",
    b"\0" * 90,
    b"a,b,c",
    b'"',
    b"{} {}",
    b'{"timestamp": 1e999}',
    b'{"timestamp": NaN}',
    b"\xff\xfe\x00",
    b"timestamp,output_length,input_length,hash_ids",
    b"0,1,10,5",
    b'0,1,"10,5',
    b'{"timestamp": ' + b"9" * 5000 + b"}",
    b'{"input_length": -' + b"9" * 400 + b"}",
    b"version https://git-lfs.github.com/spec/v1",
    b"\xef\xbb\xbf",
    b"<html>",
]
NUMBERS = ["timestamp", "input_length", "output_length"]
PREFIXES = [
    b"\xef\xbb\xbf",
    b"\xff\xfe",
    b"\x1f\x8b",
    b"\x1f\x8b\x08\0\0\0\0\0\0\0",
    b"PK\x03\x04",
    b"\x28\xb5\x2f\xfd",
    b"BZh9",
    b"PAR1",
    b"[",
    b"\0",
    b"version https://git-lfs",
]

small = st.integers(0, 40)


@st.composite
def good_lines(draw: st.DrawFn) -> bytes:
    """Of one format or the other, with as many ids as the input needs."""
    per_id, more = draw(st.sampled_from([(512, {}), (16, {"chat_id": 1}), (16, {})]))
    length = draw(st.integers(1, 1100))
    count = -(-length // per_id)
    begin = draw(small)
    return line(
        timestamp=draw(small | st.sampled_from([0.25, 1_732_000_000_000])),
        input_length=length,
        output_length=draw(small),
        hash_ids=list(range(begin, begin + count)),
        **more,
    )


@st.composite
def odd_fields(draw: st.DrawFn) -> bytes:
    """A good line, but for one field."""
    field, value = draw(
        st.tuples(st.sampled_from(NUMBERS), st.sampled_from(ODD_NUMBERS))
        | st.tuples(st.just("hash_ids"), st.sampled_from(ODD_IDS))
    )
    more = {"chat_id": 1} if draw(st.booleans()) else {}
    return line(**more, **{field: value})


@st.composite
def one_odd_line(draw: st.DrawFn) -> bytes:
    """Good lines, and one that is not."""
    lines = draw(st.lists(good_lines(), max_size=2))
    odd = draw(odd_fields() | odd_fields() | st.sampled_from(ODD_LINES))
    lines.insert(draw(st.integers(0, len(lines))), odd)
    return b"\n".join(lines)


Mutation = Callable[[bytes], bytes]


@st.composite
def mutations(draw: st.DrawFn) -> Mutation:
    """A change of some bytes anywhere."""
    kind = draw(st.sampled_from(["flip", "cut", "insert", "copy", "end"]))
    at, length = draw(st.floats(0, 1)), draw(st.integers(1, 60))
    junk: Any = draw(st.binary(min_size=1, max_size=4))

    def mutate(content: bytes) -> bytes:
        begin = int(at * len(content))
        before, part, after = (content[:begin], content[begin : begin + length], content[begin + length :])
        return {
            "flip": before + bytes(byte ^ junk[0] for byte in part[:1]) + part[1:] + after,
            "cut": before + after,
            "insert": before + junk + part + after,
            "copy": before + part + part + after,
            "end": before,
        }[kind]

    return mutate


WRAPPINGS: list[Mutation] = [
    bytes,
    bytes,
    bytes,
    lambda content: gzip.compress(content, 1),
    lambda content: gzip.compress(content, 1)[:-5],
    lambda content: gzip.compress(gzip.compress(content, 1), 1),
    lambda content: gzip.compress(content, 1) + b"\0junk",
    lambda content: content.decode("latin-1").encode("utf-16"),
    *((lambda content, prefix=prefix: prefix + content) for prefix in PREFIXES),
]


@st.composite
def soup(draw: st.DrawFn) -> bytes:
    """Lines of all kinds, changed anywhere, in whatever makes a file of them."""
    lines = good_lines() | good_lines() | odd_fields() | st.sampled_from(ODD_LINES) | st.binary()
    end = draw(st.sampled_from([b"\n", b"\n", b"\r\n", b"\n\n", b"\r"]))
    content = end.join(draw(st.lists(lines, max_size=6)))
    for mutate in draw(st.lists(mutations(), max_size=3)):
        content = mutate(content)
    content = draw(st.sampled_from(WRAPPINGS))(content)
    for mutate in draw(st.lists(mutations(), max_size=1)):
        content = mutate(content)
    return content


def nearly_traces() -> st.SearchStrategy[bytes]:
    """The content of a file."""
    return one_odd_line() | one_odd_line() | soup()
