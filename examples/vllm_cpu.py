"""vLLM 0.23.0's engine core with kvgpu, end to end, without a GPU, weights or a download.

    python examples/vllm_cpu.py [--window 64] [--async] [--requests 64] [--plant] [--json -]

The same prompts are served three times, each time in a process of its own: by vLLM alone, with kvgpu's plug-in, and
with the plug-in and `kvgpu.vllm.Scheduler`. Engine core, scheduler and requests are vLLM's; in place of the model,
`stand_in.py` makes tokens that are wrong where a block is. The requests share prefixes, and are more than fit at once:
blocks are found again and evicted, prompts are cut into chunks, and requests are preempted. The tokens of each must be
those that it has without a cache.
A step's time is the CPU time of `schedule` and `update_from_output`; bench/vllm_steps.py measures it with more care.
Exit status: 0 all tokens are equal, 1 some differ, 2 vLLM or the plug-in is missing, or nothing could be planted.
"""

import argparse
import json
import logging
import multiprocessing
import os
import random
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from time import thread_time_ns as now
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

VERSION = "0.23.0"
SIDES = {"vLLM alone": (False, False), "plug-in": (True, False), "plug-in, Scheduler": (True, True)}
"""By name: whether the plug-in is loaded, and whether kvgpu's scheduler is named."""
PREFIXES, PREFIX_TOKENS, OWN_TOKENS, NEW_TOKENS = 5, (60, 160), (5, 120), (10, 80)
STOP_TOKEN_IDS = list(range(16))
"""Some requests end with one of these, which no scheduler can foresee."""

Prompts = dict[str, tuple[list[int], int]]
"""By the name of a request: its prompt, and how many tokens it generates at most."""


@dataclass
class Served:
    """What one side did.

    Attributes:
        manager, scheduler, hasher: Names of those who served.
        arrays: What `kvgpu.vllm.Scheduler` says of its own share.
        tokens, true_tokens: What each request generated, and what it generates without a cache.
        cached_tokens: Tokens that were found in the prefix cache.
        chunks: Times that a part of what was missing of a request was computed.
        new_blocks: Blocks that were given out to be written; with more than the pool has, some were evicted.
        preemptions: Times that a request lost its blocks and was resumed.
        step_us: Median CPU time of a step.
        planted: The request whose blocks were told wrong.
    """

    side: str
    manager: str
    scheduler: str
    hasher: str
    arrays: str
    tokens: dict[str, list[int]]
    true_tokens: dict[str, list[int]]
    cached_tokens: int
    chunks: int
    new_blocks: int
    preemptions: int
    steps: int
    step_us: float
    planted: str | None

    def difference(self) -> str:
        """Say which requests have wrong tokens, and the first wrong one; nothing if all are right. O(tokens)."""
        wrong = [name for name, tokens in self.tokens.items() if tokens != self.true_tokens[name]]
        if not wrong:
            return ""
        got, true = self.tokens[wrong[0]], self.true_tokens[wrong[0]]
        place = next((i for i, pair in enumerate(zip(got, true, strict=False)) if pair[0] != pair[1]), None)
        words = f"has {len(got)} tokens instead of {len(true)}"
        if place is not None:
            words = f"token {place} is {got[place]} instead of {true[place]}"
        more = f"; so have {', '.join(wrong[1:])} wrong tokens" if wrong[1:] else ""
        return f"{self.side}: request {wrong[0]}, {words}{more}"


class Clock:
    """CPU time that calls have taken since it was set to 0, in ns."""

    def __init__(self) -> None:
        self.total = 0

    def timed(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """The same call, counted."""

        def counted(*args: Any) -> Any:
            start = now()
            made = call(*args)
            self.total += now() - start
            return made

        return counted


def prompts_of(options: argparse.Namespace) -> Prompts:
    """Requests whose prompts begin as those of some others do. O(tokens)."""
    rng = random.Random(options.seed)

    def tokens(shortest: int, longest: int) -> list[int]:
        return [rng.randrange(2048) for _ in range(rng.randint(shortest, longest))]

    prefixes = [tokens(*PREFIX_TOKENS) for _ in range(PREFIXES)]
    return {
        f"r{number}": (rng.choice(prefixes) + tokens(*OWN_TOKENS), rng.randint(*NEW_TOKENS))
        for number in range(options.requests)
    }


def serve(options: argparse.Namespace, side: str) -> Served:
    """Serve all requests, in a process that does nothing else: vLLM loads its plug-ins once.

    Raises:
        ImportError: vLLM 0.23.0 or the plug-in is missing.
    """
    has_plug_in, has_scheduler = SIDES[side]
    os.environ.update(VLLM_PLUGINS="kvgpu" if has_plug_in else "", VLLM_LOGGING_LEVEL="ERROR")
    os.environ.pop("KVGPU_VLLM", None)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    import vllm

    if not vllm.__version__.startswith(VERSION):
        raise ImportError(f"this is vLLM {vllm.__version__}, not {VERSION}")
    from offline_core import add_request, make_core
    from stand_in import tokens_without_cache
    from tqdm import tqdm

    core = make_core(options, "kvgpu.vllm.Scheduler" if has_scheduler else None, options.plant and has_scheduler)
    scheduler, worker = core.scheduler, core.model_executor
    manager = name_of(type(scheduler.kv_cache_manager))
    if has_plug_in != manager.startswith("kvgpu."):
        raise ImportError(f"{side}: {manager} serves; is kvgpu installed in this environment?")
    prompts = prompts_of(options)
    for name, (prompt, most) in prompts.items():
        add_request(core, name, prompt, most, STOP_TOKEN_IDS)
    clock, times, cached_tokens = Clock(), [], 0
    scheduler.schedule = clock.timed(scheduler.schedule)
    scheduler.update_from_output = clock.timed(scheduler.update_from_output)
    tokens: dict[str, list[int]] = {name: [] for name in prompts}
    with tqdm(total=len(prompts), disable=None, unit="request", desc=side) as bar:
        while scheduler.has_requests() or core.batch_queue:
            clock.total = 0
            outputs, is_executed = core.step_fn()
            core.post_step(is_executed)
            times.append(clock.total / 1e3)
            for output in (outputs or {}).values():
                for each in output.outputs:
                    tokens[each.request_id] += each.new_token_ids
                    bar.update(each.finish_reason is not None)
                if output.scheduler_stats is not None:
                    stats = output.scheduler_stats.prefix_cache_stats
                    cached_tokens += stats.hits + stats.preempted_hits
    truth = {name: tokens_without_cache(*each, worker.windows, STOP_TOKEN_IDS) for name, each in prompts.items()}
    return Served(
        side=side,
        manager=manager,
        scheduler=name_of(type(scheduler)),
        hasher=core.request_block_hasher.__module__,
        arrays=str(getattr(scheduler, "served", "")),
        tokens=tokens,
        true_tokens=truth,
        cached_tokens=cached_tokens,
        chunks=worker.chunks,
        new_blocks=worker.new_blocks,
        preemptions=worker.preemptions,
        steps=len(times),
        step_us=median(times),
        planted=worker.planted,
    )


def name_of(kind: type) -> str:
    """Module and name of a class."""
    return f"{kind.__module__}.{kind.__qualname__}"


COLUMNS = "{:20}{:>14}{:>8}{:>12}{:>13}{:>7}{:>11}{:>7}"


def in_words(all_served: list[Served], options: argparse.Namespace) -> str:
    """Who served, and a table."""
    attention = f"full attention, and a window of {options.window} tokens" if options.window else "full attention"
    lines = [
        f"{options.requests} requests, {'a' * options.is_async}sync scheduling, {attention}, {options.blocks} blocks"
    ]
    lines += [f"{each.side}: {each.manager}, {each.scheduler}, hashes by {each.hasher}" for each in all_served]
    lines += [each.arrays for each in all_served if each.arrays]
    lines.append(COLUMNS.format("", "cached tokens", "chunks", "new blocks", "preemptions", "steps", "us a step", ""))
    for each in all_served:
        counts = (each.cached_tokens, each.chunks, each.new_blocks, each.preemptions, each.steps)
        ratio = f"{all_served[0].step_us / each.step_us:.2f}x"
        lines.append(COLUMNS.format(each.side, *counts, f"{each.step_us:.1f}", ratio))
    return "\n".join(lines)


def verdict(all_served: list[Served], options: argparse.Namespace) -> tuple[int, str]:
    """The exit status, and why. O(tokens)."""
    differences = [words for each in all_served if (words := each.difference())]
    planted = all_served[-1].planted
    if options.plant:
        differences.insert(0, f"planted: the worker was told two blocks of request {planted} in wrong order")
    if options.plant and planted is None:
        return 2, "nothing was planted: no request found two blocks in the cache"
    if differences:
        return 1, "\n".join(differences)
    count = sum(map(len, all_served[0].tokens.values()))
    return 0, f"all {count} tokens are equal on the three sides, and as they are without a cache"


def main() -> int:
    """Serve three times, compare, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--blocks", type=int, default=200, help="of the pool, one of which is never used")
    parser.add_argument("--running", type=int, default=32, help="requests at once, at most")
    parser.add_argument("--budget", type=int, default=256, help="tokens a step, at most")
    parser.add_argument("--window", type=int, default=0, help="add a group with a sliding window of so many tokens")
    parser.add_argument("--async", dest="is_async", action="store_true", help="asynchronous scheduling")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plant", action="store_true", help="tell the last side's worker two blocks in wrong order")
    parser.add_argument("--json", type=Path, help="write what was found as JSON ('-': standard output)")
    options = parser.parse_args()
    all_served = []
    fresh = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(1, mp_context=fresh, max_tasks_per_child=1) as pool:
            all_served += [pool.submit(serve, options, side).result() for side in SIDES]
    except ImportError as error:
        print(f"this example needs vLLM {VERSION}, and kvgpu installed beside it: {error}", file=sys.stderr)
        return 2
    to_stdout = str(options.json) == "-"
    status, words = verdict(all_served, options)
    print(in_words(all_served, options), words, sep="\n", file=sys.stderr if to_stdout or status else sys.stdout)
    if options.json is not None:
        text = json.dumps(
            {"status": status, "verdict": words, "sides": [asdict(each) for each in all_served]}, indent=1
        )
        print(text) if to_stdout else options.json.write_text(text)
    return status


if __name__ == "__main__":
    sys.exit(main())
