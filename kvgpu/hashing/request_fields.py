"""What a hasher reads from a request of any engine, and how it names one that is at fault."""

from operator import index
from typing import Any

from kvgpu.errors import ArgumentError, ArgumentTypeError
from kvgpu.hashing import functions as hashing
from kvgpu.hashing.block_hashes import BlockHashes
from kvgpu.hashing.functions import BlockHash
from kvgpu.hashing.inputs.token_ids import TokenIds


def name_of(request: Any) -> str:
    """For messages."""
    return f"request {getattr(request, 'request_id', None) or type(request).__name__}"


def blamed(request: Any, error: ArgumentError) -> ArgumentError:
    """The same error, naming the request whose fault it is."""
    return type(error)(f"{name_of(request)}: {error}")


def lengths_of(request: Any) -> tuple[int, int]:
    """Block hashes that a request has, and tokens: `num_tokens`, of which `all_token_ids` may have more.

    Raises:
        ArgumentError: It has fewer token ids than it says, or says a number below 0.
        ArgumentTypeError: It has not these attributes, or they are of another kind.

    O(1).
    """
    try:
        held, tokens, num_tokens = request.block_hashes, request.all_token_ids, request.num_tokens
        num_hashes = held.length if type(held) is BlockHashes else len(held)
        there = tokens.length if type(tokens) is TokenIds else len(tokens)
    except (AttributeError, TypeError) as error:
        raise ArgumentTypeError(
            f"{name_of(request)} needs block_hashes, all_token_ids and num_tokens: {error}"
        ) from error
    if type(num_tokens) is not int or not 0 <= num_tokens <= there:
        num_tokens = _number_of_tokens(request, num_tokens, there)
    return num_hashes, num_tokens


def last_hash(request: Any) -> BlockHash:
    """The last hash of a request that has one; `NONE_HASH` where that is empty."""
    last = request.block_hashes[-1]
    if type(last) is not bytes:
        if last is not None and not isinstance(last, bytes):
            raise ArgumentTypeError(f"{name_of(request)}: block hashes are bytes, got {type(last).__name__}")
        last = bytes(last or b"")  # what is written must not depend on a subclass
    return BlockHash(last) if last else hashing.none_hash()


def _number_of_tokens(request: Any, given: Any, there: int) -> int:
    """A number of tokens that is no plain integer within those that there are.

    Raises:
        ArgumentError, ArgumentTypeError: It is none of another kind either.
    """
    try:
        number = index(given)
    except TypeError:
        raise ArgumentTypeError(f"{name_of(request)}: num_tokens must be an integer, got {given!r:.100}") from None
    if not 0 <= number <= there:
        raise ArgumentError(f"{name_of(request)}: num_tokens is {number}, but all_token_ids has {there}")
    return number


def were_cut(request: Any) -> ArgumentError:
    return ArgumentError(f"{name_of(request)}: token ids were taken away while they were hashed")
