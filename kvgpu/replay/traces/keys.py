"""Numbers of the full blocks of prompts, equal for equal blocks."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from kvgpu.replay.traces.trace import Trace


class PromptKeys(NamedTuple):
    """Those of request i are numbers[offsets[i]:offsets[i + 1]], int64; the first limits[i] of them can be hit, since
    one token of each prompt is computed. They are below num_keys."""

    numbers: npt.NDArray[np.int64]
    offsets: npt.NDArray[np.int64]
    limits: npt.NDArray[np.int64]
    num_keys: int

    def of(self, request: int) -> npt.NDArray[np.int64]:
        """Return the numbers of one request, as a view. O(1)."""
        return self.numbers[self.offsets[request] : self.offsets[request + 1]]


def prompt_keys(trace: Trace, block_size: int) -> PromptKeys:
    """Number the full blocks of all prompts; `block_size` is in tokens. O(blocks log(blocks))."""
    per_id = trace.block_tokens
    _, ids = np.unique(trace.ids, return_inverse=True)
    counts = trace.input_length // block_size
    parts = [np.empty(0, np.int64)]
    for request in range(len(trace)):
        last = np.arange(1, counts[request] + 1) * block_size - 1
        own = ids[trace.offsets[request] : trace.offsets[request + 1]]
        parts.append(own[last // per_id] * per_id + last % per_id)
    _, numbers = np.unique(np.concatenate(parts), return_inverse=True)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    limits = np.maximum(trace.input_length - 1, 0) // block_size
    return PromptKeys(numbers.astype(np.int64), offsets, limits, int(numbers.max(initial=-1)) + 1)
