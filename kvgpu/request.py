"""`Request`: tokens and block hashes of one request, with the attributes that engines' requests have.

The manager takes any object with these attributes; this one keeps its hashes as one array.
"""

import reprlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import countOf
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from kvgpu.blocks import HASH_WIDTHS
from kvgpu.errors import ArgumentError
from kvgpu.extra_keys import generate_block_hash_extra_keys
from kvgpu.hashing import BlockHash, HashFunction, hash_block_tokens
from kvgpu.kernels.layout import KEY_WORDS

BlockHasher = Callable[[Any], list[BlockHash]]

_ROW_BYTES = 8 * KEY_WORDS


def rows_from_bytes(hashes: Sequence[bytes], width: int) -> npt.NDArray[np.int64]:
    """Hashes of `width` bytes as key words int64 [n, KEY_WORDS], zero padded. O(n)."""
    packed = np.frombuffer(b"".join(hashes), np.uint8).reshape(-1, width)
    if width == _ROW_BYTES:
        return packed.view("<i8")
    rows = np.zeros((len(packed), _ROW_BYTES), np.uint8)
    rows[:, :width] = packed
    return rows.view("<i8")


def all_of_width(hashes: Sequence[bytes], width: int) -> bool:
    """Whether each has `width` bytes. O(n); half as long as asking each in Python."""
    return countOf(map(len, hashes), width) == len(hashes)


class BlockHashes(Sequence[BlockHash]):
    """Block hashes of one request: a sequence of bytes kept as key words.

    Args:
        hashes: Hashes of 16 or of 32 bytes, all of one width.

    Attributes:
        width: Bytes per hash; 0 while empty.
    """

    __slots__ = ("_length", "_rows", "width")
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, hashes: Iterable[BlockHash] = ()) -> None:
        self.width = 0
        self._length = 0
        self._rows = np.empty((0, KEY_WORDS), np.int64)
        self.extend(list(hashes))

    @property
    def rows(self) -> npt.NDArray[np.int64]:
        """Key words, int64 [len, KEY_WORDS], on the CPU; a live view. O(1)."""
        return self._rows[: self._length]

    def accepts(self, hashes: Sequence[bytes]) -> bool:
        """True if all have the width of those here (or 16 or 32 bytes while this is empty)."""
        if not hashes:
            return True
        if set(map(type, hashes)) != {bytes}:
            return False
        width = self.width or len(hashes[0])
        return width in HASH_WIDTHS and all_of_width(hashes, width)

    def extend(self, hashes: Sequence[BlockHash]) -> None:
        """Append hashes. Amortised O(len(hashes)).

        Raises:
            ArgumentError: They are not all of 16 or all of 32 bytes. Nothing is appended.
        """
        if not hashes:
            return
        if not self.accepts(hashes):
            raise ArgumentError(
                f"block hashes must be bytes, all of 16 or all of 32, got {reprlib.repr(hashes)}"
            )
        self.extend_accepted(hashes)

    def extend_accepted(self, hashes: Sequence[BlockHash]) -> None:
        """`extend` for hashes that it `accepts`, at least one."""
        width = len(hashes[0])
        self.extend_rows(rows_from_bytes(hashes, width), width)

    def extend_rows(self, rows: npt.NDArray[np.int64], width: int) -> None:
        """Append key words int64 [n, KEY_WORDS] of hashes of `width` bytes."""
        self.width = width
        length = self._length + len(rows)
        if length > len(self._rows):
            grown = np.empty((max(length, length + length // 8), KEY_WORDS), np.int64)
            grown[: self._length] = self.rows
            self._rows = grown
        self._rows[self._length : length] = rows
        self._length = length

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> BlockHash: ...
    @overload
    def __getitem__(self, index: slice) -> list[BlockHash]: ...
    def __getitem__(self, index: int | slice) -> BlockHash | list[BlockHash]:
        if isinstance(index, slice):
            return [BlockHash(row.tobytes()[: self.width]) for row in self.rows[index]]
        return BlockHash(self.rows[index].tobytes()[: self.width])

    def __iter__(self) -> Iterator[BlockHash]:
        return iter(self[:])

    def __eq__(self, other: object) -> bool:
        if isinstance(other, BlockHashes):
            return self.width == other.width and bool(np.array_equal(self.rows, other.rows))
        return self[:] == other if isinstance(other, list) else NotImplemented

    def __repr__(self) -> str:
        return f"BlockHashes({self[:]!r})"


def get_request_block_hasher(block_size: int, caching_hash_fn: HashFunction) -> BlockHasher:
    """A function that gives the hashes of a request's full blocks that have none yet.

    Args:
        block_size: Tokens per hash block.
        caching_hash_fn: One of the functions of `kvgpu.hashing`.
    """

    def hash_new_blocks(request: Any) -> list[BlockHash]:
        start = len(request.block_hashes) * block_size
        num_tokens = request.num_tokens
        if start + block_size > num_tokens:
            return []
        # All items but the last lie in front of tokens that were hashed before (fact 6).
        mm_index = -1 if start > 0 else 0
        parent = request.block_hashes[-1] if start > 0 else None
        tokens = request.all_token_ids
        hashes: list[BlockHash] = []
        for begin in range(start, num_tokens - block_size + 1, block_size):
            end = begin + block_size
            extra, mm_index = generate_block_hash_extra_keys(request, begin, end, mm_index)
            parent = hash_block_tokens(caching_hash_fn, parent, tokens[begin:end], extra)
            hashes.append(parent)
        return hashes

    return hash_new_blocks


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
        prompt_token_ids: The prompt; None with `prompt_embeds`, which then count as tokens of id 0.
        sampling_params: Any object; `max_tokens`, `prompt_logprobs` and
            `skip_reading_prefix_cache` are read where present.
        pooling_params: Any object; `skip_reading_prefix_cache` is read where present.
        prompt_embeds: Embeddings, one row per token, where the prompt has no token ids.
        mm_features: Multimodal items with `identifier` and `mm_position` (`offset`, `length`).
        lora_request: Object with `lora_name` and `adapter_id`.
        cache_salt: Only requests of equal salt share blocks.
        priority: Kept for schedulers.
        block_hasher: From `get_request_block_hasher`; None leaves the request without hashes.
        arrival_time: Seconds; now if not given.
    """

    def __init__(
        self,
        request_id: str,
        prompt_token_ids: list[int] | None,
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
        tokens = [0] * len(prompt_embeds) if prompt_token_ids is None else prompt_token_ids
        self.num_prompt_tokens = len(tokens)
        self.all_token_ids = list(tokens)
        self.spec_token_ids: list[int] = []
        self.num_computed_tokens = 0
        self.num_cached_tokens = -1
        self.num_preemptions = 0
        self.skip_reading_prefix_cache = _skips_reading(sampling_params or pooling_params)
        self._prompt_embeds_per_block_hashes: dict[tuple[int, int], bytes] = {}
        self._block_hasher = block_hasher
        self.block_hashes: BlockHashes | list[BlockHash] = BlockHashes()
        self.update_block_hashes()

    @property
    def num_tokens(self) -> int:
        """Tokens of prompt and output."""
        return len(self.all_token_ids)

    @property
    def num_tokens_with_spec(self) -> int:
        """`num_tokens` plus the drafted ones."""
        return len(self.all_token_ids) + len(self.spec_token_ids)

    @property
    def num_output_tokens(self) -> int:
        return len(self.all_token_ids) - self.num_prompt_tokens

    @property
    def output_token_ids(self) -> list[int]:
        return self.all_token_ids[self.num_prompt_tokens :]

    def append_output_token_ids(self, token_ids: int | Sequence[int]) -> None:
        """Append generated tokens and hash the blocks that they fill."""
        if isinstance(token_ids, int):
            self.all_token_ids.append(token_ids)
        else:
            self.all_token_ids.extend(token_ids)
        self.update_block_hashes()

    def update_block_hashes(self) -> None:
        """Hash the full blocks that have no hash yet."""
        if self._block_hasher is None:
            return
        new = self._block_hasher(self)
        hashes = self.block_hashes
        if not new:
            return
        if isinstance(hashes, BlockHashes):
            if hashes.accepts(new):
                hashes.extend_accepted(new)
                return
            # A hash function of another width: served, without the speed of arrays.
            hashes = self.block_hashes = list(hashes)
        hashes.extend(new)

    def get_skip_reading_prefix_cache(self) -> bool:
        """True if the request must not reuse cached blocks (it may still fill some)."""
        return self.skip_reading_prefix_cache

    def __lt__(self, other: "Request") -> bool:
        """Order of a priority queue: priority, then arrival, then name."""
        return (self.priority, self.arrival_time, self.request_id) < (
            other.priority,
            other.arrival_time,
            other.request_id,
        )
