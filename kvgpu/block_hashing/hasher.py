"""`RequestBlockHasher`: the hashes of a request's full blocks, or of those of many requests at once."""

import hashlib
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

from kvgpu import hashing
from kvgpu.block_hashes import BlockHashes
from kvgpu.block_hashing.blocks import Blocks, Chains, Rows
from kvgpu.block_hashing.chains import message_chains
from kvgpu.block_hashing.kvgpu128 import Kvgpu128, checked_tokens, process_hash
from kvgpu.block_hashing.messages import CBOR, PICKLE
from kvgpu.config import hash_threads
from kvgpu.errors import ConfigError
from kvgpu.extra_keys import ExtraKeys, generate_block_hash_extra_keys, need_extra_keys
from kvgpu.hashing import BlockHash, HashFunction
from kvgpu.token_ids import TokenIds, Tokens, fit_32_bits, token_array

BlockHasher = Callable[[Any], BlockHashes | list[BlockHash]]


def chains_of(hash_fn: HashFunction) -> Chains | None:
    """How to hash many blocks with this function; None for a function that is not known here. O(1)."""
    if isinstance(hash_fn, Kvgpu128):
        return hash_fn
    if hash_fn is hashing.kvgpu128:
        return process_hash()
    for name in ("sha256", "sha256_cbor", "xxhash", "xxhash_cbor"):
        if hash_fn is getattr(hashing, name):
            return chains_called(name)
    return None


@cache
def chains_called(name: str) -> Chains | None:
    """Chains of a hash function of vLLM."""
    kind = CBOR if name.endswith("cbor") else PICKLE
    if name.startswith("sha256"):
        return message_chains(kind, lambda data: hashlib.sha256(data).digest(), 32)
    import xxhash

    return message_chains(kind, xxhash.xxh3_128_digest, 16)


def links(hash_fn: HashFunction) -> bool:
    """Whether nobody can find two prefixes that have the same hash: then it says all that came before. O(1)."""
    known = (hashing.sha256, hashing.sha256_cbor, hashing.kvgpu128)
    return isinstance(hash_fn, Kvgpu128) or any(hash_fn is each for each in known)


class _InBulk(NamedTuple):
    """Hashes of several requests. width: bytes of one. rows: all of them, request by request. counts: of each."""

    width: int
    rows: Rows
    counts: list[int]


class RequestBlockHasher:
    """Gives the hashes of full blocks that have none yet.

    Args:
        block_size: Tokens per hash block.
        hash_fn: One of the functions of `kvgpu.hashing`, a `Kvgpu128`, or any function of
            ``(parent, tokens, extra keys)``, which is then called block by block.
        threads: That hash the requests of one call; None for those of `KVGPU_HASH_THREADS`.

    Raises:
        ConfigError: A block size or a number of threads below 1.
    """

    def __init__(
        self, block_size: int, hash_fn: HashFunction, *, threads: int | None = None
    ) -> None:
        if block_size < 1:
            raise ConfigError(f"the block size must be at least 1 token, got {block_size}")
        if threads is not None and threads < 1:
            raise ConfigError(f"at least 1 thread is needed to hash, got {threads}")
        self.threads = hash_threads() if threads is None else threads
        self.block_size = block_size
        self.hash_fn = hash_fn
        self._links = links(hash_fn)
        self._checks = isinstance(hash_fn, Kvgpu128) or hash_fn is hashing.kvgpu128

    def __call__(self, request: Any) -> list[BlockHash]:
        """The new hashes of one request of any engine; the caller appends them.

        Args:
            request: Has `block_hashes`, `all_token_ids`, `num_tokens` and the attributes of extra keys.

        O(new blocks).
        """
        return self._of_one(request)[:]

    def is_idle(self, request: Any) -> bool:
        """Whether `update` has nothing to do for a request: no block is full, and no token is to be refused.

        O(tokens behind the last hash).
        """
        tokens, hashed = request.all_token_ids, len(request.block_hashes) * self.block_size
        return len(tokens) < hashed + self.block_size and (
            not self._checks or _all_fit_32_bits(tokens) or fit_32_bits(tokens[hashed:])
        )

    def update(self, requests: Sequence[Any]) -> None:
        """Append to `block_hashes` of each request what it lacks.

        The hashes of one call lie in one array, which lives as long as one of the requests.

        Args:
            requests: No request twice.

        Raises:
            ArgumentError, ArgumentTypeError: Token ids that the hash function does not take; nothing is
                appended to any.

        O(new blocks).
        """
        found = self._new(requests)
        if isinstance(found, list):
            for request, new in zip(requests, found, strict=True):
                append_hashes(request, new, self._links)
            return
        begin = 0
        for request, count in zip(requests, found.counts, strict=True):
            held, rows = request.block_hashes, found.rows[begin : begin + count]
            if type(held) is BlockHashes and held.width in (0, found.width):
                held.extend_rows(rows, found.width, self._links)
            else:
                append_hashes(request, BlockHashes.of_rows(rows, found.width), self._links)
            begin += count

    def chained(
        self, tokens: Tokens, counts: list[int], parents: list[BlockHash | None]
    ) -> BlockHashes:
        """Hashes of blocks without extra keys, from their tokens alone, chain by chain.

        Args:
            tokens: int32 or int64 [n, >= block_size * max(counts)], of each chain those of its blocks.
            counts: Blocks of each chain, at least one.
            parents: What stands before each; None if nothing does.

        Raises:
            ArgumentError: The hash function gives hashes that are not all of 16 or all of 32 bytes.

        O(tokens).
        """
        chains = chains_of(self.hash_fn)
        if chains is not None and chains.pays(counts):
            heads = [parent or hashing.none_hash() for parent in parents]
            blocks = Blocks(tokens, counts, sum(counts), self.block_size, heads, None)
            rows = chains.rows(blocks, self.threads)
            if rows is not None:
                return BlockHashes.of_rows(rows, chains.width, self._links)
        hashes: list[BlockHash] = []
        for line, count, parent in zip(tokens.tolist(), counts, parents, strict=True):
            for start in range(0, count * self.block_size, self.block_size):
                ids = line[start : start + self.block_size]
                parent = hashing.hash_block_tokens(self.hash_fn, parent, ids)
                hashes.append(parent)
        made = BlockHashes(hashes)
        made.linked = self._links
        return made

    def check(self, tokens: Tokens) -> None:
        """
        Raises:
            ArgumentError: Token ids that the hash function does not take.

        O(tokens).
        """
        chains = chains_of(self.hash_fn)
        if isinstance(chains, Kvgpu128):
            chains.check(tokens)

    def _check_tail(self, tokens: Any, num_blocks: int) -> None:
        """Refuse tokens behind the full blocks now: later they would be refused together with good ones."""
        tail = tokens[num_blocks * self.block_size :]
        if not fit_32_bits(tail):
            Kvgpu128.check(checked_tokens(tail))

    def _counts(self, requests: Sequence[Any]) -> tuple[list[int], list[int]]:
        """Hashes that each request has, and how many it lacks.

        Raises:
            ArgumentError, ArgumentTypeError: Token ids that the hash function does not take.
        """
        firsts, counts, size = [], [], self.block_size
        for request in requests:
            held, tokens = request.block_hashes, request.all_token_ids
            first = held.length if type(held) is BlockHashes else len(held)
            num_tokens = request.num_tokens
            if type(tokens) is TokenIds:
                num_tokens = min(num_tokens, tokens.length)  # what is read without asking
            count = max(0, int(num_tokens // size) - first)
            if self._checks and not _all_fit_32_bits(tokens):
                self._check_tail(tokens, first + count)
            firsts.append(first)
            counts.append(count)
        return firsts, counts

    def _new(self, requests: Sequence[Any]) -> "_InBulk | list[BlockHashes | list[BlockHash]]":
        """New hashes of all requests together, or of each where that cannot be, or does not pay."""
        firsts, counts = self._counts(requests)
        chains = chains_of(self.hash_fn) if any(counts) else None
        if chains is not None and chains.pays(counts):
            blocks = self._blocks(requests, firsts, counts)
            rows = None if blocks is None else chains.rows(blocks, self.threads)
            if rows is not None:
                return _InBulk(chains.width, rows, counts)
            if len(requests) > 1:
                # One of them may be the reason.
                return [self._of_one(request) for request in requests]
        return [
            self._one_by_one(request, first, count)
            for request, first, count in zip(requests, firsts, counts, strict=True)
        ]

    def _of_one(self, request: Any) -> BlockHashes | list[BlockHash]:
        """New hashes of one request."""
        found = self._new([request])
        if isinstance(found, list):
            return found[0]
        return BlockHashes.of_rows(found.rows, found.width, self._links)

    def _blocks(
        self, requests: Sequence[Any], firsts: list[int], counts: list[int]
    ) -> Blocks | None:
        """New blocks of requests; None if there are token ids that do not fit into an array."""
        none_hash = hashing.none_hash() if 0 in firsts else hashing.BlockHash(b"")
        tokens: list[Tokens] = []
        extras: list[list[ExtraKeys] | None] = []
        parents: list[BlockHash] = []
        for request, first, count in zip(requests, firsts, counts, strict=True):
            ids = self._tokens(request, first, count)
            if ids is None:
                return None
            tokens.append(ids)
            parents.append((request.block_hashes[-1] if first else None) or none_hash)
            extras.append(self._extras(request, first, count) if need_extra_keys(request) else None)
        every: list[ExtraKeys] | None = None
        if any(extras):
            every = [
                key
                for given, count in zip(extras, counts, strict=True)
                for key in (given or [None] * count)
            ]
        return Blocks(tokens, counts, sum(counts), self.block_size, parents, every)

    def _tokens(self, request: Any, first: int, count: int) -> Tokens | None:
        """The tokens of new blocks; more may follow them."""
        held, size = request.all_token_ids, self.block_size
        if isinstance(held, TokenIds):
            if not first and _all_fit_32_bits(held):
                # Nothing behind these is looked at, and to cut it off costs more than to hash some blocks.
                return held.storage
            return held.part(first * size, (first + count) * size)
        if first == 0 and type(held) is list:
            return token_array(held)  # no copy of the list
        return token_array(list(held[first * size : (first + count) * size]))

    def _extras(self, request: Any, first: int, count: int) -> list[ExtraKeys]:
        # All items but the last lie in front of tokens that were hashed before (fact 6).
        cursor = -1 if first > 0 else 0
        extras = []
        for begin in range(
            first * self.block_size, (first + count) * self.block_size, self.block_size
        ):
            extra, cursor = generate_block_hash_extra_keys(
                request, begin, begin + self.block_size, cursor
            )
            extras.append(extra)
        return extras

    def _one_by_one(self, request: Any, first: int, count: int) -> list[BlockHash]:
        if not count:
            return []
        parent = request.block_hashes[-1] if first else None
        tokens = request.all_token_ids
        hashes: list[BlockHash] = []
        for block, extra in enumerate(self._extras(request, first, count), first):
            ids = tokens[block * self.block_size : (block + 1) * self.block_size]
            parent = hashing.hash_block_tokens(self.hash_fn, parent, ids, extra)
            hashes.append(parent)
        return hashes


def _all_fit_32_bits(tokens: Any) -> bool:
    """Whether it is known at once that all token ids do."""
    return type(tokens) is TokenIds and tokens.storage.itemsize == 4


def append_hashes(request: Any, new: BlockHashes | list[BlockHash], linked: bool = False) -> None:
    """Append hashes to a request; those of another width turn its array into a list.

    `linked`: as in `BlockHashes`, to those that the request has.
    """
    held = request.block_hashes
    if not len(new):
        return
    if isinstance(held, BlockHashes) and isinstance(new, BlockHashes):
        if held.width in (0, new.width):
            held.extend_rows(new.rows, new.width, linked)
            return
    elif isinstance(held, BlockHashes) and held.accepts(new):
        held.extend_accepted(new, linked)
        return
    if isinstance(held, BlockHashes):
        # A hash function of another width: served, without the speed of arrays.
        held = request.block_hashes = list(held)
    held.extend(new)


def get_request_block_hasher(
    block_size: int, caching_hash_fn: HashFunction, *, threads: int | None = None
) -> RequestBlockHasher:
    """A function that gives the hashes of a request's full blocks that have none yet.

    Requests that have the same one can be hashed in one call.

    Args:
        block_size: Tokens per hash block.
        caching_hash_fn, threads: As in `RequestBlockHasher`.

    Raises:
        ConfigError: A block size or a number of threads below 1.

    O(1).
    """
    return RequestBlockHasher(block_size, caching_hash_fn, threads=threads)
