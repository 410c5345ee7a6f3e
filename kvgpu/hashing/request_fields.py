"""Fields that a hasher reads from a request of any engine, and errors that name the request."""

from operator import index
from typing import Any

from kvgpu.errors import ArgumentError, ArgumentTypeError
from kvgpu.hashing import functions as hashing
from kvgpu.hashing.block_hashes import BlockHashes
from kvgpu.hashing.functions import BlockHash
from kvgpu.hashing.inputs.token_ids import TokenIds


def name_of(request: Any) -> str:
    """Name of a request for error messages."""
    return f"request {getattr(request, 'request_id', None) or type(request).__name__}"


def blamed(request: Any, error: ArgumentError) -> ArgumentError:
    """The same error with the name of the request that caused it."""
    return type(error)(f"{name_of(request)}: {error}")


def lengths_of(request: Any) -> tuple[int, int]:
    """Return the number of block hashes of a request, and its `num_tokens`; `all_token_ids` may be longer.

    Raises:
        ArgumentError: `num_tokens` is below 0, or there are fewer token ids.
        ArgumentTypeError: An attribute is missing or has another type.

    O(1).
    """
    try:
        hashes, tokens, num_tokens = request.block_hashes, request.all_token_ids, request.num_tokens
        num_hashes = hashes.length if type(hashes) is BlockHashes else len(hashes)
        num_ids = tokens.length if type(tokens) is TokenIds else len(tokens)
    except (AttributeError, TypeError) as error:
        raise ArgumentTypeError(
            f"{name_of(request)} needs block_hashes, all_token_ids and num_tokens: {error}"
        ) from error
    if type(num_tokens) is not int or not 0 <= num_tokens <= num_ids:
        num_tokens = _number_of_tokens(request, num_tokens, num_ids)
    return num_hashes, num_tokens


def last_hash(request: Any) -> BlockHash:
    """Return the last hash of a request that has hashes; `NONE_HASH` if the hash is None or empty."""
    last = request.block_hashes[-1]
    if type(last) is not bytes:
        if last is not None and not isinstance(last, bytes):
            raise ArgumentTypeError(f"{name_of(request)}: block hashes are bytes, got {type(last).__name__}")
        last = bytes(last or b"")  # plain bytes, because pickle would write a subclass differently
    return BlockHash(last) if last else hashing.none_hash()


def _number_of_tokens(request: Any, given: Any, num_ids: int) -> int:
    """Convert a number of tokens that is not a plain `int` from 0 to `num_ids`.

    Raises:
        ArgumentError: It is not within these bounds.
        ArgumentTypeError: It is not an integer of any type.
    """
    try:
        number = index(given)
    except TypeError:
        raise ArgumentTypeError(f"{name_of(request)}: num_tokens must be an integer, got {given!r:.100}") from None
    if not 0 <= number <= num_ids:
        raise ArgumentError(f"{name_of(request)}: num_tokens is {number}, but all_token_ids has {num_ids}")
    return number


def tokens_were_cut(request: Any) -> ArgumentError:
    """The error for a request that another thread has shortened."""
    return ArgumentError(f"{name_of(request)}: token ids were removed while they were hashed")
