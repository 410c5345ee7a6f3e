"""`Blocks`, what is hashed in bulk, and `Chains`, what hashes it: each block after its parent."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from kvgpu.addresses import addresses_of
from kvgpu.extra_keys import ExtraKeys
from kvgpu.token_ids import Tokens

Rows = npt.NDArray[np.int64]
"""Hashes as key words, int64 [n, KEY_WORDS]."""

_EMPTY_32, _EMPTY_64 = np.empty(0, np.int32), np.empty(0, np.int64)


class Blocks(NamedTuple):
    """Blocks of several requests.

    tokens: of each request, contiguous, those of its blocks, and maybe more behind; arrays or the lines of one,
    which costs less. counts: blocks of each request.
    total: blocks of all. size: tokens of a block. parents: what stands before each. extras: extra keys of every
    block, request by request; None for none at all.
    """

    tokens: Sequence[Tokens] | Tokens
    counts: Sequence[int]
    total: int
    size: int
    parents: Sequence[bytes]
    extras: Sequence[ExtraKeys] | None


def addresses(
    tokens: Sequence[Tokens] | Tokens,
) -> tuple[Sequence[Tokens] | Tokens, npt.NDArray[np.int64], Tokens]:
    """Arrays of one dtype, where each begins, and an empty array of that dtype.

    One compiled call reads them all where they lie: copying them together costs half as much as hashing them by
    kvgpu128. Keep the arrays until it is done.
    """
    if isinstance(tokens, np.ndarray):
        lines = tokens.ctypes.data + tokens.strides[0] * np.arange(len(tokens))
        return tokens, lines, _EMPTY_64 if tokens.itemsize > 4 else _EMPTY_32
    wide = any(array.itemsize > 4 for array in tokens)
    if wide:
        tokens = [array.astype(np.int64, copy=False) for array in tokens]
    return tokens, addresses_of(tokens), _EMPTY_64 if wide else _EMPTY_32


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
