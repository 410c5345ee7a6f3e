"""Chains of block hashes in bulk, for the hash functions that hash a serialised block."""

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from kvgpu.compiled.jit import carray, jit, nogil, pointer
from kvgpu.hashing.bulk.chains import Blocks, Chains, Rows, located
from kvgpu.hashing.bulk.hash_memory import hash_memory
from kvgpu.hashing.bulk.threads import in_threads
from kvgpu.hashing.inputs.extra_keys import ExtraKeys, written_alike
from kvgpu.hashing.serialised.libcrypto import CONTEXT_WORDS, DIGEST_BYTES, available, digest, padded
from kvgpu.hashing.serialised.messages import (
    CBOR,
    LONGEST_FRAME,
    LONGEST_PARENT,
    NO_EXTRA,
    PICKLE,
    SHORTEST_PARENT,
    WORD_BYTES,
    longest_message,
    message,
    readable,
    serialised_extra,
    trusted,
)
from kvgpu.layout import KEY_WORDS

FEWEST = 8
"""Blocks for which a compiled call takes as long as hashing them one by one."""
FEWEST_OF_THREAD = 512
"""Blocks of a thread for which it pays to wake it (measured: 256 take longer so, 512 a tenth less)."""
TOGETHER = 2
"""Chains that are hashed alternately."""
PASS_BLOCKS = 1024
"""Messages that are written before they are hashed, unless one chain has more."""


@nogil
def _hash_messages(
    kind: int,
    like: Any,
    arrays: Any,
    counts: Any,
    begin: int,
    stop: int,
    base: int,
    size: int,
    parents: Any,
    lengths: Any,
    endings: Any,
    spans: Any,
    data: Any,
    out: Any,
) -> None:
    """SHA-256 of every block of the chains [begin, stop), in front of which are `base` blocks; arrays, like: from
    `addresses`; out is uint8 [blocks, DIGEST_BYTES].

    A few requests at a time, block by block, so that the processor has chains that do not wait for each other.
    """
    context = np.empty(CONTEXT_WORDS, np.uint32)
    bases = base + np.cumsum(counts[begin:stop]) - counts[begin:stop]
    for first in range(begin, stop, TOGETHER):
        last = min(first + TOGETHER, stop)
        for block in range(counts[first:last].max()):
            for chain in range(first, last):
                if block >= counts[chain]:
                    continue
                tokens = carray(pointer(arrays[chain], like), (counts[chain] * size,))
                place = bases[chain - begin] + block
                parent, length = parents[chain], lengths[chain]
                if block > 0:
                    parent, length = out[place - 1], DIGEST_BYTES
                start = block * size
                span = spans[min(place, len(spans) - 1)]
                end = message(kind, data, parent, length, tokens, start, start + size, endings, span[0], span[1])
                digest(context, data, end, out[place])


@jit
def _write_messages(
    kind: int,
    like: Any,
    arrays: Any,
    counts: Any,
    size: int,
    width: int,
    parents: Any,
    lengths: Any,
    endings: Any,
    spans: Any,
    first_span: int,
    stride: int,
    out: Any,
) -> Any:
    """Messages of the blocks of requests, one every `stride` bytes, and where they end.

    arrays, like: from `located`. Behind the first block of each, the parents are `width` zeros.
    """
    unknown = np.zeros(parents.shape[1], np.uint8)
    ends = np.empty(counts.sum(), np.int64)
    place = 0
    for chain in range(len(counts)):
        tokens = carray(pointer(arrays[chain], like), (counts[chain] * size,))
        for block in range(counts[chain]):
            begin = block * size
            parent, length = parents[chain], lengths[chain]
            if block > 0:
                parent, length = unknown, width
            span = spans[min(first_span + place, len(spans) - 1)]
            ends[place] = place * stride + message(
                kind, out[place * stride :], parent, length, tokens, begin, begin + size, endings, span[0], span[1]
            )
            place += 1
    return ends


class Endings(NamedTuple):
    """How messages end. data: all endings; spans: int64 [blocks, 2], or [1, 2] where all are the same; longest:
    bytes."""

    data: npt.NDArray[np.uint8]
    spans: npt.NDArray[np.int64]
    longest: int


@cache
def _no_extras(kind: int) -> Endings:
    """Endings where no block has extra keys."""
    end = NO_EXTRA[kind]
    return Endings(readable(end), np.array([[0, len(end)]]), len(end))


def block_endings(kind: int, extras: Sequence[ExtraKeys] | None) -> Endings:
    """Endings of messages with these extra keys, of every block, or None for none at all. O(blocks)."""
    if extras is None:
        return _no_extras(kind)
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
    kind: int, parents: Sequence[bytes], size: int, longest_ending: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]] | None:
    """Parents uint8 [n, any] and their lengths int64 [n]; None if a message has not the layout of
    `kvgpu.hashing.serialised.messages`.

    Rows are whole words, and have room for a digest.
    """
    sizes = [*map(len, parents)]
    lengths = np.array(sizes, np.int64)
    longest, shortest = max(sizes, default=0), min(sizes, default=SHORTEST_PARENT)
    if size < 1:
        return None
    if kind == PICKLE and (
        shortest < SHORTEST_PARENT
        or longest > LONGEST_PARENT
        or longest_message(longest, size, longest_ending) > LONGEST_FRAME
    ):
        return None
    width = max(longest, DIGEST_BYTES)
    packed = np.zeros((len(parents), width + -width % WORD_BYTES), np.uint8)
    if shortest != longest:
        parents = [parent.ljust(longest, b"\0") for parent in parents]
    packed[:, :longest] = np.frombuffer(b"".join(parents), np.uint8).reshape(len(parents), longest)
    return packed, lengths


def _refers_to(extra: Any, parent: bytes) -> bool:
    """Whether the parent itself, not only its bytes, is part of extra keys: pickle would write a reference."""
    return extra is parent or (isinstance(extra, tuple) and any(_refers_to(part, parent) for part in extra))


def _regular(kind: int, blocks: Blocks) -> bool:
    """Whether no extra keys refer to a parent. Only parents that were given can be referred to."""
    if blocks.extras is None or kind == CBOR:
        return True
    places = (end - count for end, count in zip(accumulate(blocks.counts), blocks.counts, strict=True))
    return not any(
        count and _refers_to(blocks.extras[place], parent)
        for place, count, parent in zip(places, blocks.counts, blocks.parents, strict=True)
    )


class Sha256Chains:
    """SHA-256 in compiled code, one call for all requests.

    Args:
        kind: PICKLE or CBOR.
    """

    width = DIGEST_BYTES

    def __init__(self, kind: int) -> None:
        self._kind = kind

    def pays(self, counts: Sequence[int]) -> bool:
        """See `Chains`: a call costs as much as some blocks."""
        return sum(counts) >= FEWEST

    def rows(self, blocks: Blocks, threads: int = 1) -> Rows | None:
        """See `Chains`."""
        kept, arrays, like, counts = located(blocks)
        if not _regular(self._kind, blocks):
            return None
        endings = block_endings(self._kind, blocks.extras)
        packed = packed_parents(self._kind, blocks.parents, blocks.size, endings.longest)
        if packed is None:
            return None
        parents, lengths = packed
        room = padded(longest_message(parents.shape[1], blocks.size, endings.longest))
        rows = hash_memory.take(blocks.total)
        digests = rows.view(np.uint8)

        def hash_part(first: int, last: int, base: int, _kept: Any = kept) -> None:
            _hash_messages(
                self._kind,
                like,
                arrays,
                counts,
                first,
                last,
                base,
                blocks.size,
                parents,
                lengths,
                endings.data,
                endings.spans,
                np.empty(room, np.uint8),
                digests,
            )

        in_threads(blocks.counts, threads, FEWEST_OF_THREAD, hash_part)
        return rows


class MessageChains:
    """Any digest of bytes, called from Python on messages that compiled code wrote.

    Args:
        kind: PICKLE or CBOR.
        digest: Gives `width` bytes for any bytes.
        width: Bytes of a hash.
    """

    def __init__(self, kind: int, digest: Callable[[Any], bytes], width: int) -> None:
        self.width = width
        self._kind, self._digest = kind, digest
        # Where the parent lies in a message.
        self._at = {PICKLE: 13, CBOR: 2 if width < 24 else 3}[kind]

    def pays(self, counts: Sequence[int]) -> bool:
        """See `Chains`: with a digest that takes no time, half of what a call costs."""
        return sum(counts) >= 2 * FEWEST

    def rows(self, blocks: Blocks, threads: int = 1) -> Rows | None:
        """See `Chains`; one thread, since the digest is called from Python."""
        _kept, arrays, like, counts = located(blocks)
        if not _regular(self._kind, blocks):
            return None
        endings = block_endings(self._kind, blocks.extras)
        packed = packed_parents(self._kind, blocks.parents, blocks.size, endings.longest)
        if packed is None:
            return None
        parents, widths = packed
        hashes: list[bytes] = []
        stride = longest_message(parents.shape[1], blocks.size, endings.longest)
        for part in _passes(blocks.counts):
            data = np.empty(stride * counts[part].sum(), np.uint8)
            ends = _write_messages(
                self._kind,
                like,
                arrays[part],
                counts[part],
                blocks.size,
                self.width,
                parents[part],
                widths[part],
                endings.data,
                endings.spans,
                len(hashes),
                stride,
                data,
            )
            self._digest_messages(blocks.counts[part], data, stride, ends.tolist(), hashes)
        rows = np.zeros((len(hashes), 8 * KEY_WORDS), np.uint8)
        rows[:, : self.width] = np.frombuffer(b"".join(hashes), np.uint8).reshape(-1, self.width)
        return rows.view("<i8")

    def _digest_messages(
        self, counts: Sequence[int], data: npt.NDArray[np.uint8], stride: int, ends: list[int], hashes: list[bytes]
    ) -> None:
        """Append the hashes of the blocks of some chains, whose messages lack the parents behind the first."""
        view, digest, first, last = (memoryview(data.data), self._digest, self._at, self._at + self.width)
        places = zip(range(0, len(data), stride), ends, strict=True)
        parent = b""
        for count in counts:
            for block in range(count):
                begin, end = next(places)
                if block:
                    view[begin + first : begin + last] = parent
                parent = digest(view[begin:end])
                hashes.append(parent)


def _passes(counts: Sequence[int]) -> Iterator[slice]:
    """Ranges of chains whose messages are in the processor's cache together."""
    first, total = 0, 0
    for chain, count in enumerate(counts):
        if total + count > PASS_BLOCKS and chain > first:
            yield slice(first, chain)
            first, total = chain, 0
        total += count
    yield slice(first, len(counts))


def message_chains(kind: int, digest: Callable[[Any], bytes], width: int) -> Chains | None:
    """Chains for a hash function of serialised blocks; None if its serialiser cannot be trusted.

    SHA-256 is recognised by its width.
    """
    if not trusted(kind):
        return None
    if width == DIGEST_BYTES and available():
        return Sha256Chains(kind)
    return MessageChains(kind, digest, width)
