"""`RequestReader`: reads the tokens, the extra keys and the parents of new blocks from requests."""

from collections.abc import Callable, Sequence
from typing import Any

from kvgpu.errors import ArgumentError
from kvgpu.hashing import functions as hashing
from kvgpu.hashing.bulk.chains import Blocks
from kvgpu.hashing.functions import BlockHash
from kvgpu.hashing.inputs.extra_keys import ExtraKeys, check_extra_keys, need_extra_keys
from kvgpu.hashing.inputs.mm_items import first_item_from, item_seen_again
from kvgpu.hashing.inputs.token_arrays import Tokens, fit_32_bits, plain_tokens, token_array
from kvgpu.hashing.inputs.token_ids import TokenIds
from kvgpu.hashing.kvgpu128.function import Kvgpu128, checked_tokens
from kvgpu.hashing.request_fields import blamed, last_hash, tokens_were_cut

KeyMaker = Callable[[Any, int, int, int], tuple[ExtraKeys, int]]


def known_to_fit_32_bits(tokens: Any) -> bool:
    """Whether all token ids fit into 32 bits, as far as that is known without reading them. O(1)."""
    return type(tokens) is TokenIds and tokens.storage.itemsize == 4


def check_tail(request: Any, start: int) -> None:
    """Refuse tokens from `start` on that kvgpu128 cannot hash; later they would be refused together with good ones.

    Raises:
        ArgumentError, ArgumentTypeError: There are some. The message names the request.

    O(tokens from there on).
    """
    tail = request.all_token_ids[start:]
    if not fit_32_bits(tail):
        try:
            Kvgpu128.check(checked_tokens(tail))
        except ArgumentError as error:
            raise blamed(request, error) from None


class RequestReader:
    """Reads tokens, extra keys and parents of new blocks.

    Args:
        block_size: Tokens per hash block.
        lookahead: Tokens after a block that its hash covers, too.
        generate: Makes the extra keys of one block, as `generate_block_hash_extra_keys` does.
        finds_items: Whether a request that has hashes already finds its multimodal items by their position (fact B4).

    In all methods `first` is the number of hashes that a request has, and `count` the number of its new blocks.
    """

    def __init__(self, block_size: int, lookahead: int, generate: KeyMaker, finds_items: bool) -> None:
        self.block_size, self.lookahead = block_size, lookahead
        self._generate, self._finds_items = generate, finds_items

    def blocks(
        self, requests: Sequence[Any], firsts: Sequence[int], counts: Sequence[int], known: Tokens | None
    ) -> Blocks | None:
        """Collect the new blocks of requests.

        Args:
            requests: Requests of any engine.
            firsts, counts: `first` and `count` of each.
            known: `token_array` of a single request without hashes, if the caller has it.

        Returns:
            None if some token ids do not fit into an array.

        Raises:
            ArgumentError, ArgumentTypeError: A request has too few tokens, or they or its extra keys cannot be
                hashed. The message names it.

        O(new blocks).
        """
        none_hash = hashing.none_hash() if 0 in firsts else BlockHash(b"")
        tokens: list[Tokens] = []
        extras: list[list[ExtraKeys] | None] = []
        parents: list[BlockHash] = []
        for request, first, count in zip(requests, firsts, counts, strict=True):
            ids = self._tokens(request, first, count) if known is None else known
            if ids is None:
                return None
            if count and len(ids) < count * self.block_size + self.lookahead:
                raise tokens_were_cut(request)
            tokens.append(ids)
            parents.append(last_hash(request) if first else none_hash)
            extras.append(self.extras(request, first, count) if need_extra_keys(request) else None)
        all_extras: list[ExtraKeys] | None = None
        if any(extras):
            all_extras = [key for given, count in zip(extras, counts, strict=True) for key in (given or [None] * count)]
        # `check` would find no fault: the arrays come from `token_array` and `TokenIds`, and none is too short.
        return Blocks(tokens, counts, sum(counts), self.block_size, parents, all_extras, True, self.lookahead)

    def _tokens(self, request: Any, first: int, count: int) -> Tokens | None:
        """Return the tokens for new blocks, and maybe more; fewer if another thread has cut them meanwhile."""
        tokens, start = request.all_token_ids, first * self.block_size
        stop = start + count * self.block_size + self.lookahead
        if isinstance(tokens, TokenIds):
            if not first and known_to_fit_32_bits(tokens):
                # Tokens after the blocks are never read, and cutting them off costs more than hashing a few blocks.
                return tokens.storage
            return tokens.part(start, stop)
        try:
            if first == 0 and type(tokens) is list:
                return token_array(tokens)  # avoids a copy of the list
            return token_array(tokens[start:stop])
        except ArgumentError as error:
            raise blamed(request, error) from None

    def listed_tokens(self, request: Any, first: int, count: int) -> list[int]:
        """Return the tokens for new blocks, those for look-ahead included, as a list that no other thread can cut.

        Raises:
            ArgumentError, ArgumentTypeError: There are too few, or they are not integers. The message names the
                request.

        O(tokens).
        """
        start, length = first * self.block_size, count * self.block_size + self.lookahead
        try:
            tokens = plain_tokens(request.all_token_ids[start : start + length])
        except ArgumentError as error:
            raise blamed(request, error) from None
        if len(tokens) < length:
            raise tokens_were_cut(request)
        return tokens

    def extras(self, request: Any, first: int, count: int) -> list[ExtraKeys]:
        """Generate the extra keys of new blocks, each with the tokens for look-ahead after it.

        Raises:
            ArgumentError: Text among them cannot be encoded. The message names the request.

        O(new blocks).
        """
        try:
            check_extra_keys(request)
        except ArgumentError as error:
            raise blamed(request, error) from None
        extras, size, generate, lookahead = [], self.block_size, self._generate, self.lookahead
        # If there are hashes, every multimodal item but the last is taken to end before the new blocks (fact 6).
        cursor = -1 if first > 0 else 0
        if self._finds_items:
            cursor = first_item_from(request, first * size)
        for begin in range(first * size, (first + count) * size, size):
            end = begin + size
            extra, cursor = generate(request, begin, end + lookahead, cursor)
            if lookahead:
                cursor = item_seen_again(request, end, cursor)
            extras.append(extra)
        return extras
