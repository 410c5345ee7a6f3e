"""SHA-256 for compiled code: one function of the libcrypto that Python's own hashlib uses.

libcrypto picks the fastest code of the processor (the SHA instructions where there are some), and calling it
from compiled code leaves out the cost of a Python call per block. Where it cannot be reached, as in a Python
that is linked statically, `available` says so and blocks are hashed through hashlib.
"""

import ctypes
import ctypes.util
import hashlib
from functools import cache
from typing import Any, cast

import llvmlite.binding
import numpy as np
from numba import types

from kvgpu.compiled.jit import jit, leaf, put_word
from kvgpu.hashing.serialised.messages import WORD_BYTES, reversed_bytes

DIGEST_BYTES = 32
STATE_WORDS = 8
CONTEXT_WORDS = 32
"""uint32 words; libcrypto's context has 28, of which the state comes first."""
PIECE = 64
"""Bytes that one call takes in."""
HALF = np.uint64(32)
_SYMBOL = "kvgpu_sha256_transform"

_transform: Any = types.ExternalFunction(_SYMBOL, types.void(types.voidptr, types.voidptr))

_START = np.array(
    [0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19], np.uint32
)
"""FIPS 180-4, section 5.3.3."""


def _address() -> int | None:
    """Where SHA256_Transform lies, or None."""
    try:
        import _hashlib
    except ImportError:
        return None
    names = [_hashlib.__file__, ctypes.util.find_library("crypto")]
    for name in filter(None, names):
        try:
            function = ctypes.CDLL(name).SHA256_Transform
        except (OSError, AttributeError):
            continue
        return cast(int, ctypes.cast(function, ctypes.c_void_p).value)
    return None


@leaf
def length_word(length: int) -> Any:
    """How a message of so many bytes ends: its length in bits, 64 of them, highest byte first."""
    bits = np.uint64(8) * np.uint64(length)
    return reversed_bytes(bits >> HALF) | (reversed_bytes(bits) << HALF)


@leaf
def digest(context: Any, data: Any, length: int, out: Any) -> None:
    """SHA-256 of data[:length] into uint8 out [DIGEST_BYTES]; data has room for `padded` bytes."""
    end = length + 1 + (PIECE - WORD_BYTES - 1 - length) % PIECE
    data[length] = 0x80
    for byte in range(length + 1, end, WORD_BYTES):
        put_word(data, byte, np.uint64(0))
    put_word(data, end, length_word(length))
    for word in range(STATE_WORDS):
        context[word] = _START[word]
    for begin in range(0, end + WORD_BYTES, PIECE):
        _transform(context.ctypes, data[begin:].ctypes)
    for pair in range(STATE_WORDS // 2):
        first, second = np.uint64(context[2 * pair]), np.uint64(context[2 * pair + 1])
        put_word(out, WORD_BYTES * pair, reversed_bytes(first) | (reversed_bytes(second) << HALF))


def padded(length: int) -> int:
    """Bytes that `digest` needs for a message of so many."""
    return length + PIECE + 2 * WORD_BYTES


@jit
def digest_once(data: Any, length: int, out: Any) -> None:
    """`digest` for Python."""
    digest(np.empty(CONTEXT_WORDS, np.uint32), data, length, out)


@cache
def available() -> bool:
    """Whether compiled code can hash: libcrypto is found, and agrees with hashlib."""
    address = _address()
    if address is None:
        return False
    binding: Any = llvmlite.binding
    binding.add_symbol(_SYMBOL, address)
    for length in (0, 55, 56, 63, 64, 200):
        message = bytes(range(length))
        data, out = np.zeros(padded(length), np.uint8), np.empty(DIGEST_BYTES, np.uint8)
        data[:length] = np.frombuffer(message, np.uint8)
        digest_once(data, length, out)
        if out.tobytes() != hashlib.sha256(message).digest():
            return False
    return True
