"""The hit rate of an endless cache that never evicts a block."""

import numpy as np
import numpy.typing as npt

from kvgpu.replay.traces.trace import Trace


def ideal_hits(trace: Trace, block_size: int) -> npt.NDArray[np.int64]:
    """Count the tokens of each prompt that hit an endless cache if requests are served one after the other.

    A hit is a run of full blocks from the start, and at least one token remains to be computed. Generated tokens do
    not count, since no prompt looks them up.

    Args:
        trace: The requests.
        block_size: Tokens per cache block.

    Returns:
        int64 [requests].

    O(hash ids).
    """
    cached: dict[int, int] = {}
    hits = np.zeros(len(trace), np.int64)
    per_id = trace.block_tokens
    for request in range(len(trace)):
        length = int(trace.input_length[request])
        full = length // block_size * block_size
        limit = (length - 1) // block_size * block_size
        found = 0
        broken = False
        for place, block in enumerate(trace.ids_of(request).tolist()):
            begin = place * per_id
            if not broken:
                # End of the cached tokens of this id, counted from the start of the prompt.
                known = cached.get(block, 0)
                found = max(found, min(known, limit))
                broken = known < begin + per_id
            cached[block] = max(cached.get(block, 0), min(full, begin + per_id))
        hits[request] = found // block_size * block_size
    return hits
