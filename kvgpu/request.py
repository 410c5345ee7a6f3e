"""`Request`: tokens and block hashes of one request, with the attributes that requests of engines have.

The manager takes any object with these attributes; this class stores its hashes in one array.
"""

import time
from collections.abc import Iterable, Sequence
from operator import index
from typing import Any

import numpy as np
import numpy.typing as npt

from kvgpu.config.cache_hints import CacheHints
from kvgpu.errors import ArgumentError, ArgumentTypeError
from kvgpu.hashing.block_hashes import BlockHashes
from kvgpu.hashing.functions import BlockHash
from kvgpu.hashing.inputs.extra_keys import check_extra_keys, check_text
from kvgpu.hashing.inputs.token_arrays import Tokens, plain_tokens
from kvgpu.hashing.inputs.token_ids import TokenIds, own_tokens
from kvgpu.hashing.kvgpu128.universal import all_fit
from kvgpu.hashing.new_hashes import NewHashes
from kvgpu.hashing.request_hasher import BlockHasher, RequestBlockHasher


def _skips_reading(params: Any) -> bool:
    """Return whether a request with these parameters must not reuse cached blocks.

    By default, that is a request for the log-probabilities of its prompt.
    """
    if params is None:
        return False
    choice = getattr(params, "skip_reading_prefix_cache", None)
    if choice is not None:
        return bool(choice)
    return getattr(params, "prompt_logprobs", None) is not None


class Request:
    """One generation request.

    Args:
        request_id: Unique name.
        prompt_token_ids: The prompt: a list, or an array of integers (a NumPy array, a tensor in CPU memory or
            anything with a buffer), which is hashed several times as fast. None with `prompt_embeds`, which then
            count as tokens of id 0.
        sampling_params: Any object; `max_tokens`, `prompt_logprobs` and
            `skip_reading_prefix_cache` are read if present.
        pooling_params: Any object; `skip_reading_prefix_cache` is read if present.
        prompt_embeds: Embeddings, one row per token, if the prompt has no token ids.
        mm_features: Multimodal items with `identifier` and `mm_position` (`offset`, `length`).
        lora_request: Object with `lora_name` and `adapter_id`.
        cache_salt: Only requests with equal salt share blocks.
        priority, client_index: Stored for schedulers.
        block_hasher: From `get_request_block_hasher`, or any function of a request; None for a request without
            hashes.
        arrival_time: In seconds; now if None.
        session_id: Shown in events of behaviour 0.33 (B91).
        cache_hints: How long its cached blocks are of use, for managers with `HintLimits`.

    Raises:
        ArgumentError: There is neither a prompt nor embeddings; a name, salt, adapter name or identifier cannot be
            encoded as UTF-8; or the hash function does not take the token ids.
        ArgumentTypeError: The token ids are not integers [n], or another argument has the wrong type.
        NoneHashError: A block is to be hashed, but `init_none_hash` was not called.

    Construction is O(tokens): full blocks of the prompt are hashed.
    """

    def __init__(
        self,
        request_id: str,
        prompt_token_ids: Sequence[int] | npt.NDArray[np.integer[Any]] | Any | None,
        sampling_params: Any = None,
        pooling_params: Any = None,
        *,
        client_index: int = 0,
        arrival_time: float | None = None,
        prompt_embeds: Any = None,
        mm_features: list[Any] | None = None,
        lora_request: Any = None,
        cache_salt: str | None = None,
        priority: int = 0,
        block_hasher: BlockHasher | None = None,
        session_id: str | None = None,
        cache_hints: CacheHints | None = None,
    ) -> None:
        if prompt_token_ids is None and prompt_embeds is None:
            raise ArgumentError("a request needs prompt_token_ids or prompt_embeds")
        if type(request_id) is not str or not request_id.isascii():
            _check_name(request_id)
        if block_hasher is not None and not callable(block_hasher):
            raise ArgumentTypeError(f"block_hasher: a function is expected, got {block_hasher!r:.100}")
        self.request_id = request_id
        self.client_index = client_index
        self.priority = priority
        self.arrival_time = time.time() if arrival_time is None else arrival_time
        self.sampling_params = sampling_params
        self.pooling_params = pooling_params
        self.max_tokens: int = getattr(sampling_params, "max_tokens", None) or 1
        self.mm_features = mm_features or []
        self.lora_request = lora_request
        self.cache_salt = cache_salt
        self.session_id = session_id
        if cache_hints is not None and not isinstance(cache_hints, CacheHints):
            raise ArgumentTypeError(f"cache_hints: CacheHints are expected, got {cache_hints!r:.100}")
        self.cache_hints = cache_hints
        self.prompt_embeds = prompt_embeds
        self.prompt_token_ids = prompt_token_ids
        if mm_features or not (lora_request is cache_salt is prompt_embeds is None):
            _check_attributes(self)
        self.all_token_ids: list[int] | TokenIds
        known: Tokens | None = None
        if prompt_token_ids is None:
            self.all_token_ids = [0] * len(prompt_embeds)
        else:
            self.all_token_ids, known = own_tokens(prompt_token_ids)
        self.num_prompt_tokens = len(self.all_token_ids)
        self.spec_token_ids: list[int] = []
        self.num_computed_tokens = 0
        self.num_cached_tokens = -1
        self.num_preemptions = 0
        self.skip_reading_prefix_cache = _skips_reading(sampling_params or pooling_params)
        self._prompt_embeds_per_block_hashes: dict[tuple[int, int], bytes] = {}
        self.block_hasher = block_hasher
        self.block_hashes: BlockHashes | list[BlockHash] = BlockHashes()
        if type(block_hasher) is RequestBlockHasher:
            if not block_hasher.is_idle(self):
                block_hasher.prepare([self], known).append()
        else:
            self.update_block_hashes()

    @property
    def num_tokens(self) -> int:
        """Number of tokens of prompt and output. O(1)."""
        return len(self.all_token_ids)

    @property
    def num_tokens_with_spec(self) -> int:
        """`num_tokens` plus the number of draft tokens. O(1)."""
        return len(self.all_token_ids) + len(self.spec_token_ids)

    @property
    def num_output_tokens(self) -> int:
        """Number of generated tokens. O(1)."""
        return len(self.all_token_ids) - self.num_prompt_tokens

    @property
    def output_token_ids(self) -> list[int]:
        """A copy of the generated tokens. O(num_output_tokens)."""
        return self.all_token_ids[self.num_prompt_tokens :]

    def append_output_token_ids(self, token_ids: int | np.integer[Any] | Sequence[int]) -> None:
        """Append generated tokens and hash the blocks that they fill.

        Raises:
            ArgumentError, ArgumentTypeError: The token ids are not integers, or the hash function does not take them.
                Nothing is appended, nor if a hash function raises another error.
            NoneHashError: As at construction. Nothing is appended.

        Amortised O(len(token_ids) + tokens of a block).
        """
        before = len(self.all_token_ids)
        try:
            self.append_unhashed(token_ids)
            self.update_block_hashes()
        except BaseException:
            del self.all_token_ids[before:]
            raise

    def append_unhashed(self, token_ids: int | np.integer[Any] | Sequence[int]) -> None:
        """Append generated tokens; the caller must call `update_block_hashes`. Amortised O(len(token_ids)).

        Raises:
            ArgumentError: The prompt was an array, and the tokens are not integers of 64 bits. Nothing is appended.
            ArgumentTypeError: The argument is not an integer or integers [n]. Nothing is appended.
        """
        if isinstance(token_ids, int):
            self.all_token_ids.append(token_ids)
        elif isinstance(token_ids, np.integer):
            self.append_unhashed(plain_tokens([token_ids]))
        elif type(self.all_token_ids) is TokenIds:
            self.all_token_ids.extend(token_ids)
        else:
            self.all_token_ids.extend(plain_tokens(token_ids))

    def update_block_hashes(self) -> None:
        """Hash the full blocks that have no hash yet; do nothing without a `block_hasher`.

        Raises:
            ArgumentError, ArgumentTypeError: The hash function does not take the token ids.
            NoneHashError: As at construction. After any of these errors no hash is appended.

        Amortised O(tokens without a hash).
        """
        if isinstance(self.block_hasher, RequestBlockHasher):
            if not self.block_hasher.is_idle(self):
                self.block_hasher.update([self])
        elif self.block_hasher is not None:
            self.new_hashes().append()

    def new_hashes(self) -> NewHashes:
        """Return the hashes that a `block_hasher` of any kind computes for the full blocks without a hash.

        Changes nothing.

        Raises:
            ArgumentTypeError: The function does not return hashes.

        O(cost of the function).
        """
        assert self.block_hasher is not None
        new = self.block_hasher(self)
        if not (
            isinstance(new, BlockHashes) or (isinstance(new, list) and all(isinstance(each, bytes) for each in new))
        ):
            raise ArgumentTypeError(f"block_hasher must return a list of hashes, got {new!r:.100}")
        linked = isinstance(new, BlockHashes) and new.linked
        return NewHashes([self], [len(self.block_hashes)], [len(new)], [new], 0, linked)

    def get_skip_reading_prefix_cache(self) -> bool:
        """Return whether the request must not reuse cached blocks; its own blocks may still be cached. O(1)."""
        return self.skip_reading_prefix_cache

    def __lt__(self, other: "Request") -> bool:
        """Compare as a priority queue does: by priority, then arrival time, then name."""
        return (self.priority, self.arrival_time, self.request_id) < (
            other.priority,
            other.arrival_time,
            other.request_id,
        )


def _check_name(request_id: Any) -> None:
    """Check the name of a request.

    Raises:
        ArgumentError: The name cannot be encoded.
        ArgumentTypeError: The name is not text.
    """
    if not isinstance(request_id, str):
        raise ArgumentTypeError(f"request_id: text is expected, got {request_id!r:.100}")
    check_text("request_id", request_id)


def _check_attributes(request: Request) -> None:
    """Check the attributes of a request that extra keys are made from.

    Raises:
        ArgumentError: A text cannot be encoded.
        ArgumentTypeError: An attribute has the wrong type.
    """
    salt, lora, embeds = request.cache_salt, request.lora_request, request.prompt_embeds
    if not isinstance(salt, str | bytes | None):
        raise ArgumentTypeError(f"cache_salt: text is expected, got {salt!r:.100}")
    if lora is not None and not hasattr(lora, "lora_name"):
        raise ArgumentTypeError(f"lora_request: lora_name is expected, got {lora!r:.100}")
    try:
        for item in request.mm_features:
            place = item.mm_position
            index(place.offset), index(place.length), item.identifier
        if embeds is not None:
            len(embeds)
    except (TypeError, AttributeError) as error:
        raise ArgumentTypeError(
            "mm_features: items with identifier, mm_position.offset and mm_position.length are expected, and "
            f"prompt_embeds: an array is expected: {error}"
        ) from error
    check_extra_keys(request)


def check_tokens(requests: Iterable[Any], tokens: Tokens) -> None:
    """Check that the hash functions of the requests take the token ids.

    Raises:
        ArgumentError: The hash function of one of the requests does not take a token id.

    O(tokens), and O(requests) if some token ids do not fit into 32 bits; all hash functions take those that fit.
    """
    if all_fit(tokens):
        return
    for request in requests:
        hasher = getattr(request, "block_hasher", None)
        if isinstance(hasher, RequestBlockHasher):
            hasher.check(tokens)
