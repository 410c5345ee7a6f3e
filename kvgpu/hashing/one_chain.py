"""SHA-256 of the blocks of one request whose tokens are a list, for the extension in C.

A prompt of a few blocks is hashed before Python could have made arrays of its tokens.
"""

from typing import Any

import numpy as np

from kvgpu.compiled.addresses import address_of_code
from kvgpu.compiled.handle import WORDS, Handle, array_at, handle_at
from kvgpu.compiled.jit import jit
from kvgpu.hashing.capabilities import chains_of
from kvgpu.hashing.functions import HashFunction
from kvgpu.hashing.serialised.chains import Sha256Chains
from kvgpu.hashing.serialised.libcrypto import CONTEXT_WORDS, DIGEST_BYTES, digest, padded
from kvgpu.hashing.serialised.messages import (
    MAX_FRAME_BYTES,
    NO_EXTRA,
    Message,
    Span,
    longest_message,
    put_message,
    readable,
)
from kvgpu.native import hash_blocks

TOKENS, DIGESTS, CONTEXT, DATA, ENDING, NUM_ARRAYS = range(6)
"""Arrays of the handle, in order.

TOKENS: int64 [any]. DIGESTS: uint8 [any], a digest after the other: first that before the first block, then those of
the blocks, which are written. CONTEXT, DATA: scratch memory of `digest`. ENDING: end of a message without extra keys.
"""
KIND, SIZE, NUM_BLOCKS, ENDING_LENGTH, LOOKAHEAD, NUM_WORDS = range(2 * NUM_ARRAYS, 2 * NUM_ARRAYS + 6)
"""Its numbers, and its length. KIND: of message. SIZE: tokens of a block. NUM_BLOCKS: those to be hashed. LOOKAHEAD:
tokens after a block that its hash covers, too."""

PIECE = 128
"""Blocks that are hashed between two looks at the list."""

_BYTES, _CONTEXT = np.empty(0, np.uint8), np.empty(0, np.uint32)


@jit
def hash_chain_at(address: int) -> int:
    """Hash blocks, each with the digest before it; `address` is that of the words of the handle. Needs no memory."""
    handle = handle_at(address, NUM_WORDS)
    tokens, digests = array_at(handle, 2 * TOKENS, WORDS), array_at(handle, 2 * DIGESTS, _BYTES)
    context, data = array_at(handle, 2 * CONTEXT, _CONTEXT), array_at(handle, 2 * DATA, _BYTES)
    ending, size = Span(array_at(handle, 2 * ENDING, _BYTES), 0, handle[ENDING_LENGTH]), handle[SIZE]
    for block in range(handle[NUM_BLOCKS]):
        begin = block * DIGEST_BYTES
        parent = Span(digests, begin, begin + DIGEST_BYTES)
        message = Message(parent, Span(tokens, block * size, (block + 1) * size), ending, handle[LOOKAHEAD])
        digest(context, data, put_message(handle[KIND], data, message), digests[begin + DIGEST_BYTES :])
    return 0


def prepare_chain(hash_fn: HashFunction, block_size: int, lookahead: int = 0) -> tuple[Any, ...] | None:
    """Compile the hashing of blocks, and make memory for one call at a time.

    Args:
        hash_fn: Hash function of blocks.
        block_size: Tokens of a block.
        lookahead: Tokens after a block that its hash covers, too.

    Returns:
        What `kvgpu.native.hash_blocks` takes. None without the extension (or with one that was built from other
        sources), if the function is not SHA-256 of a known message, or if a message would be too long.
    """
    chains = chains_of(hash_fn)
    if hash_blocks is None or not isinstance(chains, Sha256Chains) or not _agrees():
        return None
    ending = NO_EXTRA[chains.kind]
    longest = longest_message(DIGEST_BYTES, block_size + lookahead, len(ending))
    if longest > MAX_FRAME_BYTES:
        return None
    tokens = np.zeros(PIECE * block_size + lookahead, np.int64)
    # `put_message` reads whole words.
    digests, data = np.zeros((PIECE + 2) * DIGEST_BYTES, np.uint8), np.zeros(padded(longest), np.uint8)
    end = np.frombuffer(bytearray(readable(ending)), np.uint8)
    handle = Handle((tokens, digests, np.zeros(CONTEXT_WORDS, np.uint32), data, end), more=NUM_WORDS - 2 * NUM_ARRAYS)
    handle.words[KIND], handle.words[SIZE], handle.words[ENDING_LENGTH] = chains.kind, block_size, len(ending)
    handle.words[LOOKAHEAD] = lookahead
    return handle, handle.address, address_of_code(hash_chain_at, 1)


def _agrees() -> bool:
    """Whether the extension was built from sources that agree with this module."""
    from kvgpu.native._calls import CHAIN_LAYOUT

    return (TOKENS, DIGESTS, SIZE, NUM_BLOCKS, LOOKAHEAD, DIGEST_BYTES) == CHAIN_LAYOUT
