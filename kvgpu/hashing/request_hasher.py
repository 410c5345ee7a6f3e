"""`RequestBlockHasher`: the hashes of a request's full blocks, or of those of many requests at once."""

from collections.abc import Callable, Sequence
from operator import index
from typing import Any

import numpy as np

from kvgpu.config import hash_threads
from kvgpu.errors import ArgumentError, ArgumentTypeError, ConfigError
from kvgpu.hashing import functions as hashing
from kvgpu.hashing.block_hashes import BlockHashes
from kvgpu.hashing.bulk.chains import MOST_TOKENS, Blocks, check
from kvgpu.hashing.bulk.threads import MOST_THREADS
from kvgpu.hashing.capabilities import chains_of, links
from kvgpu.hashing.functions import BlockHash, HashFunction
from kvgpu.hashing.inputs.extra_keys import (
    ExtraKeys,
    check_extra_keys,
    generate_block_hash_extra_keys,
    generate_tagged_extra_keys,
    need_extra_keys,
    unwritten,
)
from kvgpu.hashing.inputs.token_arrays import Tokens, fit_32_bits, plain_tokens, token_array
from kvgpu.hashing.inputs.token_ids import TokenIds
from kvgpu.hashing.kvgpu128.function import Kvgpu128, checked_tokens
from kvgpu.hashing.new_hashes import NewHashes
from kvgpu.hashing.request_fields import blamed, last_hash, lengths_of, name_of, were_cut

BlockHasher = Callable[[Any], BlockHashes | list[BlockHash]]


class RequestBlockHasher:
    """Gives the hashes of full blocks that have none yet.

    Args:
        block_size: Tokens per hash block.
        hash_fn: One of the functions of `kvgpu.hashing.functions`, a `Kvgpu128`, or any function of
            ``(parent, tokens, extra keys)``, which is then called block by block.
        threads: That hash the requests of one call; None for those of `KVGPU_HASH_THREADS`.
        tagged_extra_keys: Hash extra keys that say of which kind each is (`generate_tagged_extra_keys`), so that a
            salt never equals the name of an adapter; None for True with kvgpu128, and else False, as vLLM does.

    Raises:
        ConfigError: A block size or a number of threads below 1, or absurd.
        ArgumentTypeError: They are no integers, or the hash function is none.
    """

    def __init__(
        self,
        block_size: int,
        hash_fn: HashFunction,
        *,
        threads: int | None = None,
        tagged_extra_keys: bool | None = None,
    ) -> None:
        self.block_size = _number("the block size must be at least 1 token", block_size, MOST_TOKENS)
        if not callable(hash_fn):
            raise ArgumentTypeError(f"a hash function is expected, got {hash_fn!r:.100}")
        self.threads = (
            hash_threads() if threads is None else _number("at least 1 thread is needed to hash", threads, MOST_THREADS)
        )
        self.hash_fn = hash_fn
        self._links = links(hash_fn)
        self._checks = isinstance(hash_fn, Kvgpu128) or hash_fn is hashing.kvgpu128
        self.tagged_extra_keys = self._checks if tagged_extra_keys is None else tagged_extra_keys

    def __call__(self, request: Any) -> list[BlockHash]:
        """The new hashes of one request of any engine; the caller appends them.

        Args:
            request: Has `block_hashes`, `all_token_ids`, `num_tokens` and the attributes of extra keys.

        O(new blocks).
        """
        return self._new([request]).of(0)[:]

    def is_idle(self, request: Any) -> bool:
        """Whether `update` has nothing to do for a request: no block is full, and no token is to be refused.

        O(tokens behind the last hash).
        """
        tokens, hashed = request.all_token_ids, len(request.block_hashes) * self.block_size
        return len(tokens) < hashed + self.block_size and (
            not self._checks or _all_fit_32_bits(tokens) or fit_32_bits(tokens[hashed:])
        )

    def update(self, requests: Sequence[Any]) -> None:
        """Append to `block_hashes` of each request what it lacks: to all of them, or to none where one is at fault.

        The hashes of one call lie in one array, which lives as long as one of the requests.

        Args:
            requests: No request twice.

        Raises:
            ArgumentError, ArgumentTypeError: A request that comes twice, that says it has more tokens than it has,
                whose token ids the hash function does not take, or whose extra keys cannot be written. The message
                names it. Nothing is appended to any, nor when a hash function raises an error of its own.

        O(new blocks).
        """
        self.prepare(requests).append()

    def prepare(self, requests: Sequence[Any], tokens: Tokens | None = None) -> NewHashes:
        """What `update` appends, without a change to any request.

        Args:
            requests: As in `update`.
            tokens: `token_array` of a single request that has no hashes yet, where the caller knows it.

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
        """Hashes of blocks without extra keys, from their tokens alone, chain by chain.

        Args:
            tokens: int32 or int64 [n, >= block_size * max(counts)], of each chain those of its blocks.
            counts: Blocks of each chain.
            parents: What stands before each; None if nothing does.
            checked: The caller has seen that these fit each other.

        Raises:
            ArgumentError: The hash function gives hashes that are not all of 16 or all of 32 bytes, or counts that
                reach beyond the tokens.
            ArgumentTypeError: Something else than these.

        O(tokens).
        """
        if not checked and not isinstance(tokens, np.ndarray):
            raise ArgumentTypeError("an array of tokens [n, any] is expected")
        if not checked:
            check(self._lines(tokens, counts, parents))
        chains = chains_of(self.hash_fn)
        if chains is not None and chains.pays(counts):
            rows = chains.rows(self._lines(tokens, counts, parents), self.threads)
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

    def _lines(self, tokens: Tokens, counts: list[int], parents: list[BlockHash | None]) -> Blocks:
        """Blocks of the lines of an array, which are or will be checked."""
        heads = [parent or hashing.none_hash() for parent in parents]
        return Blocks(tokens, counts, sum(counts), self.block_size, heads, None, True)

    def check(self, tokens: Tokens) -> None:
        """
        Raises:
            ArgumentError: Token ids that the hash function does not take.

        O(tokens).
        """
        chains = chains_of(self.hash_fn)
        if isinstance(chains, Kvgpu128):
            chains.check(tokens)

    def _check_tail(self, request: Any, num_blocks: int) -> None:
        """Refuse tokens behind the full blocks now: later they would be refused together with good ones."""
        tail = request.all_token_ids[num_blocks * self.block_size :]
        if not fit_32_bits(tail):
            try:
                Kvgpu128.check(checked_tokens(tail))
            except ArgumentError as error:
                raise blamed(request, error) from None

    def _counts(self, requests: Sequence[Any], known: bool) -> tuple[list[int], list[int]]:
        """Hashes that each request has, and how many it lacks; `known`: its tokens fit into 32 bits."""
        firsts, counts, size = [], [], self.block_size
        for request in requests:
            first, num_tokens = lengths_of(request)
            count = max(0, num_tokens // size - first)
            if self._checks and not known and not _all_fit_32_bits(request.all_token_ids):
                self._check_tail(request, first + count)
            firsts.append(first)
            counts.append(count)
        return firsts, counts

    def _new(self, requests: list[Any], known: Tokens | None = None) -> NewHashes:
        """New hashes of all requests; `known`: as the tokens of `prepare`."""
        fit = known is not None and known.itemsize == 4
        firsts, counts = self._counts(requests, fit)
        chains = chains_of(self.hash_fn) if any(counts) else None
        if chains is not None and chains.pays(counts):
            blocks = self._blocks(requests, firsts, counts, known)
            try:
                rows = None if blocks is None else chains.rows(blocks, self.threads)
            except ArgumentError as error:
                if len(requests) == 1:
                    raise blamed(requests[0], error) from error
                for request in requests:
                    self._new([request])  # of which one raises
                raise
            if rows is not None:
                return NewHashes(requests, firsts, counts, rows, chains.width, self._links)
            if len(requests) > 1:
                # One of them may be the reason.
                made = [self._new([request]).of(0) for request in requests]
                return NewHashes(requests, firsts, counts, made, 0, self._links)
        alone: list[BlockHashes | list[BlockHash]] = [
            self._one_by_one(request, first, count)
            for request, first, count in zip(requests, firsts, counts, strict=True)
        ]
        return NewHashes(requests, firsts, counts, alone, 0, self._links)

    def _blocks(self, requests: list[Any], firsts: list[int], counts: list[int], known: Tokens | None) -> Blocks | None:
        """New blocks of requests; None if there are token ids that do not fit into an array."""
        none_hash = hashing.none_hash() if 0 in firsts else hashing.BlockHash(b"")
        tokens: list[Tokens] = []
        extras: list[list[ExtraKeys] | None] = []
        parents: list[BlockHash] = []
        for request, first, count in zip(requests, firsts, counts, strict=True):
            ids = self._tokens(request, first, count) if known is None else known
            if ids is None:
                return None
            if len(ids) < count * self.block_size:
                raise were_cut(request)
            tokens.append(ids)
            parents.append(last_hash(request) if first else none_hash)
            extras.append(self._extras(request, first, count) if need_extra_keys(request) else None)
        every: list[ExtraKeys] | None = None
        if any(extras):
            every = [key for given, count in zip(extras, counts, strict=True) for key in (given or [None] * count)]
        # As `check` would see it: arrays of `token_array` and `TokenIds`, and none too short.
        return Blocks(tokens, counts, sum(counts), self.block_size, parents, every, True)

    def _tokens(self, request: Any, first: int, count: int) -> Tokens | None:
        """The tokens of new blocks; more may follow them, and less where somebody has cut them meanwhile."""
        held, size = request.all_token_ids, self.block_size
        if isinstance(held, TokenIds):
            if not first and _all_fit_32_bits(held):
                # Nothing behind these is looked at, and to cut it off costs more than to hash some blocks.
                return held.storage
            return held.part(first * size, (first + count) * size)
        try:
            if first == 0 and type(held) is list:
                return token_array(held)  # no copy of the list
            return token_array(held[first * size : (first + count) * size])
        except ArgumentError as error:
            raise blamed(request, error) from None

    def _extras(self, request: Any, first: int, count: int) -> list[ExtraKeys]:
        try:
            check_extra_keys(request)
        except ArgumentError as error:
            raise blamed(request, error) from None
        generate = generate_tagged_extra_keys if self.tagged_extra_keys else generate_block_hash_extra_keys
        # All items but the last lie in front of tokens that were hashed before (fact 6).
        cursor = -1 if first > 0 else 0
        extras = []
        for begin in range(first * self.block_size, (first + count) * self.block_size, self.block_size):
            extra, cursor = generate(request, begin, begin + self.block_size, cursor)
            extras.append(extra)
        return extras

    def _one_by_one(self, request: Any, first: int, count: int) -> list[BlockHash]:
        if not count:
            return []
        size = self.block_size
        parent = last_hash(request) if first else None
        try:
            # One copy of all of them, which nobody cuts.
            tokens = plain_tokens(request.all_token_ids[first * size : (first + count) * size])
        except ArgumentError as error:
            raise blamed(request, error) from None
        if len(tokens) < count * size:
            raise were_cut(request)
        extras: list[ExtraKeys] = [None] * count
        if need_extra_keys(request):
            extras = self._extras(request, first, count)
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


def _all_fit_32_bits(tokens: Any) -> bool:
    """Whether it is known at once that all token ids do."""
    return type(tokens) is TokenIds and tokens.storage.itemsize == 4


def _number(what: str, given: Any, most: int) -> int:
    """An integer from 1 to `most`.

    Raises:
        ConfigError: A smaller or a larger one.
        ArgumentTypeError: No integer.
    """
    try:
        number = index(given)
    except TypeError:
        number = None
    if number is None or isinstance(given, bool):
        raise ArgumentTypeError(f"{what}, an integer; got {given!r:.100}")
    if not 1 <= number <= most:
        raise ConfigError(f"{what}, got {number}" if number < 1 else f"at most {most}, got {number}")
    return number


def get_request_block_hasher(
    block_size: int, caching_hash_fn: HashFunction, *, threads: int | None = None, tagged_extra_keys: bool | None = None
) -> RequestBlockHasher:
    """A function that gives the hashes of a request's full blocks that have none yet.

    Requests that have the same one can be hashed in one call.

    Args:
        block_size: Tokens per hash block.
        caching_hash_fn, threads, tagged_extra_keys: As in `RequestBlockHasher`.

    Raises:
        ConfigError: A block size or a number of threads below 1, or absurd.
        ArgumentTypeError: They are no integers, or the hash function is none.

    O(1).
    """
    return RequestBlockHasher(block_size, caching_hash_fn, threads=threads, tagged_extra_keys=tagged_extra_keys)
