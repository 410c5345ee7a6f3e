"""`RequestBlockHasher`: computes the missing hashes of the full blocks of one request, or of many at once."""

from collections.abc import Callable, Sequence
from operator import index
from typing import Any

import numpy as np

from kvgpu.config.behaviour import Behaviour, behaviour_of
from kvgpu.environment import hash_threads
from kvgpu.errors import ArgumentError, ArgumentTypeError, ConfigError
from kvgpu.hashing import functions as hashing
from kvgpu.hashing.block_hashes import BlockHashes
from kvgpu.hashing.bulk.chains import MAX_BLOCK_TOKENS, Blocks, check
from kvgpu.hashing.bulk.threads import MAX_THREADS
from kvgpu.hashing.capabilities import chains_of, is_collision_resistant
from kvgpu.hashing.functions import BlockHash, HashFunction
from kvgpu.hashing.inputs.extra_keys import generate_block_hash_extra_keys
from kvgpu.hashing.inputs.tagged_keys import generate_tagged_extra_keys, generate_vllm_tagged_keys
from kvgpu.hashing.inputs.token_arrays import Tokens, fit_32_bits
from kvgpu.hashing.kvgpu128.function import Kvgpu128
from kvgpu.hashing.new_hashes import NewHashes
from kvgpu.hashing.one_by_one import chain_one_by_one, hash_one_by_one
from kvgpu.hashing.request_fields import blamed, lengths_of
from kvgpu.hashing.request_reader import KeyMaker, RequestReader, check_tail, known_to_fit_32_bits

BlockHasher = Callable[[Any], BlockHashes | list[BlockHash]]


class RequestBlockHasher:
    """Computes the hashes of full blocks that have none yet.

    Args:
        block_size: Tokens per hash block.
        hash_fn: A function of `kvgpu.hashing.functions`, a `Kvgpu128`, or any other function of
            ``(parent, tokens, extra keys)``, which is called block by block.
        threads: Number of threads that hash the requests of one call; None for `KVGPU_HASH_THREADS`.
        tagged_extra_keys: Hash extra keys with kvgpu's own tags (`generate_tagged_extra_keys`), so that a salt never
            equals the name of an adapter. False means keys as the behaviour has them: without tags in 0.23, with those
            of vLLM in 0.33 (fact B2). None means True for kvgpu128, and False for all others.
        behaviour: Version of vLLM, or a `Behaviour`; `tags_extra_keys` and `finds_items` count.
        num_hash_lookahead_tokens: Tokens after a block that its hash covers, too (fact B6). A block has no hash before
            they are there. With any, multimodal items are found by position, whatever the behaviour.

    Raises:
        ConfigError: The block size or the number of threads is below 1, the number of tokens for look-ahead is below 0,
            or one of them is absurdly large; or (`UnknownNameError`) no behaviour has this name.
        ArgumentTypeError: One of them is not an integer, the hash function cannot be called, or the behaviour is
            neither a name nor a `Behaviour`.
    """

    def __init__(
        self,
        block_size: int,
        hash_fn: HashFunction,
        *,
        threads: int | None = None,
        tagged_extra_keys: bool | None = None,
        behaviour: str | Behaviour = "0.23",
        num_hash_lookahead_tokens: int = 0,
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
        self._behaviour = behaviour_of(behaviour)
        self._lookahead = _number("look-ahead covers at least 0 tokens", num_hash_lookahead_tokens, MAX_BLOCK_TOKENS, 0)
        generate: KeyMaker = generate_block_hash_extra_keys
        if self._tagged or self._behaviour.tags_extra_keys:
            generate = generate_tagged_extra_keys if self._tagged else generate_vllm_tagged_keys
        finds_items = self._behaviour.finds_items or self._lookahead > 0
        self._reader = RequestReader(self._block_size, self._lookahead, generate, finds_items)

    @property
    def block_size(self) -> int:
        """Tokens per hash block. O(1)."""
        return self._block_size

    @property
    def tagged_extra_keys(self) -> bool:
        """Whether extra keys are hashed with kvgpu's own tags. O(1)."""
        return self._tagged

    @property
    def behaviour(self) -> Behaviour:
        """Whose hashes are made. O(1)."""
        return self._behaviour

    @property
    def num_hash_lookahead_tokens(self) -> int:
        """Tokens after a block that its hash covers, too. O(1)."""
        return self._lookahead

    def __call__(self, request: Any) -> list[BlockHash]:
        """Compute the new hashes of one request of any engine; the caller appends them.

        Args:
            request: Has `block_hashes`, `all_token_ids`, `num_tokens` and the attributes of extra keys.

        O(new blocks).
        """
        return self._new([request]).of(0)[:]

    def is_idle(self, request: Any) -> bool:
        """Whether `update` has nothing to do for a request: no new block can be hashed, and no token would be refused.

        O(tokens after the last hash).
        """
        tokens, hashed = request.all_token_ids, len(request.block_hashes) * self._block_size
        return len(tokens) < hashed + self._block_size + self._lookahead and (
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
            tokens: int32 or int64 [chains, >= block_size * max(counts) + num_hash_lookahead_tokens], a line of tokens
                for each chain of blocks.
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
        sizes = self._block_size, self._lookahead
        made = BlockHashes(chain_one_by_one(self.hash_fn, tokens, sizes, counts, parents))
        made.linked = self._linked
        return made

    def _lines(self, tokens: Tokens, counts: list[int], parents: list[BlockHash | None]) -> Blocks:
        """Blocks for the lines of an array, marked as checked."""
        known_parents = [parent or hashing.none_hash() for parent in parents]
        return Blocks(tokens, counts, sum(counts), self._block_size, known_parents, None, True, self._lookahead)

    def check(self, tokens: Tokens) -> None:
        """Check that the hash function accepts these token ids.

        Raises:
            ArgumentError: It does not.

        O(tokens).
        """
        chains = chains_of(self.hash_fn)
        if isinstance(chains, Kvgpu128):
            chains.check(tokens)

    def _counts(self, requests: Sequence[Any], fit: bool) -> tuple[list[int], list[int]]:
        """Number of hashes and of new blocks of each request; `fit` says that all token ids fit into 32 bits."""
        firsts, counts, size = [], [], self._block_size
        for request in requests:
            first, num_tokens = lengths_of(request)
            count = max(0, (num_tokens - self._lookahead) // size - first)
            if self._only_32_bits and not fit and not known_to_fit_32_bits(request.all_token_ids):
                check_tail(request, (first + count) * size)
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
            hash_one_by_one(self.hash_fn, self._reader, request, first, count)
            for request, first, count in zip(requests, firsts, counts, strict=True)
        ]
        return NewHashes(requests, firsts, counts, made_alone, 0, self._linked)


def _number(requirement: str, given: Any, maximum: int, least: int = 1) -> int:
    """Return an integer from `least` to `maximum`.

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
    if not least <= number <= maximum:
        raise ConfigError(f"{requirement}, got {number}" if number < least else f"at most {maximum}, got {number}")
    return number


def get_request_block_hasher(
    block_size: int,
    caching_hash_fn: HashFunction,
    num_hash_lookahead_tokens: int = 0,
    *,
    threads: int | None = None,
    tagged_extra_keys: bool | None = None,
    behaviour: str | Behaviour = "0.23",
) -> RequestBlockHasher:
    """Make a function that computes the hashes of those full blocks of a request that have none yet.

    Requests that share this function can be hashed in one call.

    Args:
        block_size: Tokens per hash block.
        caching_hash_fn, num_hash_lookahead_tokens, threads, tagged_extra_keys, behaviour: As in `RequestBlockHasher`.

    Raises:
        ConfigError, ArgumentTypeError: As in `RequestBlockHasher`.

    O(1).
    """
    return RequestBlockHasher(
        block_size,
        caching_hash_fn,
        threads=threads,
        tagged_extra_keys=tagged_extra_keys,
        behaviour=behaviour,
        num_hash_lookahead_tokens=num_hash_lookahead_tokens,
    )
