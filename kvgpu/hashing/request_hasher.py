"""`RequestBlockHasher`: computes the missing hashes of the full blocks of one request, or of many at once."""

from collections.abc import Callable, Sequence
from operator import index
from typing import Any

import numpy as np

from kvgpu.environment import hash_threads
from kvgpu.errors import ArgumentError, ArgumentTypeError, ConfigError
from kvgpu.hashing import functions as hashing
from kvgpu.hashing.block_hashes import BlockHashes
from kvgpu.hashing.bulk.chains import MAX_BLOCK_TOKENS, Blocks, check
from kvgpu.hashing.bulk.threads import MAX_THREADS
from kvgpu.hashing.capabilities import chains_of, is_collision_resistant
from kvgpu.hashing.functions import BlockHash, HashFunction
from kvgpu.hashing.inputs.extra_keys import ExtraKeys, need_extra_keys, unwritten
from kvgpu.hashing.inputs.token_arrays import Tokens, fit_32_bits
from kvgpu.hashing.kvgpu128.function import Kvgpu128, checked_tokens
from kvgpu.hashing.new_hashes import NewHashes
from kvgpu.hashing.request_fields import blamed, last_hash, lengths_of, name_of
from kvgpu.hashing.request_reader import RequestReader, known_to_fit_32_bits

BlockHasher = Callable[[Any], BlockHashes | list[BlockHash]]


class RequestBlockHasher:
    """Computes the hashes of full blocks that have none yet.

    Args:
        block_size: Tokens per hash block.
        hash_fn: A function of `kvgpu.hashing.functions`, a `Kvgpu128`, or any other function of
            ``(parent, tokens, extra keys)``, which is called block by block.
        threads: Number of threads that hash the requests of one call; None for `KVGPU_HASH_THREADS`.
        tagged_extra_keys: Hash extra keys with a tag for their kind (`generate_tagged_extra_keys`), so that a salt
            never equals the name of an adapter. None means True for kvgpu128, and False for all others, as in vLLM.

    Raises:
        ConfigError: The block size or the number of threads is below 1 or absurdly large.
        ArgumentTypeError: One of them is not an integer, or the hash function cannot be called.
    """

    def __init__(
        self,
        block_size: int,
        hash_fn: HashFunction,
        *,
        threads: int | None = None,
        tagged_extra_keys: bool | None = None,
    ) -> None:
        self._block_size = _number("the block size must be at least 1 token", block_size, MAX_BLOCK_TOKENS)
        if not callable(hash_fn):
            raise ArgumentTypeError(f"a hash function is expected, got {hash_fn!r:.100}")
        self.threads = (
            hash_threads() if threads is None else _number("at least 1 thread is needed to hash", threads, MAX_THREADS)
        )
        self.hash_fn = hash_fn
        self._linked = is_collision_resistant(hash_fn)
        self._only_32_bits = isinstance(hash_fn, Kvgpu128) or hash_fn is hashing.kvgpu128
        self._tagged = self._only_32_bits if tagged_extra_keys is None else tagged_extra_keys
        self._reader = RequestReader(self._block_size, self._tagged)

    @property
    def block_size(self) -> int:
        """Tokens per hash block. O(1)."""
        return self._block_size

    @property
    def tagged_extra_keys(self) -> bool:
        """Whether extra keys are hashed with a tag for their kind. O(1)."""
        return self._tagged

    def __call__(self, request: Any) -> list[BlockHash]:
        """Compute the new hashes of one request of any engine; the caller appends them.

        Args:
            request: Has `block_hashes`, `all_token_ids`, `num_tokens` and the attributes of extra keys.

        O(new blocks).
        """
        return self._new([request]).of(0)[:]

    def is_idle(self, request: Any) -> bool:
        """Whether `update` has nothing to do for a request: no new block is full, and no token would be refused.

        O(tokens after the last hash).
        """
        tokens, hashed = request.all_token_ids, len(request.block_hashes) * self._block_size
        return len(tokens) < hashed + self._block_size and (
            not self._only_32_bits or known_to_fit_32_bits(tokens) or fit_32_bits(tokens[hashed:])
        )

    def update(self, requests: Sequence[Any]) -> None:
        """Append the missing hashes to `block_hashes` of each request, or to none if one of them has a fault.

        The hashes of one call share an array, which lives as long as one of the requests.

        Args:
            requests: Distinct requests.

        Raises:
            ArgumentError, ArgumentTypeError: A request appears twice, has fewer tokens than it says, has token ids
                that the hash function does not accept, or has extra keys that cannot be serialised. The message
                names it. Nothing is appended to any request then, nor if a hash function raises an error of its own.

        O(new blocks).
        """
        self.prepare(requests).append()

    def prepare(self, requests: Sequence[Any], tokens: Tokens | None = None) -> NewHashes:
        """Compute what `update` appends, without changing any request.

        Args:
            requests: As in `update`.
            tokens: `token_array` of a single request without hashes, if the caller has it.

        Raises:
            ArgumentError, ArgumentTypeError: As in `update`.

        O(new blocks).
        """
        if type(requests) is not list:
            try:
                requests = list(requests)
            except TypeError:
                raise ArgumentTypeError(
                    f"requests are expected, got {requests!r:.100}; put a single one into a list"
                ) from None
        if len(requests) > 1 and len(set(map(id, requests))) < len(requests):
            raise ArgumentError("a request comes twice; hash each once")
        return self._new(requests, tokens)

    def chained(
        self, tokens: Tokens, counts: list[int], parents: list[BlockHash | None], checked: bool = False
    ) -> BlockHashes:
        """Hash blocks without extra keys, given only their tokens.

        Args:
            tokens: int32 or int64 [chains, >= block_size * max(counts)], a line of tokens for each chain of blocks.
            counts: Blocks of each chain.
            parents: Hash before the first block of each chain; None if it begins a prompt.
            checked: True if the caller guarantees that these fit each other.

        Returns:
            The hashes, chain by chain.

        Raises:
            ArgumentError: The hashes are not all of 16 or all of 32 bytes, or counts reach beyond the tokens.
            ArgumentTypeError: An argument has another type.

        O(tokens).
        """
        if not checked and not isinstance(tokens, np.ndarray):
            raise ArgumentTypeError("an array of tokens [n, any] is expected")
        if not checked:
            check(self._lines(tokens, counts, parents))
        chains = chains_of(self.hash_fn)
        if chains is not None and chains.pays(counts):
            keys = chains.hashes(self._lines(tokens, counts, parents), self.threads)
            if keys is not None:
                return BlockHashes.of_keys(keys, chains.width, self._linked)
        hashes: list[BlockHash] = []
        for line, count, parent in zip(tokens.tolist(), counts, parents, strict=True):
            for start in range(0, count * self._block_size, self._block_size):
                ids = line[start : start + self._block_size]
                parent = hashing.hash_block_tokens(self.hash_fn, parent, ids)
                hashes.append(parent)
        made = BlockHashes(hashes)
        made.linked = self._linked
        return made

    def _lines(self, tokens: Tokens, counts: list[int], parents: list[BlockHash | None]) -> Blocks:
        """Blocks for the lines of an array, marked as checked."""
        known_parents = [parent or hashing.none_hash() for parent in parents]
        return Blocks(tokens, counts, sum(counts), self._block_size, known_parents, None, True)

    def check(self, tokens: Tokens) -> None:
        """Check that the hash function accepts these token ids.

        Raises:
            ArgumentError: It does not.

        O(tokens).
        """
        chains = chains_of(self.hash_fn)
        if isinstance(chains, Kvgpu128):
            chains.check(tokens)

    def _check_tail(self, request: Any, num_blocks: int) -> None:
        """Refuse bad tokens after the full blocks now, since later they would be refused together with good ones."""
        tail = request.all_token_ids[num_blocks * self._block_size :]
        if not fit_32_bits(tail):
            try:
                Kvgpu128.check(checked_tokens(tail))
            except ArgumentError as error:
                raise blamed(request, error) from None

    def _counts(self, requests: Sequence[Any], fit: bool) -> tuple[list[int], list[int]]:
        """Number of hashes and of new blocks of each request; `fit` says that all token ids fit into 32 bits."""
        firsts, counts, size = [], [], self._block_size
        for request in requests:
            first, num_tokens = lengths_of(request)
            count = max(0, num_tokens // size - first)
            if self._only_32_bits and not fit and not known_to_fit_32_bits(request.all_token_ids):
                self._check_tail(request, first + count)
            firsts.append(first)
            counts.append(count)
        return firsts, counts

    def _new(self, requests: list[Any], known: Tokens | None = None) -> NewHashes:
        """Compute the new hashes of all requests; `known` is the argument `tokens` of `prepare`."""
        firsts, counts = self._counts(requests, known is not None and known.itemsize == 4)
        chains = chains_of(self.hash_fn) if any(counts) else None
        if chains is not None and chains.pays(counts):
            blocks = self._reader.blocks(requests, firsts, counts, known)
            try:
                keys = None if blocks is None else chains.hashes(blocks, self.threads)
            except ArgumentError as error:
                if len(requests) == 1:
                    raise blamed(requests[0], error) from error
                for request in requests:
                    self._new([request])  # raises for the request at fault, and names it
                raise
            if keys is not None:
                return NewHashes(requests, firsts, counts, keys, chains.width, self._linked)
            if len(requests) > 1:
                # A single request may have kept all from being hashed in bulk.
                made = [self._new([request]).of(0) for request in requests]
                return NewHashes(requests, firsts, counts, made, 0, self._linked)
        made_alone: list[BlockHashes | list[BlockHash]] = [
            self._one_by_one(request, first, count)
            for request, first, count in zip(requests, firsts, counts, strict=True)
        ]
        return NewHashes(requests, firsts, counts, made_alone, 0, self._linked)

    def _one_by_one(self, request: Any, first: int, count: int) -> list[BlockHash]:
        """Hash the new blocks of one request with a call of the hash function for each."""
        if not count:
            return []
        size = self._block_size
        parent = last_hash(request) if first else None
        tokens = self._reader.listed_tokens(request, first, count)
        extras: list[ExtraKeys] = [None] * count
        if need_extra_keys(request):
            extras = self._reader.extras(request, first, count)
        hashes: list[BlockHash] = []
        for block, extra in enumerate(extras):
            ids = tokens[block * size : (block + 1) * size]
            try:
                parent = hashing.hash_block_tokens(self.hash_fn, parent, ids, extra)
            except ArgumentError as error:
                raise blamed(request, error) from error
            except Exception as error:
                known = any(self.hash_fn is each for each in hashing.HASH_FUNCTIONS.values())
                if extra is not None and known and not isinstance(error, MemoryError):
                    raise blamed(request, unwritten(extra, error)) from error
                error.add_note(f"while block {first + block} of {name_of(request)} was hashed")
                raise
            hashes.append(parent)
        return hashes


def _number(requirement: str, given: Any, maximum: int) -> int:
    """Return an integer from 1 to `maximum`.

    Raises:
        ConfigError: The integer is smaller or larger.
        ArgumentTypeError: It is not an integer.
    """
    try:
        number = index(given)
    except TypeError:
        number = None
    if number is None or isinstance(given, bool):
        raise ArgumentTypeError(f"{requirement}, an integer; got {given!r:.100}")
    if not 1 <= number <= maximum:
        raise ConfigError(f"{requirement}, got {number}" if number < 1 else f"at most {maximum}, got {number}")
    return number


def get_request_block_hasher(
    block_size: int, caching_hash_fn: HashFunction, *, threads: int | None = None, tagged_extra_keys: bool | None = None
) -> RequestBlockHasher:
    """Make a function that computes the hashes of those full blocks of a request that have none yet.

    Requests that share this function can be hashed in one call.

    Args:
        block_size: Tokens per hash block.
        caching_hash_fn, threads, tagged_extra_keys: As in `RequestBlockHasher`.

    Raises:
        ConfigError: The block size or the number of threads is below 1 or absurdly large.
        ArgumentTypeError: One of them is not an integer, or the hash function cannot be called.

    O(1).
    """
    return RequestBlockHasher(block_size, caching_hash_fn, threads=threads, tagged_extra_keys=tagged_extra_keys)
