"""`Blocks`, the input of bulk hashing, and `Chains`, the interface of the classes that do it."""

from collections.abc import Sequence
from operator import attrgetter
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from kvgpu.compiled.addresses import addresses_of
from kvgpu.compiled.jit import carray, inline, pointer
from kvgpu.errors import ArgumentError, ArgumentTypeError
from kvgpu.hashing.inputs.extra_keys import ExtraKeys
from kvgpu.hashing.inputs.token_arrays import Tokens

Keys = npt.NDArray[np.int64]
"""Hashes as key words, int64 [n, KEY_WORDS], zero padded."""

MAX_BLOCK_TOKENS = (1 << 31) - 1
"""Keeps the product with any possible number of blocks far below 2**63."""

_DTYPES = {np.dtype(np.int32), np.dtype(np.int64)}
_item_bytes = attrgetter("itemsize")

_EMPTY_32, _EMPTY_64 = np.empty(0, np.int32), np.empty(0, np.int64)


class Blocks(NamedTuple):
    """Blocks of several requests, to be hashed in one call.

    tokens: a contiguous array for each request that begins with the tokens of its blocks, then has those for
        look-ahead, and may go on; or one array with a line for each request, which costs less.
    counts: blocks of each request.
    total: blocks of all requests.
    size: tokens of a block.
    parents: for each request, the hash before its first block.
    extras: extra keys of every block, request by request; None if no block has any.
    checked: True if the caller guarantees that `check` would pass.
    lookahead: tokens after a block that its hash covers, too.
    """

    tokens: Sequence[Tokens] | Tokens
    counts: Sequence[int]
    total: int
    size: int
    parents: Sequence[bytes]
    extras: Sequence[ExtraKeys] | None
    checked: bool = False
    lookahead: int = 0


class ChainTokens(NamedTuple):
    """Where the tokens of chains are, for compiled code.

    like: empty int32 or int64 array, whose dtype is that of the tokens.
    addresses: int64 [chains], address of the first token of each chain.
    counts: int64 [chains], blocks of each chain.
    size: tokens of a block.
    lookahead: tokens after a block that belong to it, too.
    """

    like: Tokens
    addresses: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]
    size: int
    lookahead: int


@inline
def tokens_of(chains: ChainTokens, chain: int) -> Any:
    """Tokens of the blocks of one chain, and those for look-ahead, int32 or int64; nobody owns the view."""
    length = chains.counts[chain] * chains.size + chains.lookahead
    return carray(pointer(chains.addresses[chain], chains.like), (length,))


LocatedTokens = tuple[Tokens, npt.NDArray[np.int64], npt.NDArray[np.int64], int, int]
"""The fields of `ChainTokens` in a plain tuple: a call that passes NamedTuples takes 2 us longer for each."""


def located(blocks: Blocks) -> tuple[Sequence[Tokens] | Tokens, LocatedTokens]:
    """Locate the tokens of blocks, so that one compiled call reads them in place.

    Copying them together would cost half as much as hashing them with kvgpu128.

    Returns:
        The arrays that own the tokens, all of one dtype, to be kept until compiled code is done; and where the tokens
        are.

    Raises:
        ArgumentError, ArgumentTypeError: As in `check`.

    O(requests).
    """
    if not blocks.checked:
        check(blocks)
    counts, tokens, sizes = np.array(blocks.counts, np.int64), blocks.tokens, (blocks.size, blocks.lookahead)
    if isinstance(tokens, np.ndarray):
        lines = tokens.ctypes.data + tokens.strides[0] * np.arange(len(tokens))
        return tokens, (_EMPTY_64 if tokens.itemsize > 4 else _EMPTY_32, lines, counts, *sizes)
    wide = max(map(_item_bytes, tokens), default=4) > 4
    if wide:
        tokens = [array.astype(np.int64, copy=False) for array in tokens]
    return tokens, (_EMPTY_64 if wide else _EMPTY_32, addresses_of(tokens), counts, *sizes)


def check(blocks: Blocks) -> None:
    """Check that all fields fit each other, so that nothing beyond the tokens is read.

    Raises:
        ArgumentError: Blocks reach beyond the tokens, or numbers do not fit each other.
        ArgumentTypeError: Tokens, counts or parents of another type.

    O(requests).
    """
    tokens, counts, size, after = blocks.tokens, blocks.counts, blocks.size, blocks.lookahead
    if type(after) is not int or not 0 <= after <= MAX_BLOCK_TOKENS:
        raise ArgumentError(f"look-ahead covers from 0 to {MAX_BLOCK_TOKENS} tokens; got {after!r}")
    if type(size) is not int or not 0 <= size <= MAX_BLOCK_TOKENS:
        raise ArgumentError(f"a block has from 0 to {MAX_BLOCK_TOKENS} tokens; got {size!r}")
    if not set(map(type, counts)) <= {int} or not set(map(type, blocks.parents)) <= {bytes}:
        raise ArgumentTypeError("counts of blocks must be integers, and parents bytes")
    if isinstance(tokens, np.ndarray) and tokens.ndim != 2:
        raise ArgumentTypeError("an array of tokens must have a line for each request")
    if not len(counts) == len(blocks.parents) == len(tokens):
        raise ArgumentError(
            f"a count and a parent for each of {len(tokens)} requests are expected, got {len(counts)} "
            f"and {len(blocks.parents)}"
        )
    if isinstance(tokens, np.ndarray) and len(tokens):
        # All lines have the length and dtype of the first.
        least, most = min(counts), max(counts)
        _check_tokens(0, tokens[0], least if least < 0 else most, size, after)
    else:
        for place, (array, count) in enumerate(zip(tokens, counts, strict=True)):
            _check_tokens(place, array, count, size, after)
    if blocks.total != sum(counts) or (blocks.extras is not None and len(blocks.extras) != blocks.total):
        raise ArgumentError(f"a total of {sum(counts)} blocks, and extra keys for each of them or None, are expected")


def _check_tokens(place: int, tokens: Tokens, count: int, size: int, after: int) -> None:
    """`check` the tokens of one request."""
    if (
        type(tokens) is not np.ndarray
        or tokens.dtype not in _DTYPES
        or tokens.ndim != 1
        or not tokens.flags.c_contiguous
    ):
        raise ArgumentTypeError(
            "tokens of blocks must be contiguous NumPy arrays [n] of int32 or int64, or lines of one"
        )
    if not 0 <= count * size <= len(tokens) - (after if count else 0):
        ahead = f" and {after} after each" if after else ""
        raise ArgumentError(
            f"request {place}: {count} blocks of {size} tokens{ahead} are to be hashed, but there are {len(tokens)}"
        )


class Chains(Protocol):
    """Hashes blocks in bulk.

    Attributes:
        width: Bytes of a hash.
    """

    width: int

    def pays(self, counts: Sequence[int]) -> bool:
        """Whether one call is faster than hashing block by block, for requests with these numbers of blocks."""
        ...

    def hashes(self, blocks: Blocks, threads: int = 1) -> Keys | None:
        """Hash blocks with at most this many threads.

        Returns:
            Key words int64 [blocks, KEY_WORDS], request by request; None if these blocks have to be hashed one by one.
        """
        ...
