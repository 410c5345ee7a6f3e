"""The embedded workload: conversations of several turns that share system prompts."""

import numpy as np

from kvgpu.replay.traces.trace import Trace, from_requests

BLOCK_TOKENS = 16


def conversations(num_conversations: int = 240, num_system_prompts: int = 6, seed: int = 0) -> Trace:
    """Make a trace of chats.

    Every conversation begins with one of a few system prompts (some are far more popular than others) and continues
    for a few turns; the prompt of each turn is everything said before, plus a new message.

    Args:
        num_conversations: Number of chats.
        num_system_prompts: Number of different system prompts.
        seed: Equal seeds give equal traces.
    """
    rng = np.random.default_rng(seed)
    next_id = 0

    def fresh(tokens: int) -> list[int]:
        nonlocal next_id
        count = -(-tokens // BLOCK_TOKENS)
        next_id += count
        return list(range(next_id - count, next_id))

    prompts = [fresh(int(size)) for size in rng.integers(300, 1500, num_system_prompts)]
    popularity = 1.0 / np.arange(1, num_system_prompts + 1)
    popularity /= popularity.sum()
    requests = []
    for _ in range(num_conversations):
        ids = list(prompts[rng.choice(num_system_prompts, p=popularity)])
        arrival = float(rng.uniform(0, 600_000))
        for _ in range(int(rng.geometric(0.3))):
            ids += fresh(int(rng.lognormal(4.5, 0.9)) + 1)
            # The last block of a prompt is seldom full.
            input_length = len(ids) * BLOCK_TOKENS - int(rng.integers(BLOCK_TOKENS))
            output_length = int(rng.lognormal(4.3, 0.7)) + 1
            requests.append((arrival, input_length, output_length, list(ids)))
            ids += fresh(output_length)
            arrival += 50.0 * output_length + float(rng.exponential(20_000))
    return from_requests("conversations", BLOCK_TOKENS, requests)
