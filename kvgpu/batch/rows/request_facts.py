"""What a request object says of itself: its numbers and its hashes, checked."""

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from kvgpu.arguments import name_of, sequence_of_hashes
from kvgpu.batch.rows.record import FACTS, NUM_PROMPT, READS
from kvgpu.errors import ArgumentError, ArgumentTypeError
from kvgpu.hashing.block_hashes import BlockHashes, keys_if_of_width
from kvgpu.hashing.functions import HASH_WIDTHS
from kvgpu.integers import MOST_TOKENS, as_integer, as_integers, as_switch, shown
from kvgpu.layout import KEY_WORDS

COUNTS = ("block_hashes", "num_tokens", "num_prompt_tokens", "num_computed_tokens", "num_preemptions")
"""What a request counts, as error messages call it, in the order of the first rows of facts."""


def _read(requests: Sequence[Any], hashes: Sequence[Any]) -> list[list[Any]]:
    """Read what requests with these hashes count, and whether they skip the cache: a list for each of COUNTS, then one
    of bools.
    """
    for request, part in zip(requests, hashes, strict=True):
        if part.__class__ is not BlockHashes:
            sequence_of_hashes(request.request_id, part)
    return [
        [len(part) for part in hashes],
        [request.num_tokens for request in requests],
        [getattr(request, "num_prompt_tokens", None) for request in requests],
        [getattr(request, "num_computed_tokens", 0) for request in requests],
        [getattr(request, "num_preemptions", 0) for request in requests],
        [as_switch("skip_reading_prefix_cache", request.skip_reading_prefix_cache) for request in requests],
    ]


def _as_facts(counts: list[list[Any]], skips: list[Any]) -> npt.NDArray[np.int64] | None:
    """Return columns as int64 [FACTS, n], or None unless all counts are ints of 0 to MOST_TOKENS. O(n).

    To look at each count by itself would take three times as long.
    """
    if any(set(map(type, column)) != {int} for column in counts):
        return None
    size = FACTS * len(skips)
    try:
        facts = np.fromiter(chain.from_iterable([*counts, skips]), np.int64, size).reshape(FACTS, -1)
    except OverflowError:
        return None
    return None if facts.view(np.uint64).max() > MOST_TOKENS else facts


def _facts(requests: Sequence[Any]) -> tuple[npt.NDArray[np.int64], list[Any]]:
    """Return facts and hashes of requests; an error names the first of them, whichever request it is about."""
    try:
        # Read once: a property may give other hashes the next time, and compiled code trusts their number.
        hashes = [request.block_hashes for request in requests]
        *counts, skips = _read(requests, hashes)
    except (AttributeError, TypeError) as error:
        raise ArgumentTypeError(f"request {name_of(requests[0])} cannot be tracked: {error}") from None
    unknown = [count is None for count in counts[NUM_PROMPT]]
    if any(unknown):
        counts[NUM_PROMPT] = [0 if count is None else count for count in counts[NUM_PROMPT]]
    facts = _as_facts(counts, skips)
    if facts is None:
        about = f"request {name_of(requests[0])}: "
        rows = [as_integers(COUNTS, row, about) for row in zip(*counts, strict=True)]
        facts = np.array([*zip(*rows, strict=True), skips], np.int64)
    facts[NUM_PROMPT, unknown] = -1
    facts[READS] ^= 1
    return facts, hashes


def facts_of(requests: Sequence[Any]) -> tuple[npt.NDArray[np.int64], list[Any]]:
    """Ask requests for what a row takes over when it is tracked, int64 [FACTS, n], and for their hashes. O(n).

    The facts are numbers of hashes, of tokens, of tokens of the prompt (-1 if the request does not say), of computed
    tokens and of preemptions; and whether the request may reuse cached blocks.

    Raises:
        ArgumentTypeError: A request lacks an attribute, or has one of another kind.
        ArgumentError: A number is out of range.
    """
    if not requests:
        return np.zeros((FACTS, 0), np.int64), []
    try:
        return _facts(requests)
    except (ArgumentTypeError, ArgumentError):
        # Again, one after the other, so that the error names the request.
        facts, hashes = zip(*[_facts([request]) for request in requests], strict=True)
        return np.concatenate(facts, axis=1), list(chain.from_iterable(hashes))


def num_tokens_of(request: Any) -> int:
    """Return the number of tokens of a request. O(1).

    Raises:
        ArgumentTypeError, ArgumentError: It is no integer, or out of range.
    """
    return as_integer(f"request {name_of(request)}: num_tokens", request.num_tokens)


def listed_requests(requests: Sequence[Any]) -> Sequence[Any]:
    """Return the requests as a list or a tuple. O(n).

    Raises:
        ArgumentTypeError: They cannot be iterated.
    """
    if isinstance(requests, list | tuple):
        return requests
    try:
        return list(requests)
    except TypeError:
        raise ArgumentTypeError(f"a sequence of requests is expected, got {shown(requests)}") from None


def refuse_names(names: list[Any], row_of: dict[Any, int], room: int) -> None:
    """Check that requests with these names can be tracked beside those of `row_of`, in so many idle rows. O(n).

    Raises:
        ArgumentError: One comes twice or is tracked already, or there are too few rows.
    """
    if len(set(names)) < len(names):
        raise ArgumentError("a request comes twice; track each once")
    if not row_of.keys().isdisjoint(names):
        known = next(name for name in names if name in row_of)
        raise ArgumentError(f"request {known} is tracked already; extend() its row instead")
    if len(names) > room:
        raise ArgumentError(f"{len(names)} more requests do not fit into {room} idle rows: grow() first")


def are_linked(hashes: Sequence[Any]) -> bool:
    """Return whether the hashes of all these requests are known to be `BlockHashes.linked`. O(requests)."""
    return all(h.linked if isinstance(h, BlockHashes) else not h for h in hashes)


def key_words(request: Any, start: int) -> npt.NDArray[np.int64]:
    """Return hashes of a request from place `start` on, int64 [n, KEY_WORDS]. O(n), O(1) for `BlockHashes`.

    Raises:
        ArgumentError: They are not 16 or 32 bytes long, or differ in width.
    """
    hashes = request.block_hashes
    if isinstance(hashes, BlockHashes):
        return hashes.keys[start:]
    part = hashes[start:] if start else hashes
    if not part:
        return np.empty((0, KEY_WORDS), np.int64)
    width = len(part[0])
    words = keys_if_of_width(part, width) if width in HASH_WIDTHS else None
    if words is None:
        raise unfit_hashes(request)
    return words


def first_shorter(records: npt.NDArray[Any], requests: Sequence[Any]) -> int:
    """Return the place of the first request that has lost tokens or hashes which its record has, or -1. O(n).

    Args:
        records: REQUEST_RECORD [n].
        requests: As many.
    """
    hashes = (records["end"] - records["begin"] - records["num_ahead"]).tolist()
    tokens = (records["num_tokens"] - records["num_pending"]).tolist()
    for place, request in enumerate(requests):
        if len(request.block_hashes) < hashes[place] or request.num_tokens < tokens[place]:
            return place
    return -1


def unfit_hashes(request: Any) -> ArgumentError:
    """Make the error for a request whose hashes no row can hold."""
    return ArgumentError(f"request {request.request_id}: hashes of 16 or of 32 bytes can be tracked, all of one width")
