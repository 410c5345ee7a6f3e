"""SHA-256 for compiled code, by one function of the libcrypto that Python's own hashlib uses.

libcrypto picks the fastest code for the processor (the SHA instructions if it has them), and a call from compiled
code avoids a Python call per block. If libcrypto cannot be reached, as in a statically linked Python, `available` is
False and blocks are hashed with hashlib.
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
"""uint32 words, at least the 28 of libcrypto's context, which begins with the state."""
CHUNK_BYTES = 64
"""Bytes that one call of the function processes."""
HALF = np.uint64(32)
_SYMBOL = "kvgpu_sha256_transform"

_transform: Any = types.ExternalFunction(_SYMBOL, types.void(types.voidptr, types.voidptr))

_START = np.array(
    [0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19], np.uint32
)
"""Initial state: FIPS 180-4, section 5.3.3."""


def _address() -> int | None:
    """Address of SHA256_Transform; None if it cannot be found."""
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
    """Last word of a padded message of `length` bytes: its length in bits, as 64 bits, highest byte first."""
    bits = np.uint64(8) * np.uint64(length)
    return reversed_bytes(bits >> HALF) | (reversed_bytes(bits) << HALF)


@leaf
def digest(context: Any, data: Any, length: int, out: Any) -> None:
    """Hash data[:length] with SHA-256.

    Args:
        context: uint32 [CONTEXT_WORDS], scratch memory.
        data: uint8 with room for `padded` bytes, which are overwritten after the message.
        length: Bytes of the message.
        out: uint8 [DIGEST_BYTES], the digest.
    """
    end = length + 1 + (CHUNK_BYTES - WORD_BYTES - 1 - length) % CHUNK_BYTES
    data[length] = 0x80
    for byte in range(length + 1, end, WORD_BYTES):
        put_word(data, byte, np.uint64(0))
    put_word(data, end, length_word(length))
    for word in range(STATE_WORDS):
        context[word] = _START[word]
    for begin in range(0, end + WORD_BYTES, CHUNK_BYTES):
        _transform(context.ctypes, data[begin:].ctypes)
    for pair in range(STATE_WORDS // 2):
        first, second = np.uint64(context[2 * pair]), np.uint64(context[2 * pair + 1])
        put_word(out, WORD_BYTES * pair, reversed_bytes(first) | (reversed_bytes(second) << HALF))


def padded(length: int) -> int:
    """Bytes that `digest` needs for a message of `length` bytes."""
    return length + CHUNK_BYTES + 2 * WORD_BYTES


@jit
def digest_once(data: Any, length: int, out: Any) -> None:
    """`digest` for Python."""
    digest(np.empty(CONTEXT_WORDS, np.uint32), data, length, out)


@cache
def available() -> bool:
    """Whether compiled code can hash: libcrypto is found, and gives the same digests as hashlib."""
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
