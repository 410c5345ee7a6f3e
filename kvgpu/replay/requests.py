"""Requests made from a trace, with hashes that can be reused by the next replay."""

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from kvgpu.hashing.block_hashes import BlockHashes
from kvgpu.hashing.functions import BlockHash
from kvgpu.hashing.request_hasher import BlockHasher, RequestBlockHasher
from kvgpu.replay.traces.tokens import output_tokens, prompt_tokens
from kvgpu.replay.traces.trace import Trace
from kvgpu.request import Request

OUTPUTS_AT_ONCE = 1024
"""Number of output tokens that are drawn at once, and held in memory until they are generated."""


@dataclass
class Sequence:
    """A request of the trace that is being served; it generates `output_length` tokens.

    `request` is kvgpu's, or that of an engine whose manager serves it. num_lost: tokens that it had computed when it
    was preempted.
    """

    index: int
    request: Any
    output_length: int
    num_outputs: int = 0
    counted: bool = False
    num_lost: int = 0
    _drawn: list[int] = field(default_factory=list, repr=False)

    @property
    def finished(self) -> bool:
        return self.num_outputs >= self.output_length

    def next_output(self) -> int:
        """Return the next generated token."""
        place = self.num_outputs % OUTPUTS_AT_ONCE
        if place == 0:
            end = min(self.num_outputs + OUTPUTS_AT_ONCE, self.output_length)
            self._drawn = output_tokens(self.index, self.num_outputs, end)
        self.num_outputs += 1
        return self._drawn[place]


class RequestFactory:
    """Makes each request of a trace when it arrives, so that only requests being served have tokens in memory.

    Args:
        trace: The requests.
        hasher: Hashes requests.
        decode: Whether requests generate their output.
        keep_hashes: Whether to store hashes for further replays of the same trace.
    """

    def __init__(self, trace: Trace, hasher: RequestBlockHasher, decode: bool, keep_hashes: bool) -> None:
        self._trace = trace
        self._hash = hasher
        self._decode = decode
        self._kept: dict[int, BlockHashes] | None = {} if keep_hashes else None

    def draw(self, index: int) -> npt.NDArray[np.int32]:
        """Return the prompt at `index` of the trace."""
        return prompt_tokens(self._trace, index)

    def make(self, index: int, prompt: npt.NDArray[np.int32]) -> Sequence:
        """Make the request at `index` of the trace, with its hashes."""
        kept = None if self._kept is None else self._kept.get(index)
        hasher: BlockHasher = self._hash
        if kept is not None:
            hasher = partial(self._known, kept)
        request = Request(str(index), prompt, block_hasher=hasher)
        return Sequence(index, request, self.output_length(index))

    def output_length(self, index: int) -> int:
        """Return how many tokens the request at `index` of the trace generates."""
        return int(self._trace.output_length[index]) if self._decode else 0

    def _known(self, kept: BlockHashes, request: Request) -> BlockHashes | list[BlockHash]:
        """Return new hashes of a request, from those stored by an earlier replay if these suffice."""
        full = request.num_tokens // self._hash.block_size
        if len(kept) < full:
            return self._hash(request)
        rows = kept.keys[len(request.block_hashes) : full]
        return BlockHashes.of_keys(rows, kept.width, kept.linked)

    def done(self, sequence: Sequence) -> None:
        """Store the hashes of a finished request, if `keep_hashes` was set."""
        hashes = sequence.request.block_hashes
        if self._kept is not None and isinstance(hashes, BlockHashes):
            self._kept[sequence.index] = hashes
