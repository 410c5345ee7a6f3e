"""What one call of a manager, or of a hasher, costs with requests of vLLM 0.23.0: its own, and those of the plug-in.

    python bench/vllm_calls.py [--rounds 9] [--most 32768] [--json -]

Both managers of a case serve the same requests in turn, with vLLM's lists of hashes and statistics on; block ids, hits
and hashes are compared at each call, and without equality no time is printed. A figure is the median of the rounds'
medians.
Needs an interpreter with vLLM 0.23.0.
Exit status: 0 all goals met, 1 a goal missed, 2 the results differ, or vLLM is missing.
"""

import argparse
import gc
import logging
import os
import random
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter_ns as now
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

from harness import Row, benchmark_options, compared, finish  # noqa: E402
from peers.vllm_engine import NAME, SIZE, Engine, tokens  # noqa: E402
from tqdm import tqdm  # noqa: E402

from kvgpu.config.behaviour import BEHAVIOUR_0_23  # noqa: E402

RUNNING = 64
ENDLESS = 100_000
PROMPTS = (32, 512, 8192, 32_768)
Times = dict[str, list[list[float]]]
"""By call: medians in us of each round, of vLLM and of kvgpu."""


def managers(engine: Engine, case: str, num_blocks: int) -> list[Any]:
    """vLLM's manager and kvgpu's, of a kind of model."""
    config = engine.engines.config_of(*engine.specs[case], num_blocks=num_blocks)
    options = {"max_model_len": 100_000, "scheduler_block_size": SIZE, "hash_block_size": SIZE, "log_stats": True}
    return [make(config, **options, max_num_batched_tokens=8192) for make in engine.makers]


class Timer:
    """Times calls of both sides, and compares what they return."""

    def __init__(self) -> None:
        self.times: dict[str, list[list[float]]] = defaultdict(lambda: [[], []])
        self._returned: dict[tuple[Any, ...], Any] = {}

    def __call__(self, name: str, side: int, key: Any, method: Any, *args: Any) -> Any:
        """Call a method; `key` names the call among all of this name.

        Raises:
            AssertionError: The other side has returned something else.
        """
        start = now()
        result = method(*args)
        self.times[name][side].append((now() - start) / 1e3)
        plain = result
        if hasattr(result, "get_block_ids"):
            plain = result.get_block_ids()
        elif isinstance(result, tuple):
            plain = [part.get_block_ids() if hasattr(part, "get_block_ids") else part for part in result]
        if self._returned.setdefault((name, key), plain) != plain:
            raise AssertionError(f"{name} {key}: the sides differ")
        return result


def decode(engine: Engine, case: str, seed: int) -> Timer:
    """Requests that generate four blocks each, in step."""
    timer, rng = Timer(), random.Random(seed)
    both = managers(engine, case, 20_000)
    prompts = [tokens(rng, 25 * SIZE) for _ in range(RUNNING)]
    running = [[engine.request(f"r{i}", prompt, ENDLESS) for i, prompt in enumerate(prompts)] for _ in both]
    for manager, requests in zip(both, running, strict=True):
        for request in requests:
            manager.allocate_slots(request, request.num_tokens)
            request.num_computed_tokens = request.num_tokens
    for step in range(4 * SIZE):
        for side in (0, 1) if step % 2 else (1, 0):
            manager, requests = both[side], running[side]
            place = requests[0].num_computed_tokens % SIZE
            name = {0: "a new block", SIZE - 1: "a block becomes full"}.get(place, "inside a block")
            for i, request in enumerate(requests):
                request.append_output_token_ids(11)
                timer(f"allocate, {name}", side, (step, i), manager.allocate_slots, request, 1)
                request.num_computed_tokens += 1
                if place < SIZE - 1:
                    computed = request.num_computed_tokens
                    timer(
                        "cache_blocks, nothing becomes full", side, (step, i), manager.cache_blocks, request, computed
                    )
            for i in range(4):
                timer("common prefix blocks", side, (step, i), manager.get_num_common_prefix_blocks, f"r{i}")
                timer("take_events, without events", side, (step, i), manager.take_events)
            manager.new_step_starts()
    both[1].check()
    return timer


def prompts(engine: Engine, case: str, num_tokens: int, seed: int) -> Timer:
    """Requests with prompts that nothing is cached of, each followed by one with the same prompt."""
    timer, rng = Timer(), random.Random(seed)
    both = managers(engine, case, 12 * num_tokens // SIZE + 100)
    words = f"{num_tokens:,} tokens"
    for turn in range(8):
        prompt = tokens(rng, num_tokens)
        for side in (0, 1) if turn % 2 else (1, 0):
            manager = both[side]
            first, second = (engine.request(f"{name}{turn}", prompt, ENDLESS) for name in "ab")
            for request, kind in ((first, "nothing cached"), (second, "all cached")):
                blocks, hits = timer(f"look up {words}, {kind}", side, turn, manager.get_computed_blocks, request)
                more = (request, num_tokens - hits, hits, blocks)
                timer(f"allocate {words}, {kind}", side, turn, manager.allocate_slots, *more)
                held = manager.get_blocks(request.request_id)
                timer(f"get_block_ids of {words}, {kind}", side, turn, held.get_block_ids)
            timer(f"free {words}", side, turn, manager.free, first)
            manager.free(second)
    both[1].check()
    return timer


def prompt_hashes(engine: Engine, num_tokens: int, seed: int) -> Timer:
    """Hashes of prompts."""
    timer, rng = Timer(), random.Random(seed)
    for turn in range(8):
        request = engine.request(f"r{turn}", tokens(rng, num_tokens), ENDLESS)
        for side in (0, 1) if turn % 2 else (1, 0):
            request.block_hashes = []
            timer(f"hash {num_tokens:,} tokens", side, turn, engine.hashers[side], request)
    return timer


def token_hashes(engine: Engine, seed: int) -> Timer:
    """What the hasher does after each of the tokens that fill a block."""
    timer, rng = Timer(), random.Random(seed)
    requests = [engine.request(f"r{i}", tokens(rng, 25 * SIZE), ENDLESS) for i in range(RUNNING)]
    for step in range(1, SIZE + 1):
        for i, request in enumerate(requests):
            request.append_output_token_ids(11)
            if step == SIZE:
                request.block_hashes = request.block_hashes[:-1]
            kind = "a block" if step == SIZE else "no block"
            for side in (0, 1) if (step + i) % 2 else (1, 0):
                timer(f"hash, a token fills {kind}", side, (step, i), engine.hashers[side], request)
    return timer


def measure(engine: Engine, rounds: int, most: int) -> dict[str, Times]:
    """Medians of each round, by case and call, with prompts of at most so many tokens."""
    lengths = [length for length in PROMPTS if length <= most]
    found: dict[str, Times] = defaultdict(lambda: defaultdict(lambda: [[], []]))
    for turn in tqdm(range(rounds + 1), disable=None, unit="round"):
        for case in ("full", "full + window"):
            gc.collect()
            timers = [decode(engine, case, turn), *(prompts(engine, case, length, turn) for length in lengths)]
            if case == "full":  # all kinds of models are hashed the same
                timers += [token_hashes(engine, turn), *(prompt_hashes(engine, length, turn) for length in lengths)]
            for timer in timers if turn else ():  # the first round compiles
                for name, sides in timer.times.items():
                    for side, times in enumerate(sides):
                        found[case][name][side].append(statistics.median(times))
    return found


GOALS = {"free ": 2, "look up 32,768 tokens, nothing cached": 3, "hash 512": 4, "hash 8,192": 4, "hash 32,768": 4}
"""Ratios of calls whose names begin so; of all others, 1."""


def made(options: argparse.Namespace) -> Iterator[Row]:
    """All rows.

    Raises:
        ImportError: vLLM is missing, or behaves otherwise than 0.23.0.
    """
    gc.disable()
    engine = Engine()
    from kvgpu.vllm.capabilities import behaviour_of_vllm

    if behaviour_of_vllm() != BEHAVIOUR_0_23:
        raise ImportError(f"{NAME} is the peer, and here is another version")
    found = measure(engine, options.rounds, options.most)
    print("equal hits and block ids in all calls")
    for case, calls in found.items():
        for name, (theirs, ours) in calls.items():
            goal = next((ratio for start, ratio in GOALS.items() if name.startswith(start)), 1)
            yield compared(name, case, "us/call", ours, theirs, peer_name=NAME, goal=goal)


def main() -> int:
    """Compare, measure, print, save."""
    parser = benchmark_options(__doc__, rounds=9)
    parser.add_argument("--most", type=int, default=PROMPTS[-1], help="tokens of the longest prompt")
    options = parser.parse_args()
    os.environ["PYTHONHASHSEED"] = "0"
    logging.disable(logging.WARNING)
    return finish("vllm_calls", made(options), options)


if __name__ == "__main__":
    sys.exit(main())
