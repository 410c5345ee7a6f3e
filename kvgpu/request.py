"""`Request`: tokens and block hashes of one request, with the attributes that engines' requests have.

The manager takes any object with these attributes; this one keeps its hashes as one array.
"""

import time
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from kvgpu.block_hashes import BlockHashes
from kvgpu.block_hashing.hasher import BlockHasher, RequestBlockHasher, append_hashes
from kvgpu.block_hashing.universal import all_fit
from kvgpu.errors import ArgumentError
from kvgpu.hashing import BlockHash
from kvgpu.token_ids import TokenIds, Tokens


def _skips_reading(params: Any) -> bool:
    """Requests that want the log-probabilities of their prompt cannot reuse its blocks."""
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
        prompt_token_ids: The prompt, a list, or an array of integers, which is hashed several times as fast;
            None with `prompt_embeds`, which then count as tokens of id 0.
        sampling_params: Any object; `max_tokens`, `prompt_logprobs` and
            `skip_reading_prefix_cache` are read where present.
        pooling_params: Any object; `skip_reading_prefix_cache` is read where present.
        prompt_embeds: Embeddings, one row per token, where the prompt has no token ids.
        mm_features: Multimodal items with `identifier` and `mm_position` (`offset`, `length`).
        lora_request: Object with `lora_name` and `adapter_id`.
        cache_salt: Only requests of equal salt share blocks.
        priority, client_index: Kept for schedulers.
        block_hasher: From `get_request_block_hasher`, or any function of a request; None leaves the request without hashes.
        arrival_time: Seconds; now if not given.

    Raises:
        ArgumentError: Neither a prompt nor embeddings.
        ArgumentError, ArgumentTypeError: Token ids that the hash function does not take, or an array of
            something else than integers.
        NoneHashError: A block is to be hashed, and `init_none_hash` was not called.

    Construction is O(tokens): full blocks of the prompt are hashed.
    """

    def __init__(
        self,
        request_id: str,
        prompt_token_ids: list[int] | npt.NDArray[np.integer[Any]] | None,
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
    ) -> None:
        if prompt_token_ids is None and prompt_embeds is None:
            raise ArgumentError("a request needs prompt_token_ids or prompt_embeds")
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
        self.prompt_embeds = prompt_embeds
        self.prompt_token_ids = prompt_token_ids
        self.all_token_ids: list[int] | TokenIds
        if prompt_token_ids is None:
            self.all_token_ids = [0] * len(prompt_embeds)
        elif isinstance(prompt_token_ids, np.ndarray):
            self.all_token_ids = TokenIds(prompt_token_ids)
        else:
            self.all_token_ids = list(prompt_token_ids)
        self.num_prompt_tokens = len(self.all_token_ids)
        self.spec_token_ids: list[int] = []
        self.num_computed_tokens = 0
        self.num_cached_tokens = -1
        self.num_preemptions = 0
        self.skip_reading_prefix_cache = _skips_reading(sampling_params or pooling_params)
        self._prompt_embeds_per_block_hashes: dict[tuple[int, int], bytes] = {}
        self.block_hasher = block_hasher
        self.block_hashes: BlockHashes | list[BlockHash] = BlockHashes()
        self.update_block_hashes()

    @property
    def num_tokens(self) -> int:
        """Tokens of prompt and output. O(1)."""
        return len(self.all_token_ids)

    @property
    def num_tokens_with_spec(self) -> int:
        """`num_tokens` plus the drafted ones. O(1)."""
        return len(self.all_token_ids) + len(self.spec_token_ids)

    @property
    def num_output_tokens(self) -> int:
        """Tokens that were generated. O(1)."""
        return len(self.all_token_ids) - self.num_prompt_tokens

    @property
    def output_token_ids(self) -> list[int]:
        """Tokens that were generated: a copy. O(num_output_tokens)."""
        return self.all_token_ids[self.num_prompt_tokens :]

    def append_output_token_ids(self, token_ids: int | Sequence[int]) -> None:
        """Append generated tokens and hash the blocks that they fill.

        Raises:
            ArgumentError, ArgumentTypeError: Token ids that the hash function does not take. Nothing is appended,
                and nothing when a serialiser raises an error of its own.
            NoneHashError: As at construction. Nothing is appended.

        Amortised O(len(token_ids) + tokens of a block).
        """
        before = len(self.all_token_ids)
        self.append_unhashed(token_ids)
        try:
            self.update_block_hashes()
        except Exception:
            del self.all_token_ids[before:]
            raise

    def append_unhashed(self, token_ids: int | Sequence[int]) -> None:
        """Append generated tokens; `update_block_hashes` has to follow. Amortised O(len(token_ids)).

        Raises:
            ArgumentError, ArgumentTypeError: The prompt was an array, and these are no integers of 64 bits.
                Nothing is appended.
        """
        if isinstance(token_ids, int):
            self.all_token_ids.append(token_ids)
        else:
            self.all_token_ids.extend(token_ids)

    def update_block_hashes(self) -> None:
        """Hash the full blocks that have no hash yet; nothing without a `block_hasher`.

        Raises:
            ArgumentError, ArgumentTypeError: Token ids that the hash function does not take.
            NoneHashError: As at construction. No hash is appended by any.

        Amortised O(tokens without a hash).
        """
        if isinstance(self.block_hasher, RequestBlockHasher):
            if not self.block_hasher.is_idle(self):
                self.block_hasher.update([self])
        elif self.block_hasher is not None:
            new = self.block_hasher(self)
            append_hashes(self, new, isinstance(new, BlockHashes) and new.linked)

    def get_skip_reading_prefix_cache(self) -> bool:
        """True if the request must not reuse cached blocks (it may still fill some). O(1)."""
        return self.skip_reading_prefix_cache

    def __lt__(self, other: "Request") -> bool:
        """Order of a priority queue: priority, then arrival, then name."""
        return (self.priority, self.arrival_time, self.request_id) < (
            other.priority,
            other.arrival_time,
            other.request_id,
        )


def check_tokens(requests: Iterable[Any], tokens: Tokens) -> None:
    """
    Raises:
        ArgumentError: Token ids that the hash function of one of the requests does not take.

    O(tokens), and O(requests) where some do not fit into 32 bits: all hash functions take those.
    """
    if all_fit(tokens):
        return
    for request in requests:
        hasher = getattr(request, "block_hasher", None)
        if isinstance(hasher, RequestBlockHasher):
            hasher.check(tokens)


def append_and_hash(new: Iterable[tuple[Any, Sequence[int]]]) -> None:
    """Append generated tokens to many requests, and hash all blocks that they fill in one call.

    Args:
        new: Requests, none twice, and their new tokens. Requests of other engines append and hash alone.
    """
    waiting: dict[RequestBlockHasher, list[Request]] = {}
    for request, tokens in new:
        hasher = getattr(request, "block_hasher", None)
        if isinstance(request, Request) and isinstance(hasher, RequestBlockHasher):
            request.append_unhashed(tokens)
            waiting.setdefault(hasher, []).append(request)
        else:
            request.append_output_token_ids(tokens)
    for hasher, requests in waiting.items():
        hasher.update(requests)
