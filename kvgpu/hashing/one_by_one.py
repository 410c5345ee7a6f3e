"""Hashes of blocks by a call of the hash function for each, where they cannot be made in bulk."""

from collections.abc import Sequence
from typing import Any

from kvgpu.errors import ArgumentError
from kvgpu.hashing import functions as hashing
from kvgpu.hashing.functions import BlockHash, HashFunction
from kvgpu.hashing.inputs.extra_keys import ExtraKeys, need_extra_keys, unwritten
from kvgpu.hashing.inputs.token_arrays import Tokens
from kvgpu.hashing.request_fields import blamed, last_hash, name_of
from kvgpu.hashing.request_reader import RequestReader


def chain_one_by_one(
    hash_fn: HashFunction, lines: Tokens, sizes: tuple[int, int], counts: Sequence[int], parents: Sequence[Any]
) -> list[BlockHash]:
    """Hash chains of blocks without extra keys, one block after the other.

    Args:
        hash_fn: Is called once for each block.
        lines: int32 or int64 [chains, any], the tokens of each chain.
        sizes: Tokens of a block, and of look-ahead.
        counts: Blocks of each chain.
        parents: Hash before the first block of each chain; None if it begins a prompt.

    O(tokens).
    """
    (size, lookahead), hashes = sizes, list[BlockHash]()
    for line, count, parent in zip(lines.tolist(), counts, parents, strict=True):
        for end in range(size, (count + 1) * size, size):
            ids, following = line[end - size : end], line[end : end + lookahead]
            parent = hashing.hash_block_tokens(hash_fn, parent, ids, None, following)
            hashes.append(parent)
    return hashes


def hash_one_by_one(
    hash_fn: HashFunction, reader: RequestReader, request: Any, first: int, count: int
) -> list[BlockHash]:
    """Hash new blocks of a request, one after the other.

    Args:
        hash_fn: Is called once for each block.
        reader: Reads the request.
        request: A request of any engine.
        first: Number of hashes that it has.
        count: Number of new blocks.

    Raises:
        ArgumentError, ArgumentTypeError: The tokens or the extra keys cannot be hashed. The message names the request.

    A hash function of the caller's may raise errors of its own. O(tokens).
    """
    if not count:
        return []
    size, lookahead = reader.block_size, reader.lookahead
    parent = last_hash(request) if first else None
    tokens = reader.listed_tokens(request, first, count)
    extras: list[ExtraKeys] = [None] * count
    if need_extra_keys(request):
        extras = reader.extras(request, first, count)
    hashes: list[BlockHash] = []
    for block, extra in enumerate(extras):
        end = (block + 1) * size
        ids, following = tokens[end - size : end], tokens[end : end + lookahead]
        try:
            parent = hashing.hash_block_tokens(hash_fn, parent, ids, extra, following)
        except ArgumentError as error:
            raise blamed(request, error) from error
        except Exception as error:
            known = any(hash_fn is each for each in hashing.HASH_FUNCTIONS.values())
            if extra is not None and known and not isinstance(error, MemoryError):
                raise blamed(request, unwritten(extra, error)) from error
            error.add_note(f"while block {first + block} of {name_of(request)} was hashed")
            raise
        hashes.append(parent)
    return hashes
