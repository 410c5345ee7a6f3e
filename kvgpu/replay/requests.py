"""Requests made from a trace, with hashes that can be kept for the next replay."""

from dataclasses import dataclass, field
from functools import partial

import numpy as np
import numpy.typing as npt

from kvgpu.hashing.block_hashes import BlockHashes
from kvgpu.hashing.functions import BlockHash, HashFunction
from kvgpu.hashing.request_hasher import BlockHasher, get_request_block_hasher
from kvgpu.replay.tokens import output_tokens, prompt_tokens
from kvgpu.replay.trace import Trace
from kvgpu.request import Request

OUTPUTS_AT_ONCE = 1024
"""Tokens that are drawn together, and in memory before they are generated."""


@dataclass
class Sequence:
    """A request of the trace while it is served; it generates `output_length` tokens."""

    index: int
    request: Request
    output_length: int
    num_outputs: int = 0
    counted: bool = False
    _drawn: list[int] = field(default_factory=list, repr=False)

    @property
    def finished(self) -> bool:
        return self.num_outputs >= self.output_length

    def next_output(self) -> int:
        """The token that is generated next."""
        place = self.num_outputs % OUTPUTS_AT_ONCE
        if place == 0:
            end = min(self.num_outputs + OUTPUTS_AT_ONCE, self.output_length)
            self._drawn = output_tokens(self.index, self.num_outputs, end)
        self.num_outputs += 1
        return self._drawn[place]


class RequestFactory:
    """Makes the requests of a trace when they arrive, so that only those being served have tokens.

    Args:
        trace: The requests.
        hash_block_size: Tokens per block hash.
        hash_fn: Hash function.
        decode: Whether requests generate their output.
        keep_hashes: Remember hashes for further replays of the same trace.
    """

    def __init__(
        self, trace: Trace, hash_block_size: int, hash_fn: HashFunction, decode: bool, keep_hashes: bool
    ) -> None:
        self._trace = trace
        self._size = hash_block_size
        self._hash = get_request_block_hasher(hash_block_size, hash_fn)
        self._decode = decode
        self._kept: dict[int, BlockHashes] | None = {} if keep_hashes else None

    def draw(self, index: int) -> npt.NDArray[np.int32]:
        """The prompt at `index` of the trace."""
        return prompt_tokens(self._trace, index)

    def make(self, index: int, prompt: npt.NDArray[np.int32]) -> Sequence:
        """The request at `index` of the trace, hashed."""
        kept = None if self._kept is None else self._kept.get(index)
        hasher: BlockHasher = self._hash
        if kept is not None:
            hasher = partial(self._known, kept)
        request = Request(str(index), prompt, block_hasher=hasher)
        return Sequence(index, request, int(self._trace.output_length[index]) if self._decode else 0)

    def _known(self, kept: BlockHashes, request: Request) -> BlockHashes | list[BlockHash]:
        """New hashes of a request, from those that an earlier replay has kept."""
        full = request.num_tokens // self._size
        if len(kept) < full:
            return self._hash(request)
        rows = kept.keys[len(request.block_hashes) : full]
        return BlockHashes.of_keys(rows, kept.width, kept.linked)

    def done(self, sequence: Sequence) -> None:
        """The request is finished: keep its hashes, if asked to."""
        hashes = sequence.request.block_hashes
        if self._kept is not None and isinstance(hashes, BlockHashes):
            self._kept[sequence.index] = hashes
