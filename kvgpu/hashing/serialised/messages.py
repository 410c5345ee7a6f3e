"""What the hash functions hash: ``(parent, tokens, extra)`` serialised straight from an array of tokens.

The layouts of pickle (protocol 5, one frame) and of canonical CBOR for such tuples, written by compiled code.
The serialised extra keys are given: pickle's bytes depend on which objects are the same, so the real
serialiser writes those. `trusted` compares with the real serialisers before anything relies on this.

Sources: the opcodes of Python's `pickletools`, RFC 8949 sections 3 and 4.2.
"""

import pickle
from typing import Any

import numpy as np
import numpy.typing as npt

from kvgpu.compiled.jit import jit, leaf, put_word, word_at
from kvgpu.hashing.inputs.extra_keys import written

Bytes = npt.NDArray[np.uint8]

PICKLE, CBOR = 0, 1
"""Kinds of messages."""

HEAD_BYTES = 80
"""Most that is in front of a parent and around the tokens, and what a last word may write too much."""
TOKEN_BYTES = 11
"""Most for one token: an opcode, a length, and eight bytes and a sign."""
LONGEST_FRAME = 60_000
"""Pickle begins a second frame at 64 KiB; longer messages are left to it."""
SHORTEST_PARENT, LONGEST_PARENT = 2, 255
"""In pickle. There is one object for all bytes shorter than 2, so extra keys may refer to the parent."""

PROTOCOL, FRAME, SHORT_BINBYTES, MEMOIZE, MARK = 0x80, 0x95, 0x43, 0x94, 0x28
TUPLE, TUPLE1, TUPLE2, TUPLE3, EMPTY_TUPLE = 0x74, 0x85, 0x86, 0x87, 0x29
BININT, BININT1, BININT2, LONG1 = 0x4A, 0x4B, 0x4D, 0x8A
FRAME_HEAD = 11
"""Bytes that the length of the frame does not count: protocol, opcode and length."""
NO_EXTRA = (b"N\x87\x94.", b"\xf6")
"""How the message of a block without extra keys ends, by kind."""

WORD_BYTES = 8
"""What is read and written at a time, so that arrays need room for so many bytes more."""
EIGHT = np.uint64(8)

UNSIGNED, NEGATIVE, BYTES, ARRAY = 0x00, 0x20, 0x40, 0x80
"""Major types of CBOR."""


@leaf
def put_bytes(out: Any, at: int, source: Any, start: int, stop: int) -> int:
    """source[start:stop], and up to 7 bytes that follow it there."""
    for place in range(start, stop, WORD_BYTES):
        put_word(out, at + place - start, word_at(source, place))
    return at + stop - start


@leaf
def put_pickled_int(out: Any, at: int, value: int) -> int:
    """An integer that fits into 64 bits, as pickle writes it."""
    if -(1 << 31) <= value < (1 << 31):
        # Without branches: which of the three it is cannot be guessed.
        fits_1, fits_2 = 0 <= value <= 0xFF, 0 <= value <= 0xFFFF
        code = BININT1 if fits_1 else (BININT2 if fits_2 else BININT)
        put_word(out, at, np.uint64(code) | (np.uint64(value) << EIGHT))
        return at + (2 if fits_1 else (3 if fits_2 else 5))
    # The fewest bytes that hold the number and its sign.
    count = 5
    while count < 8 and (value >> (8 * count - 1)) != (value >> 63):
        count += 1
    out[at] = LONG1
    out[at + 1] = count
    put_word(out, at + 2, np.uint64(value))
    return at + 2 + count


@leaf
def reversed_bytes(value: Any) -> Any:
    """Four bytes, highest first."""
    return (
        ((value >> np.uint64(24)) & np.uint64(0xFF))
        | ((value >> np.uint64(8)) & np.uint64(0xFF00))
        | ((value & np.uint64(0xFF00)) << np.uint64(8))
        | ((value & np.uint64(0xFF)) << np.uint64(24))
    )


@leaf
def put_head(out: Any, at: int, major: int, value: int) -> int:
    """A CBOR head in its shortest form; value >= 0."""
    if value < (1 << 32):
        # Without branches, as above.
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
def pickled(
    out: Any,
    parent: Any,
    parent_stop: int,
    tokens: Any,
    start: int,
    stop: int,
    extra: Any,
    extra_start: int,
    extra_stop: int,
) -> int:
    """`message` in pickle."""
    out[0], out[1], out[2] = PROTOCOL, 5, FRAME
    out[FRAME_HEAD], out[FRAME_HEAD + 1] = SHORT_BINBYTES, parent_stop
    at = put_bytes(out, FRAME_HEAD + 2, parent, 0, parent_stop)
    out[at] = MEMOIZE
    at += 1
    count = stop - start
    if count > 3:
        out[at] = MARK
        at += 1
    for place in range(start, stop):
        at = put_pickled_int(out, at, tokens[place])
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
    at = put_bytes(out, at, extra, extra_start, extra_stop)
    put_word(out, 3, np.uint64(at - FRAME_HEAD))
    return at


@leaf
def in_cbor(
    out: Any,
    parent: Any,
    parent_stop: int,
    tokens: Any,
    start: int,
    stop: int,
    extra: Any,
    extra_start: int,
    extra_stop: int,
) -> int:
    """`message` in canonical CBOR."""
    at = put_head(out, 0, ARRAY, 3)
    at = put_head(out, at, BYTES, parent_stop)
    at = put_bytes(out, at, parent, 0, parent_stop)
    at = put_head(out, at, ARRAY, stop - start)
    for place in range(start, stop):
        value = tokens[place]
        # -1 - value for a negative one.
        at = put_head(out, at, NEGATIVE if value < 0 else UNSIGNED, value ^ (value >> 63))
    return put_bytes(out, at, extra, extra_start, extra_stop)


@leaf
def message(
    kind: int,
    out: Any,
    parent: Any,
    parent_stop: int,
    tokens: Any,
    start: int,
    stop: int,
    extra: Any,
    extra_start: int,
    extra_stop: int,
) -> int:
    """Write the message of one block.

    Args:
        kind: PICKLE or CBOR.
        out: uint8, long enough (`longest_message`).
        parent: uint8, of which [:parent_stop] is the parent; a multiple of WORD_BYTES long.
        tokens: int32 or int64, of which [start:stop] is the block.
        extra: uint8, from `readable`, of which [extra_start:extra_stop] ends the message (`NO_EXTRA`, or
            what `serialised_extra` gives).

    Returns:
        Its length.
    """
    if kind == PICKLE:
        return pickled(out, parent, parent_stop, tokens, start, stop, extra, extra_start, extra_stop)
    return in_cbor(out, parent, parent_stop, tokens, start, stop, extra, extra_start, extra_stop)


@jit
def write_message(
    kind: int,
    out: Any,
    parent: Any,
    parent_stop: int,
    tokens: Any,
    start: int,
    stop: int,
    extra: Any,
    extra_start: int,
    extra_stop: int,
) -> int:
    """`message` for Python."""
    return message(kind, out, parent, parent_stop, tokens, start, stop, extra, extra_start, extra_stop)


def readable(data: bytes) -> Bytes:
    """Bytes with room behind them, so that whole words can be read."""
    return np.frombuffer(data + bytes(2 * WORD_BYTES - len(data) % WORD_BYTES), np.uint8)


def longest_message(parent_bytes: int, num_tokens: int, extra_bytes: int) -> int:
    """Bytes that suffice for a message."""
    return HEAD_BYTES + parent_bytes + num_tokens * TOKEN_BYTES + extra_bytes


def serialised_extra(kind: int, extra: tuple[Any, ...] | None) -> bytes:
    """How the message of a block with these extra keys ends; the block has at least one token.

    Raises:
        ArgumentTypeError: The real serialiser cannot write them.
    """
    if extra is None:
        return NO_EXTRA[kind]
    if kind == PICKLE:
        # With as many objects in front as in the message, so that references to them count the same.
        parent = bytes(SHORTEST_PARENT)
        front = pickle.dumps((parent, (0,), None), protocol=pickle.HIGHEST_PROTOCOL)
        whole = written(pickle.dumps, (parent, (0,), extra), protocol=pickle.HIGHEST_PROTOCOL)
        return whole[len(front) - len(NO_EXTRA[PICKLE]) :]
    import cbor2

    return written(cbor2.dumps, extra, canonical=True)


def build(kind: int, parent: bytes, tokens: npt.ArrayLike, extra: tuple[Any, ...] | None) -> bytes:
    """The message of one block, from Python: for tests and `trusted`."""
    ids, end = np.asarray(tokens, np.int64), serialised_extra(kind, extra)
    out = np.empty(longest_message(len(parent), len(ids), len(end)), np.uint8)
    length = write_message(kind, out, readable(parent), len(parent), ids, 0, len(ids), readable(end), 0, len(end))
    return out[:length].tobytes()


def trusted(kind: int) -> bool:
    """Whether the real serialisers of this process write what is written here. Some 50 us."""
    tokens = [0, 255, 256, 65535, 65536, (1 << 31) - 1, 1 << 31, -1, -(1 << 31) - 1, (1 << 63) - 1]
    for parent, ids, extra in ((b"p" * 32, tokens, None), (b"12", tokens[:3], ("name", ("item", -2), b"salt"))):
        value = (parent, tuple(ids), extra)
        if kind == PICKLE:
            real = pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
        else:
            import cbor2

            real = bytes(cbor2.dumps(value, canonical=True))
        if build(kind, parent, ids, extra) != real:
            return False
    return True
