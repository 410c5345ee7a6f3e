"""Block hashes: the four hash functions of vLLM, byte for byte, kvgpu128, and the key of the prefix-cache map.

A block hash is ``H((parent, tokens, extra))``: the hash of the previous block (`NONE_HASH` for the
first), the tuple of the block's token ids, and the extra keys or None. The serialisation is part
of the value: `sha256` and `xxhash` pickle, the `_cbor` variants use canonical CBOR. Many blocks at once are
hashed by `kvgpu.hashing.request_hasher`, with the same result. Packages of single
functions are imported by these: a table on a device, or the pool, needs none of them.
"""

import hashlib
import logging
import os
import pickle
from collections.abc import Callable, Sequence
from typing import Any, NewType

from kvgpu.config import int_block_hashes
from kvgpu.errors import ArgumentTypeError, NoneHashError, UnknownNameError
from kvgpu.integers import as_integer, shown

logger = logging.getLogger(__name__)

BlockHash = NewType("BlockHash", bytes)
"""Hash of a block and of the whole prefix before it: 16 or 32 bytes (several, concatenated, for a
block that spans several hash blocks)."""

BlockHashWithGroupId = NewType("BlockHashWithGroupId", bytes)
"""A block hash followed by the group id as 4 bytes, big-endian: the key of the prefix-cache map."""

HASH_WIDTHS = frozenset({16, 32})
"""Bytes of the hashes that records and tables can hold."""

ExternalBlockHash = bytes | int
HashFunction = Callable[[Any], bytes]

GROUP_ID_BYTES = 4
MAX_GROUP_NUMBER = (1 << 8 * GROUP_ID_BYTES) - 1
LOW_64_BITS = (1 << 64) - 1


def _unserialisable(error: Exception) -> ArgumentTypeError:
    return ArgumentTypeError(f"what cannot be serialised cannot be hashed: {error}")


def sha256(input: Any) -> bytes:
    """SHA-256 of the pickle (highest protocol) of `input`: 32 bytes. O(length).

    Raises:
        ArgumentTypeError: It has no pickle; so for the other functions.
    """
    try:
        return hashlib.sha256(pickle.dumps(input, protocol=pickle.HIGHEST_PROTOCOL)).digest()
    except Exception as error:
        raise _unserialisable(error) from error


def sha256_cbor(input: Any) -> bytes:
    """SHA-256 of the canonical CBOR of `input`: 32 bytes, the same in every language. O(length)."""
    import cbor2

    try:
        return hashlib.sha256(cbor2.dumps(input, canonical=True)).digest()
    except Exception as error:
        raise _unserialisable(error) from error


def xxhash(input: Any) -> bytes:
    """XXH3-128 of the pickle of `input`: 16 bytes. Fast, and not collision resistant. O(length)."""
    import xxhash

    try:
        return xxhash.xxh3_128_digest(pickle.dumps(input, protocol=pickle.HIGHEST_PROTOCOL))
    except Exception as error:
        raise _unserialisable(error) from error


def xxhash_cbor(input: Any) -> bytes:
    """XXH3-128 of the canonical CBOR of `input`: 16 bytes, not collision resistant. O(length)."""
    import cbor2
    import xxhash

    try:
        return xxhash.xxh3_128_digest(cbor2.dumps(input, canonical=True))
    except Exception as error:
        raise _unserialisable(error) from error


def kvgpu128(input: Any) -> bytes:
    """kvgpu128 of `input` under the key of this process: 16 bytes. See docs/hashing.md. O(length)."""
    from kvgpu.hashing.kvgpu128.function import process_hash

    return process_hash()(input)


HASH_FUNCTIONS: dict[str, HashFunction] = {
    "sha256": sha256,
    "sha256_cbor": sha256_cbor,
    "xxhash": xxhash,
    "xxhash_cbor": xxhash_cbor,
    "kvgpu128": kvgpu128,
}

NONE_HASH: BlockHash
"""Parent of the first block. Set by `init_none_hash`; read it as an attribute of this module."""


def none_hash() -> BlockHash:
    """`NONE_HASH`.

    Raises:
        NoneHashError: `init_none_hash` was not called.
    """
    try:
        return NONE_HASH
    except NameError:
        raise NoneHashError from None


def __getattr__(name: str) -> BlockHash:
    if name == "NONE_HASH":
        raise NoneHashError
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def get_hash_fn_by_name(name: str) -> HashFunction:
    """The hash function called `name`: `sha256`, `sha256_cbor`, `xxhash`, `xxhash_cbor` or `kvgpu128`.

    Which one to choose: docs/hashing.md.

    Raises:
        UnknownNameError: There is none of that name; the message lists those there are.

    O(1).
    """
    if not isinstance(name, str) or name not in HASH_FUNCTIONS:
        raise UnknownNameError("hash function", name, list(HASH_FUNCTIONS))
    return HASH_FUNCTIONS[name]


def init_none_hash(hash_fn: HashFunction) -> None:
    """Set `NONE_HASH`: the hash of `PYTHONHASHSEED` where that is set, else what the key of kvgpu128 says, else 32
    random bytes.

    Processes that share hashes need a hash whose bytes do not depend on the Python version: a `_cbor` function and
    the same PYTHONHASHSEED (without one a warning is logged), or kvgpu128 and the same key, which is enough, unless
    some have a PYTHONHASHSEED. Call it once, before anything is hashed: hashes of before do not match those of after.

    Args:
        hash_fn: The one that will hash blocks.

    Raises:
        ArgumentTypeError: It cannot be called.

    O(1).
    """
    global NONE_HASH
    if not callable(hash_fn):
        raise ArgumentTypeError(f"a hash function is expected, got {shown(hash_fn)}")
    seed = os.environ.get("PYTHONHASHSEED")
    if seed is not None:
        NONE_HASH = BlockHash(hash_fn(seed))
        return
    if hash_fn in (sha256_cbor, xxhash_cbor):
        logger.warning(
            "PYTHONHASHSEED is not set: block hashes differ between processes. "
            "Set it to a common value to share hashes of a CBOR hash function."
        )
    if hash_fn is kvgpu128:
        from kvgpu.hashing.kvgpu128.function import process_hash

        hash_fn = process_hash()
    of_the_key = getattr(hash_fn, "none_hash", None)
    NONE_HASH = BlockHash(os.urandom(32) if of_the_key is None else of_the_key())


def hash_block_tokens(
    hash_function: HashFunction,
    parent_block_hash: BlockHash | None,
    curr_block_token_ids: Sequence[int],
    extra_keys: tuple[Any, ...] | None = None,
) -> BlockHash:
    """Hash of one block: `hash_function((parent or NONE_HASH, token ids as a tuple, extra keys))`.

    Raises:
        ArgumentTypeError: The parent is not bytes, the tokens are no sequence, or the hash function cannot serialise
            them or the extra keys.
        NoneHashError: There is no parent, and `init_none_hash` was not called.
    """
    if parent_block_hash is not None and not isinstance(parent_block_hash, bytes):
        raise ArgumentTypeError(f"a block hash in bytes is expected, got {shown(parent_block_hash)}")
    parent = parent_block_hash or none_hash()
    try:
        tokens = tuple(curr_block_token_ids)
    except TypeError:
        raise ArgumentTypeError(f"token ids are expected, got {shown(curr_block_token_ids)}") from None
    return BlockHash(hash_function((parent, tokens, extra_keys)))


def make_block_hash_with_group_id(block_hash: BlockHash, group_id: int) -> BlockHashWithGroupId:
    """Key of `block_hash` in cache group `group_id` (0 to 2**32-1).

    Raises:
        ArgumentError, ArgumentTypeError: Something else.
    """
    if not isinstance(block_hash, bytes):
        raise ArgumentTypeError(f"a block hash in bytes is expected, got {shown(block_hash)}")
    group = as_integer("group_id", group_id, 0, MAX_GROUP_NUMBER)
    return BlockHashWithGroupId(block_hash + group.to_bytes(GROUP_ID_BYTES, "big"))


def _refuse_other_keys(key: Any) -> None:
    if not isinstance(key, bytes):
        raise ArgumentTypeError(f"a block hash with its group, in bytes, is expected, got {shown(key)}")


def get_block_hash(key: BlockHashWithGroupId) -> BlockHash:
    """The block hash inside a key.

    Raises:
        ArgumentTypeError: Something else than bytes.
    """
    _refuse_other_keys(key)
    return BlockHash(key[:-GROUP_ID_BYTES])


def get_group_id(key: BlockHashWithGroupId) -> int:
    """The group id inside a key.

    Raises:
        ArgumentTypeError: Something else than bytes.
    """
    _refuse_other_keys(key)
    return int.from_bytes(key[-GROUP_ID_BYTES:], "big")


def maybe_convert_block_hash(block_hash: BlockHash) -> ExternalBlockHash:
    """What events show of a hash: its low 64 bits as a big-endian integer, or its bytes.

    `VLLM_KV_EVENTS_USE_INT_BLOCK_HASHES=0` chooses the bytes.
    """
    if not int_block_hashes():
        return block_hash
    return int.from_bytes(block_hash, "big") & LOW_64_BITS
