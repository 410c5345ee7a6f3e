"""`Sha256Chains` and `DigestChains`: bulk hashing for the hash functions that hash a serialised block."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from kvgpu.compiled.jit import inline, jit, nogil
from kvgpu.hashing.bulk.chains import Blocks, Chains, ChainTokens, Keys, located, tokens_of
from kvgpu.hashing.bulk.hash_memory import hash_memory
from kvgpu.hashing.bulk.threads import Part, in_threads
from kvgpu.hashing.serialised.libcrypto import CONTEXT_WORDS, DIGEST_BYTES, available, digest, padded
from kvgpu.hashing.serialised.message_parts import Endings, Parents, message_parts
from kvgpu.hashing.serialised.messages import CBOR, PICKLE, Message, Span, put_message, trusted
from kvgpu.layout import KEY_WORDS

MIN_BLOCKS = 8
"""Blocks for which a compiled call takes as long as hashing them one by one."""
MIN_BLOCKS_PER_THREAD = 512
"""Blocks per thread from which on it is worth waking (measured: 256 take longer, 512 a tenth less time)."""
INTERLEAVED_CHAINS = 2
"""Chains that are hashed alternately."""
PASS_BLOCKS = 1024
"""Messages that are written before they are hashed, unless a single chain has more."""


@inline
def message_of(tokens: Any, block: int, chains: ChainTokens, parent: Span, endings: Endings, place: int) -> Message:
    """Message of a block of a chain; `place` counts the blocks of all chains."""
    span, size = endings.spans[min(place, len(endings.spans) - 1)], chains.size
    ending = Span(endings.data, span[0], span[1])
    return Message(parent, Span(tokens, block * size, (block + 1) * size), ending, chains.lookahead)


@nogil
def _hash_messages(kind: int, chains: Any, part: Any, parents: Any, endings: Any, data: Any, out: Any) -> None:
    """Hash every block of some chains with SHA-256.

    Args:
        kind: PICKLE or CBOR.
        chains, part, parents, endings: Plain tuples with the fields of `ChainTokens`, `Part`, `Parents`, `Endings`.
        data: uint8 with room for one message, padded.
        out: uint8 [blocks, DIGEST_BYTES], the digests.
    """
    chains, part, parents, endings = ChainTokens(*chains), Part(*part), Parents(*parents), Endings(*endings)
    context = np.empty(CONTEXT_WORDS, np.uint32)
    counts = chains.counts
    bases = part.base + np.cumsum(counts[part.first : part.last]) - counts[part.first : part.last]
    # Alternate between a few chains: the processor need not wait for one digest before it starts the other.
    for first in range(part.first, part.last, INTERLEAVED_CHAINS):
        last = min(first + INTERLEAVED_CHAINS, part.last)
        for block in range(counts[first:last].max()):
            for chain in range(first, last):
                if block >= counts[chain]:
                    continue
                place = bases[chain - part.first] + block
                parent, length = parents.data[chain], parents.lengths[chain]
                if block > 0:
                    parent, length = out[place - 1], DIGEST_BYTES
                message = message_of(tokens_of(chains, chain), block, chains, Span(parent, 0, length), endings, place)
                digest(context, data, put_message(kind, data, message), out[place])


@jit
def _write_messages(kind: int, width: int, chains: Any, parents: Any, endings: Any, stride: int, out: Any) -> Any:
    """Write the message of every block of some chains.

    Args:
        kind: PICKLE or CBOR.
        width: Bytes of a hash. The parent of every block but the first of its chain is written as zeros.
        chains, parents, endings: Plain tuples with the fields of `ChainTokens`, `Parents`, `Endings`.
        stride: Bytes from the begin of one message to that of the next.
        out: uint8 [blocks * stride], the messages.

    Returns:
        int64 [blocks], the end of each message.
    """
    chains, parents, endings = ChainTokens(*chains), Parents(*parents), Endings(*endings)
    unknown = np.zeros(parents.data.shape[1], np.uint8)
    ends = np.empty(chains.counts.sum(), np.int64)
    place = 0
    for chain in range(len(chains.counts)):
        tokens = tokens_of(chains, chain)
        for block in range(chains.counts[chain]):
            parent, length = parents.data[chain], parents.lengths[chain]
            if block > 0:
                parent, length = unknown, width
            message = message_of(tokens, block, chains, Span(parent, 0, length), endings, place)
            begin = place * stride
            ends[place] = begin + put_message(kind, out[begin:], message)
            place += 1
    return ends


class Sha256Chains:
    """SHA-256 in compiled code, one call for all requests.

    Args:
        kind: PICKLE or CBOR.

    Attributes:
        kind: The same.
    """

    width = DIGEST_BYTES

    def __init__(self, kind: int) -> None:
        self.kind = kind

    def pays(self, counts: Sequence[int]) -> bool:
        """See `Chains`: a call costs as much as a few blocks."""
        return sum(counts) >= MIN_BLOCKS

    def hashes(self, blocks: Blocks, threads: int = 1) -> Keys | None:
        """See `Chains`."""
        owners, chains = located(blocks)
        parts = message_parts(self.kind, blocks)
        if parts is None:
            return None
        parents, endings, longest = parts
        plain_endings, room = tuple(endings), padded(longest)
        keys = hash_memory.take(blocks.total)
        digests = keys.view(np.uint8)

        def hash_part(first: int, last: int, base: int, _owners: Any = owners) -> None:
            part = first, last, base
            _hash_messages(self.kind, chains, part, parents, plain_endings, np.empty(room, np.uint8), digests)

        in_threads(blocks.counts, threads, MIN_BLOCKS_PER_THREAD, hash_part)
        return keys


class DigestChains:
    """Any digest of bytes, called from Python on messages that compiled code has written.

    Args:
        kind: PICKLE or CBOR.
        digest: Returns `width` bytes for any bytes.
        width: Bytes of a hash.
    """

    def __init__(self, kind: int, digest: Callable[[Any], bytes], width: int) -> None:
        self.width = width
        self._kind, self._digest = kind, digest
        # Place of the parent in a message.
        self._parent_at = {PICKLE: 13, CBOR: 2 if width < 24 else 3}[kind]

    def pays(self, counts: Sequence[int]) -> bool:
        """See `Chains`: the digest is still called from Python, so a block saves less than in `Sha256Chains`."""
        return sum(counts) >= 2 * MIN_BLOCKS

    def hashes(self, blocks: Blocks, threads: int = 1) -> Keys | None:
        """See `Chains`; uses one thread only, since the digest is called from Python."""
        _owners, (like, addresses, counts, *sizes) = located(blocks)
        parts = message_parts(self._kind, blocks)
        if parts is None:
            return None
        (parents, lengths), endings, stride = parts
        hashes: list[bytes] = []
        for chains in _passes(blocks.counts):
            spans = endings.spans if len(endings.spans) == 1 else endings.spans[len(hashes) :]
            messages = np.empty(stride * counts[chains].sum(), np.uint8)
            ends = _write_messages(
                self._kind,
                self.width,
                (like, addresses[chains], counts[chains], *sizes),
                (parents[chains], lengths[chains]),
                (endings.data, spans, endings.longest),
                stride,
                messages,
            )
            self._digest_messages(blocks.counts[chains], messages, stride, ends.tolist(), hashes)
        packed = np.zeros((len(hashes), 8 * KEY_WORDS), np.uint8)
        packed[:, : self.width] = np.frombuffer(b"".join(hashes), np.uint8).reshape(-1, self.width)
        return packed.view("<i8")

    def _digest_messages(
        self, counts: Sequence[int], messages: npt.NDArray[np.uint8], stride: int, ends: list[int], hashes: list[bytes]
    ) -> None:
        """Hash the messages of some chains, writing each hash into the next message, and append the hashes."""
        view, digest = memoryview(messages.data), self._digest
        first, last = self._parent_at, self._parent_at + self.width
        places = zip(range(0, len(messages), stride), ends, strict=True)
        parent = b""
        for count in counts:
            for block in range(count):
                begin, end = next(places)
                if block:
                    view[begin + first : begin + last] = parent
                parent = digest(view[begin:end])
                hashes.append(parent)


def _passes(counts: Sequence[int]) -> Iterator[slice]:
    """Split chains into ranges whose messages fit into the processor's cache together."""
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
    return DigestChains(kind, digest, width)
