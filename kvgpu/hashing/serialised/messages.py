"""Messages: ``(parent, tokens, extra)`` of a block, serialised straight from an array of tokens.

Compiled code writes the same bytes as pickle (protocol 5, one frame) or canonical CBOR for such a tuple. The extra keys
arrive serialised by the real serialiser, because pickle's bytes depend on which objects are identical. `trusted`
compares this module's output with the real serialisers before anything relies on it.

Sources: the opcodes in Python's `pickletools`; RFC 8949, sections 3 and 4.2.
"""

import pickle
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from kvgpu.compiled.jit import jit, leaf, put_word, word_at
from kvgpu.hashing.inputs.extra_keys import written

Bytes = npt.NDArray[np.uint8]

PICKLE, CBOR = 0, 1
"""Kinds of messages."""

OVERHEAD_BYTES = 80
"""Upper bound for everything but the parent, the tokens and the ending, including the bytes that the last
`put_word` writes beyond the end."""
MAX_TOKEN_BYTES = 11
"""Upper bound for one token: an opcode, a length, eight bytes and a sign."""
MAX_FRAME_BYTES = 60_000
"""Pickle starts a second frame at 64 KiB, so longer messages are left to pickle itself."""
MIN_PARENT_BYTES, MAX_PARENT_BYTES = 2, 255
"""Limits for pickle. Python keeps one object per value of shorter bytes, so extra keys might refer to the parent."""

PROTOCOL, FRAME, SHORT_BINBYTES, MEMOIZE, MARK = 0x80, 0x95, 0x43, 0x94, 0x28
TUPLE, TUPLE1, TUPLE2, TUPLE3, EMPTY_TUPLE = 0x74, 0x85, 0x86, 0x87, 0x29
BININT, BININT1, BININT2, LONG1 = 0x4A, 0x4B, 0x4D, 0x8A
FRAME_START = 11
"""Bytes before the frame, which its length does not count: the protocol, and the frame's opcode and length."""
NO_EXTRA = (b"N\x87\x94.", b"\xf6")
"""Ending of the message of a block without extra keys, by kind."""
CLOSING_BYTES = 3
"""Bytes of a pickled ending that close the whole tuple, after the extra keys."""

WORD_BYTES = 8
"""Bytes read and written at a time; arrays need this many spare bytes after their end."""
EIGHT = np.uint64(8)

UNSIGNED, NEGATIVE, BYTES, ARRAY = 0x00, 0x20, 0x40, 0x80
"""Major types of CBOR."""


class Span(NamedTuple):
    """Items [start, stop) of an array, for compiled code."""

    data: Any
    start: int
    stop: int


class Message(NamedTuple):
    """Parts of the message of one block, for compiled code.

    parent: uint8; its array is a multiple of WORD_BYTES long.
    tokens: int32 or int64.
    ending: uint8, from `readable`: the end of the message, `NO_EXTRA` or the result of `serialised_extra`.
    lookahead: number of tokens that follow those of the block in their array, and are written behind the extra keys.
    """

    parent: Span
    tokens: Span
    ending: Span
    lookahead: int


@leaf
def put_bytes(out: Any, at: int, source: Span) -> int:
    """Write the bytes of a span, and up to 7 more that follow it; returns the place after the span."""
    for place in range(source.start, source.stop, WORD_BYTES):
        put_word(out, at + place - source.start, word_at(source.data, place))
    return at + source.stop - source.start


@leaf
def put_pickled_int(out: Any, at: int, value: int) -> int:
    """Write an integer of 64 bits as pickle does; returns the place after it."""
    if -(1 << 31) <= value < (1 << 31):
        # No branches: the processor could not predict which of the three sizes comes next.
        fits_1, fits_2 = 0 <= value <= 0xFF, 0 <= value <= 0xFFFF
        code = BININT1 if fits_1 else (BININT2 if fits_2 else BININT)
        put_word(out, at, np.uint64(code) | (np.uint64(value) << EIGHT))
        return at + (2 if fits_1 else (3 if fits_2 else 5))
    # Find the fewest bytes that hold the number and its sign.
    count = 5
    while count < 8 and (value >> (8 * count - 1)) != (value >> 63):
        count += 1
    out[at] = LONG1
    out[at + 1] = count
    put_word(out, at + 2, np.uint64(value))
    return at + 2 + count


@leaf
def reversed_bytes(value: Any) -> Any:
    """Reverse the order of the low four bytes."""
    return (
        ((value >> np.uint64(24)) & np.uint64(0xFF))
        | ((value >> np.uint64(8)) & np.uint64(0xFF00))
        | ((value & np.uint64(0xFF00)) << np.uint64(8))
        | ((value & np.uint64(0xFF)) << np.uint64(24))
    )


@leaf
def put_head(out: Any, at: int, major: int, value: int) -> int:
    """Write a CBOR head in its shortest form, for value >= 0; returns the place after it."""
    if value < (1 << 32):
        # No branches, as in `put_pickled_int`.
        fits_0, fits_1, fits_2 = value < 24, value <= 0xFF, value <= 0xFFFF
        code = value if fits_0 else (24 if fits_1 else (25 if fits_2 else 26))
        size = 0 if fits_0 else (1 if fits_1 else (2 if fits_2 else 4))
        argument = reversed_bytes(np.uint64(value)) >> np.uint64(32 - 8 * size)
        put_word(out, at, np.uint64(major + code) | (argument << EIGHT))
        return at + 1 + size
    out[at] = major + 27
    high, low = np.uint64(value) >> np.uint64(32), np.uint64(value) & np.uint64(0xFFFFFFFF)
    put_word(out, at + 1, reversed_bytes(high) | (reversed_bytes(low) << np.uint64(32)))
    return at + 9


@leaf
def put_pickled_lookahead(out: Any, at: int, message: Message) -> int:
    """Write the extra keys and the look-ahead tokens of a message as one tuple, and its closing; returns its end."""
    ending, first, count = message.ending, message.tokens.stop, message.lookahead
    closing = ending.stop - CLOSING_BYTES
    if count > 2:
        out[at] = MARK
        at += 1
    at = put_bytes(out, at, Span(ending.data, ending.start, closing))
    for place in range(first, first + count):
        at = put_pickled_int(out, at, message.tokens.data[place])
    out[at], out[at + 1] = TUPLE if count > 2 else (TUPLE2 if count == 1 else TUPLE3), MEMOIZE
    return put_bytes(out, at + 2, Span(ending.data, closing, ending.stop))


@leaf
def put_pickle(out: Any, message: Message) -> int:
    """`put_message` in pickle."""
    tokens, count = message.tokens, message.tokens.stop - message.tokens.start
    out[0], out[1], out[2] = PROTOCOL, 5, FRAME
    # The length of the frame (8 bytes from place 3 on) is known at the end.
    out[FRAME_START], out[FRAME_START + 1] = SHORT_BINBYTES, message.parent.stop - message.parent.start
    at = put_bytes(out, FRAME_START + 2, message.parent)
    out[at] = MEMOIZE
    at += 1
    if count > 3:
        out[at] = MARK
        at += 1
    for place in range(tokens.start, tokens.stop):
        at = put_pickled_int(out, at, tokens.data[place])
    if count == 0:
        out[at] = EMPTY_TUPLE
        at += 1
    else:
        code = TUPLE
        if count == 1:
            code = TUPLE1
        elif count == 2:
            code = TUPLE2
        elif count == 3:
            code = TUPLE3
        out[at], out[at + 1] = code, MEMOIZE
        at += 2
    at = put_pickled_lookahead(out, at, message) if message.lookahead > 0 else put_bytes(out, at, message.ending)
    put_word(out, 3, np.uint64(at - FRAME_START))
    return at


@leaf
def put_cbor_ints(out: Any, at: int, tokens: Any, start: int, stop: int) -> int:
    """Write tokens[start:stop] in CBOR; returns the place after them."""
    for place in range(start, stop):
        value = tokens[place]
        # CBOR stores -1 - value for a negative value.
        at = put_head(out, at, NEGATIVE if value < 0 else UNSIGNED, value ^ (value >> 63))
    return at


@leaf
def put_cbor(out: Any, message: Message) -> int:
    """`put_message` in canonical CBOR."""
    tokens = message.tokens
    at = put_head(out, 0, ARRAY, 3)
    at = put_head(out, at, BYTES, message.parent.stop - message.parent.start)
    at = put_bytes(out, at, message.parent)
    at = put_head(out, at, ARRAY, tokens.stop - tokens.start)
    at = put_cbor_ints(out, at, tokens.data, tokens.start, tokens.stop)
    if message.lookahead == 0:
        return put_bytes(out, at, message.ending)
    at = put_bytes(out, put_head(out, at, ARRAY, 1 + message.lookahead), message.ending)
    return put_cbor_ints(out, at, tokens.data, tokens.stop, tokens.stop + message.lookahead)


@leaf
def put_message(kind: int, out: Any, message: Message) -> int:
    """Write the message of one block.

    Args:
        kind: PICKLE or CBOR.
        out: uint8 with room for `longest_message` bytes.
        message: Its parts.

    Returns:
        Its length.
    """
    if kind == PICKLE:
        return put_pickle(out, message)
    return put_cbor(out, message)


@jit
def write_message(kind: int, out: Any, parent: Any, tokens: Any, ending: Any, lookahead: int) -> int:
    """`put_message` for Python; the parts are plain tuples with the fields of `Span`."""
    return put_message(kind, out, Message(Span(*parent), Span(*tokens), Span(*ending), lookahead))


def readable(data: bytes) -> Bytes:
    """Bytes as an array with spare bytes after them, so that whole words can be read."""
    return np.frombuffer(data + bytes(2 * WORD_BYTES - len(data) % WORD_BYTES), np.uint8)


def longest_message(parent_bytes: int, num_tokens: int, extra_bytes: int) -> int:
    """Upper bound for the bytes of a message; `num_tokens` counts those for look-ahead, too."""
    return OVERHEAD_BYTES + parent_bytes + num_tokens * MAX_TOKEN_BYTES + extra_bytes


def serialised_extra(kind: int, extra: tuple[Any, ...] | None) -> bytes:
    """Ending of the message of a block with these extra keys and at least one token.

    Raises:
        ArgumentTypeError: The real serialiser cannot write the extra keys.
    """
    if extra is None:
        return NO_EXTRA[kind]
    if kind == PICKLE:
        # Pickle numbers the objects it refers to, so the same number of objects must come first as in the message.
        parent = bytes(MIN_PARENT_BYTES)
        front = pickle.dumps((parent, (0,), None), protocol=pickle.HIGHEST_PROTOCOL)
        whole = written(pickle.dumps, (parent, (0,), extra), protocol=pickle.HIGHEST_PROTOCOL)
        return whole[len(front) - len(NO_EXTRA[PICKLE]) :]
    import cbor2

    return written(cbor2.dumps, extra, canonical=True)


def build(kind: int, parent: bytes, tokens: npt.ArrayLike, extra: tuple[Any, ...] | None, lookahead: int = 0) -> bytes:
    """Build the message of one block from Python, for tests and `trusted`; the last tokens are those for look-ahead."""
    ids, end = np.asarray(tokens, np.int64), serialised_extra(kind, extra)
    out = np.empty(longest_message(len(parent), len(ids), len(end)), np.uint8)
    spans = (readable(parent), 0, len(parent)), (ids, 0, len(ids) - lookahead), (readable(end), 0, len(end))
    length = write_message(kind, out, *spans, lookahead)
    return out[:length].tobytes()


def trusted(kind: int) -> bool:
    """Whether the serialisers of this process write the same bytes as this module. Takes about 100 us."""
    tokens = [0, 255, 256, 65535, 65536, (1 << 31) - 1, 1 << 31, -1, -(1 << 31) - 1, (1 << 63) - 1]
    keys = ("name", ("item", -2), b"salt")
    for parent, ids, extra in ((b"p" * 32, tokens, None), (b"12", tokens[:3], keys)):
        for lookahead in range(4):
            following = tuple(tokens[:lookahead])
            value = (parent, tuple(ids), (extra, *following) if following else extra)
            if kind == PICKLE:
                real = pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
            else:
                import cbor2

                real = bytes(cbor2.dumps(value, canonical=True))
            if build(kind, parent, [*ids, *following], extra, lookahead) != real:
                return False
    return True
