"""Hash functions: vLLM's four, byte for byte, and kvgpu128; and the hash of one block.

A block hash is ``H((parent, tokens, extra))``: of the hash of the previous block (`NONE_HASH` for the first block),
the tuple of the block's token ids, and the extra keys or None. The value depends on the serialisation: `sha256` and
`xxhash` pickle the tuple, the `_cbor` variants use canonical CBOR. `kvgpu.hashing.request_hasher` hashes many blocks
at once with the same results.

Each function imports the package it needs when it is called, because most users of this module hash nothing.
"""

import hashlib
import logging
import os
import pickle
from collections.abc import Callable, Sequence
from typing import Any, NewType

from kvgpu.config.behaviour import Behaviour, behaviour_of
from kvgpu.errors import ArgumentTypeError, NoneHashError, UnknownNameError
from kvgpu.integers import shown

logger = logging.getLogger(__name__)

BlockHash = NewType("BlockHash", bytes)
"""Hash of a block and the whole prefix before it: 16 or 32 bytes. A block that spans several hash blocks has the
concatenation of their hashes."""

HASH_WIDTHS = frozenset({16, 32})
"""Widths in bytes of the hashes that records and tables can hold."""

HashFunction = Callable[[Any], bytes]

ROOT_SEED = "vllm-none-hash"
"""What `NONE_HASH` is the hash of where a behaviour fixes it."""


def _unserialisable(error: Exception) -> ArgumentTypeError:
    return ArgumentTypeError(f"a value that cannot be serialised cannot be hashed: {error}")


def sha256(input: Any) -> bytes:
    """Hash the pickle (highest protocol) of `input` with SHA-256: 32 bytes.

    Raises:
        ArgumentTypeError: `input` cannot be pickled.

    O(length).
    """
    try:
        return hashlib.sha256(pickle.dumps(input, protocol=pickle.HIGHEST_PROTOCOL)).digest()
    except Exception as error:
        raise _unserialisable(error) from error


def sha256_cbor(input: Any) -> bytes:
    """Hash the canonical CBOR of `input` with SHA-256: 32 bytes, the same in every language.

    Raises:
        ArgumentTypeError: CBOR cannot write `input`.

    O(length).
    """
    import cbor2

    try:
        return hashlib.sha256(cbor2.dumps(input, canonical=True)).digest()
    except Exception as error:
        raise _unserialisable(error) from error


def xxhash(input: Any) -> bytes:
    """Hash the pickle of `input` with XXH3-128: 16 bytes. Fast, but not collision resistant.

    Raises:
        ArgumentTypeError: `input` cannot be pickled.

    O(length).
    """
    import xxhash

    try:
        return xxhash.xxh3_128_digest(pickle.dumps(input, protocol=pickle.HIGHEST_PROTOCOL))
    except Exception as error:
        raise _unserialisable(error) from error


def xxhash_cbor(input: Any) -> bytes:
    """Hash the canonical CBOR of `input` with XXH3-128: 16 bytes. Not collision resistant.

    Raises:
        ArgumentTypeError: CBOR cannot write `input`.

    O(length).
    """
    import cbor2
    import xxhash

    try:
        return xxhash.xxh3_128_digest(cbor2.dumps(input, canonical=True))
    except Exception as error:
        raise _unserialisable(error) from error


def kvgpu128(input: Any) -> bytes:
    """Hash `input` with kvgpu128 under the key of this process: 16 bytes. See docs/hashing.md.

    Raises:
        ArgumentError, ArgumentTypeError: As in `Kvgpu128.__call__`.

    O(length).
    """
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
"""Parent of the first block, set by `init_none_hash`. Read it as an attribute of this module."""

NONE_HASH_FUNCTION: HashFunction | None = None
"""What `init_none_hash` was called with; None before."""


def none_hash() -> BlockHash:
    """Return `NONE_HASH`.

    Raises:
        NoneHashError: `init_none_hash` has not been called.

    O(1).
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
    """Return the hash function called `name`: `sha256`, `sha256_cbor`, `xxhash`, `xxhash_cbor` or `kvgpu128`.

    docs/hashing.md says which one to choose.

    Raises:
        UnknownNameError: No function has that name; the message lists all names.

    O(1).
    """
    if not isinstance(name, str) or name not in HASH_FUNCTIONS:
        raise UnknownNameError("hash function", name, list(HASH_FUNCTIONS))
    return HASH_FUNCTIONS[name]


def init_none_hash(hash_fn: HashFunction, behaviour: str | Behaviour = "0.23") -> None:
    """Set `NONE_HASH`.

    If `PYTHONHASHSEED` is set, it is the hash of that. Else, for kvgpu128, a hash that its key implies. Else it depends
    on the behaviour: 32 random bytes in 0.23; in 0.33 the hash of a fixed text, except for `xxhash` and `xxhash_cbor`,
    whose collisions anybody could construct in advance: they hash a random text (fact B1).

    Call it once, before anything is hashed: hashes from before the call do not match those from after it.

    Processes that share hashes need a function whose results do not depend on the Python version, and the same
    `NONE_HASH`. That means a `_cbor` function and, unless it is `sha256_cbor` in 0.33, the same PYTHONHASHSEED (a
    warning is logged if it is missing); or kvgpu128 and the same key, and either no PYTHONHASHSEED in any of them, or
    the same one in all.

    Args:
        hash_fn: The function that will hash blocks.
        behaviour: Version of vLLM, or a `Behaviour`; `fixes_root_hash` counts.

    Raises:
        ArgumentTypeError: `hash_fn` cannot be called, or the behaviour has another type.
        UnknownNameError: No behaviour has this name.

    O(1).
    """
    global NONE_HASH, NONE_HASH_FUNCTION
    if not callable(hash_fn):
        raise ArgumentTypeError(f"a hash function is expected, got {shown(hash_fn)}")
    fixed = behaviour_of(behaviour).fixes_root_hash
    NONE_HASH_FUNCTION = hash_fn
    seed = os.environ.get("PYTHONHASHSEED")
    if seed is not None:
        NONE_HASH = BlockHash(hash_fn(seed))
        return
    constructible = hash_fn in (xxhash, xxhash_cbor)
    if constructible if fixed else hash_fn in (sha256_cbor, xxhash_cbor):
        logger.warning(
            "PYTHONHASHSEED is not set: block hashes differ between processes. "
            "Set it to a common value to share hashes of %s.",
            getattr(hash_fn, "__name__", hash_fn),
        )
    if hash_fn is kvgpu128:
        from kvgpu.hashing.kvgpu128.function import process_hash

        hash_fn = process_hash()
    none_hash_of_key = getattr(hash_fn, "none_hash", None)
    if none_hash_of_key is not None:
        NONE_HASH = BlockHash(none_hash_of_key())
    elif fixed:
        NONE_HASH = BlockHash(hash_fn(os.urandom(32).hex() if constructible else ROOT_SEED))
    else:
        NONE_HASH = BlockHash(os.urandom(32))


def hash_block_tokens(
    hash_function: HashFunction,
    parent_block_hash: BlockHash | None,
    curr_block_token_ids: Sequence[int],
    extra_keys: tuple[Any, ...] | None = None,
    lookahead_token_ids: Sequence[int] = (),
) -> BlockHash:
    """Hash one block: `hash_function((parent or NONE_HASH, token ids as a tuple, extra keys))`.

    Args:
        hash_function: A function of `HASH_FUNCTIONS`, or any other.
        parent_block_hash: Hash of the block before; None or empty for the first block.
        curr_block_token_ids: Tokens of the block [block size].
        extra_keys: Extra keys of the block; with look-ahead, of the block and the tokens after it.
        lookahead_token_ids: Tokens after the block that its hash covers, too. If there are any, the extra keys that are
            hashed are ``(extra keys, token, ...)`` (fact B6).

    Raises:
        ArgumentTypeError: The parent is not bytes, the tokens are not a sequence, or the hash function cannot
            serialise them or the extra keys.
        NoneHashError: There is no parent, and `init_none_hash` has not been called.

    O(tokens).
    """
    if parent_block_hash is not None and not isinstance(parent_block_hash, bytes):
        raise ArgumentTypeError(f"a block hash in bytes is expected, got {shown(parent_block_hash)}")
    parent = parent_block_hash or none_hash()
    try:
        tokens, following = tuple(curr_block_token_ids), tuple(lookahead_token_ids)
    except TypeError:
        raise ArgumentTypeError(
            f"token ids are expected, got {shown(curr_block_token_ids)} and {shown(lookahead_token_ids)}"
        ) from None
    return BlockHash(hash_function((parent, tokens, (extra_keys, *following) if following else extra_keys)))
