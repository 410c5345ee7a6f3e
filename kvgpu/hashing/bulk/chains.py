"""`Blocks`, what is hashed in bulk, and `Chains`, what hashes it: each block after its parent."""

from collections.abc import Sequence
from operator import attrgetter
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from kvgpu.compiled.addresses import addresses_of
from kvgpu.errors import ArgumentError, ArgumentTypeError
from kvgpu.hashing.inputs.extra_keys import ExtraKeys
from kvgpu.hashing.inputs.token_arrays import Tokens

Rows = npt.NDArray[np.int64]
"""Hashes as key words, int64 [n, KEY_WORDS]."""

MOST_TOKENS = (1 << 31) - 1
"""Of a block, so that products with counts of blocks that there are stay far below 2**63."""

_DTYPES = {np.dtype(np.int32), np.dtype(np.int64)}
_item_bytes = attrgetter("itemsize")

_EMPTY_32, _EMPTY_64 = np.empty(0, np.int32), np.empty(0, np.int64)


class Blocks(NamedTuple):
    """Blocks of several requests.

    tokens: of each request, contiguous, those of its blocks, and maybe more behind; arrays or the lines of one,
    which costs less. counts: blocks of each request.
    total: blocks of all. size: tokens of a block. parents: what stands before each. extras: extra keys of every
    block, request by request; None for none at all. checked: who made it has seen that it is so, as `check` would.
    """

    tokens: Sequence[Tokens] | Tokens
    counts: Sequence[int]
    total: int
    size: int
    parents: Sequence[bytes]
    extras: Sequence[ExtraKeys] | None
    checked: bool = False


class Located(NamedTuple):
    """Where compiled code finds tokens. kept: arrays of one dtype, which have to be kept until it is done; arrays:
    int64 [n], where each begins; like: an empty array of that dtype; counts: int64 [n], blocks of each."""

    kept: Sequence[Tokens] | Tokens
    arrays: npt.NDArray[np.int64]
    like: Tokens
    counts: npt.NDArray[np.int64]


def located(blocks: Blocks) -> Located:
    """Where the tokens of blocks lie.

    One compiled call reads them all where they lie: copying them together costs half as much as hashing them by
    kvgpu128.

    Raises:
        ArgumentError, ArgumentTypeError: As in `check`.

    O(requests).
    """
    if not blocks.checked:
        check(blocks)
    counts, tokens = np.array(blocks.counts, np.int64), blocks.tokens
    if isinstance(tokens, np.ndarray):
        lines = tokens.ctypes.data + tokens.strides[0] * np.arange(len(tokens))
        return Located(tokens, lines, _EMPTY_64 if tokens.itemsize > 4 else _EMPTY_32, counts)
    wide = max(map(_item_bytes, tokens), default=4) > 4
    if wide:
        tokens = [array.astype(np.int64, copy=False) for array in tokens]
    return Located(tokens, addresses_of(tokens), _EMPTY_64 if wide else _EMPTY_32, counts)


def check(blocks: Blocks) -> None:
    """See that nothing behind the tokens of blocks will be read, and that all fits together.

    Raises:
        ArgumentError: Blocks reach beyond the tokens that there are, or numbers do not fit each other.
        ArgumentTypeError: Tokens, counts or parents of another kind.

    O(requests).
    """
    tokens, counts, size = blocks.tokens, blocks.counts, blocks.size
    if type(size) is not int or not 0 <= size <= MOST_TOKENS:
        raise ArgumentError(f"a block has from 0 to {MOST_TOKENS} tokens; got {size!r}")
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
        # All lines are like the first.
        least, most = min(counts), max(counts)
        _check_tokens(0, tokens[0], least if least < 0 else most, size)
    else:
        for place, (array, count) in enumerate(zip(tokens, counts, strict=True)):
            _check_tokens(place, array, count, size)
    if blocks.total != sum(counts) or (blocks.extras is not None and len(blocks.extras) != blocks.total):
        raise ArgumentError(f"a total of {sum(counts)} blocks, and extra keys for each of them or None, are expected")


def _check_tokens(place: int, tokens: Tokens, count: int, size: int) -> None:
    """`check` the tokens of one request."""
    if (
        type(tokens) is not np.ndarray
        or tokens.dtype not in _DTYPES
        or tokens.ndim != 1
        or not tokens.flags.c_contiguous
    ):
        raise ArgumentTypeError(
            "tokens of blocks must be NumPy arrays [n] of int32 or int64, without gaps, or lines of one"
        )
    if not 0 <= count * size <= len(tokens):
        raise ArgumentError(
            f"request {place}: {count} blocks of {size} tokens are to be hashed, but there are {len(tokens)}"
        )


class Chains(Protocol):
    """Hashes blocks in bulk.

    width: bytes of a hash.
    """

    width: int

    def pays(self, counts: Sequence[int]) -> bool:
        """Whether so many blocks of each request are hashed faster than one by one."""
        ...

    def rows(self, blocks: Blocks, threads: int = 1) -> Rows | None:
        """Hashes as key words int64 [blocks, KEY_WORDS], request by request, by at most so many threads; None for
        what has to be hashed block by block."""
        ...
