"""The hit rate of an endless cache that nothing ever leaves."""

from kvgpu.replay.trace import Trace


def ideal_hit_tokens(trace: Trace, block_size: int) -> int:
    """Prompt tokens that an endless cache would have, requests served one after the other.

    A hit is a run of full blocks from the start and leaves at least one token to compute. What is
    generated is never asked for. O(hash ids).

    Args:
        trace: The requests.
        block_size: Tokens per cache block.
    """
    cached: dict[int, int] = {}
    hits = 0
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
                # Tokens known of this id, counted from the start of the prompt.
                known = cached.get(block, 0)
                found = max(found, min(known, limit))
                broken = known < begin + per_id
            cached[block] = max(cached.get(block, 0), min(full, begin + per_id))
        hits += found // block_size * block_size
    return hits
