"""Parents and endings of many messages, in the arrays that compiled code reads."""

from collections.abc import Sequence
from functools import cache
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from kvgpu.hashing.bulk.chains import Blocks
from kvgpu.hashing.inputs.extra_keys import ExtraKeys, written_alike
from kvgpu.hashing.serialised.libcrypto import DIGEST_BYTES
from kvgpu.hashing.serialised.messages import (
    CBOR,
    MAX_FRAME_BYTES,
    MAX_PARENT_BYTES,
    MIN_PARENT_BYTES,
    NO_EXTRA,
    PICKLE,
    WORD_BYTES,
    longest_message,
    readable,
    serialised_extra,
)


class Endings(NamedTuple):
    """Endings of the messages of blocks.

    data: uint8, every distinct ending.
    spans: int64 [blocks, 2], start and stop of each block's ending in `data`; [1, 2] if all blocks share one.
    longest: bytes of the longest ending.
    """

    data: npt.NDArray[np.uint8]
    spans: npt.NDArray[np.int64]
    longest: int


class Parents(NamedTuple):
    """Parents of the first blocks of chains, for compiled code.

    data: uint8 [chains, width], zero padded; the width is a whole number of words, and has room for a digest.
    lengths: int64 [chains], bytes of each parent.
    """

    data: npt.NDArray[np.uint8]
    lengths: npt.NDArray[np.int64]


PackedParents = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]
"""The fields of `Parents` in a plain tuple: a call that passes NamedTuples takes 2 us longer for each."""


@cache
def _no_extra_endings(kind: int) -> Endings:
    """Endings of blocks without extra keys."""
    end = NO_EXTRA[kind]
    return Endings(readable(end), np.array([[0, len(end)]]), len(end))


def block_endings(kind: int, extras: Sequence[ExtraKeys] | None) -> Endings:
    """Serialise the extra keys of every block; None means that no block has any. O(blocks)."""
    if extras is None:
        return _no_extra_endings(kind)
    parts: list[bytes] = []
    spans = np.empty((len(extras), 2), np.int64)
    at, longest = 0, 0
    last: ExtraKeys = ()
    for place, extra in enumerate(extras):
        if not written_alike(extra, last):
            parts.append(serialised_extra(kind, extra))
            at += len(parts[-1])
            last = extra
        spans[place] = at - len(parts[-1]), at
        longest = max(longest, len(parts[-1]))
    return Endings(readable(b"".join(parts)), spans, longest)


def packed_parents(
    kind: int, parents: Sequence[bytes], size: int, longest_ending: int, lookahead: int = 0
) -> PackedParents | None:
    """Copy parents into an array; None if `kvgpu.hashing.serialised.messages` cannot write some message.

    Args:
        kind: PICKLE or CBOR.
        parents: One for each chain.
        size: Tokens of a block.
        longest_ending: Bytes of the longest ending.
        lookahead: Tokens after a block that its message has, too.

    O(bytes of the parents).
    """
    sizes = [*map(len, parents)]
    lengths = np.array(sizes, np.int64)
    longest, shortest = max(sizes, default=0), min(sizes, default=MIN_PARENT_BYTES)
    if size < 1:
        return None
    if kind == PICKLE and (
        shortest < MIN_PARENT_BYTES
        or longest > MAX_PARENT_BYTES
        or longest_message(longest, size + lookahead, longest_ending) > MAX_FRAME_BYTES
    ):
        return None
    width = max(longest, DIGEST_BYTES)
    packed = np.zeros((len(parents), width + -width % WORD_BYTES), np.uint8)
    if shortest != longest:
        parents = [parent.ljust(longest, b"\0") for parent in parents]
    packed[:, :longest] = np.frombuffer(b"".join(parents), np.uint8).reshape(len(parents), longest)
    return packed, lengths


def message_parts(kind: int, blocks: Blocks) -> tuple[PackedParents, Endings, int] | None:
    """Collect the parents and endings of the messages of blocks.

    Args:
        kind: PICKLE or CBOR.
        blocks: What is to be hashed.

    Returns:
        Parents, endings, and an upper bound for the bytes of one message; None if some message has to be written by
        the real serialiser.

    Raises:
        ArgumentTypeError: The serialiser cannot write some extra keys.

    O(blocks).
    """
    if refer_to_parents(kind, blocks.extras, blocks.counts, blocks.parents):
        return None
    endings = block_endings(kind, blocks.extras)
    parents = packed_parents(kind, blocks.parents, blocks.size, endings.longest, blocks.lookahead)
    if parents is None:
        return None
    longest = longest_message(parents[0].shape[1], blocks.size + blocks.lookahead, endings.longest)
    return parents, endings, longest


def refer_to_parents(
    kind: int, extras: Sequence[ExtraKeys] | None, counts: Sequence[int], parents: Sequence[bytes]
) -> bool:
    """Return whether pickle would write a reference to the parent for some extra keys. O(blocks).

    Only the first block of a chain has a parent that existed before, and that its extra keys can contain.

    Args:
        kind: PICKLE or CBOR.
        extras: Extra keys of all blocks, chain by chain; None if no block has any.
        counts: Blocks of each chain.
        parents: One for each chain.
    """
    if extras is None or kind == CBOR:
        return False
    places = (end - count for end, count in zip(accumulate(counts), counts, strict=True))
    return any(
        count and _contains(extras[place], parent) for place, count, parent in zip(places, counts, parents, strict=True)
    )


def _contains(extra: Any, parent: bytes) -> bool:
    """Return whether extra keys contain the parent object itself, not only equal bytes."""
    return extra is parent or (isinstance(extra, tuple) and any(_contains(part, parent) for part in extra))
