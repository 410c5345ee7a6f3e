"""What a step of vLLM's real schedulers costs with its own manager, and with kvgpu's through the plug-in.

    python bench/vllm_steps.py [--rounds 5] [--most 1024] [--json -]

Two schedulers serve the same requests, step by step in turn; what each step tells the workers is compared, and without
equality no time is printed. A figure is the CPU time of the scheduling thread, of `schedule` and `update_from_output`
unless it says otherwise; there is no model behind it. Rows that name `kvgpu.vllm.Scheduler` are of this class, with the
share of requests that arrays served; others are of vLLM's own scheduler with kvgpu's manager. Rows with "first run"
are of a fresh process, with its code in the cache of compiled code.
Needs an interpreter with vLLM 0.23.0 or 0.33.0.
Exit status: 0 all goals met, 1 a goal missed, 2 the results differ, or vLLM is missing.
"""

import argparse
import gc
import logging
import os
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter_ns, process_time_ns, thread_time_ns
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import numpy as np  # noqa: E402
from harness import Row, benchmark_options, compared, finish  # noqa: E402
from peers.vllm_engine import SIZE, Engine, tokens  # noqa: E402
from tqdm import tqdm  # noqa: E402

DECODE_STEPS = 192
CLASS = "kvgpu.vllm.Scheduler"
SETTLE = 4
"""Steps of a decode that are not timed: prompts, and what is loaded once."""

PROMPTS = {
    "20 x 32k, 24k shared": (20, 32_768, 24_576, 3),
    "20 x 32k, nothing shared": (20, 32_768, 0, 3),
    "100 x 8k, 6k shared": (100, 8192, 6144, 3),
    "200 x 512, 256 shared": (200, 512, 256, 1.5),
}
"""By name: requests, tokens of each, leading tokens that are the same in all, and the goal."""


THREAD, WALL, PROCESS = range(3)
CLOCKS = (thread_time_ns, perf_counter_ns, process_time_ns)
"""CPU time of the scheduling thread, time, and CPU time of the process."""


def now() -> np.ndarray:
    """All clocks, in ns."""
    return np.array([clock() for clock in CLOCKS], np.int64)


@dataclass
class Sides:
    """A scheduler of vLLM's and one with kvgpu's, and what each step took: us by each of CLOCKS."""

    schedulers: list[Any]
    whole: list[list[np.ndarray]] = field(default_factory=lambda: [[], []])
    schedule: list[list[np.ndarray]] = field(default_factory=lambda: [[], []])
    pending: list[list[Any]] = field(default_factory=lambda: [[], []])

    def step(self, engines: Any, number: int) -> None:
        """One step of both, which take turns to be the first.

        Raises:
            AssertionError: They tell the workers different things.
        """
        told: list[Any] = [None, None]
        for side in (0, 1) if number % 2 else (1, 0):
            scheduler, pending = self.schedulers[side], self.pending[side]
            start = now()
            output = scheduler.schedule()
            took = now() - start
            self.schedule[side].append(took / 1e3)
            told[side] = engines.scheduled_plainly(output)
            pending.append(output)
            if len(pending) > scheduler.scheduler_config.async_scheduling:
                done = pending.pop(0)
                answer = engines.output_of(scheduler, done, number)
                start = now()
                scheduler.update_from_output(done, answer)
                took += now() - start
            self.whole[side].append(took / 1e3)
        if told[0] != told[1]:
            raise AssertionError(f"step {number}: the schedulers differ")

    def times(self, clock: int = THREAD, first: int = 0, alone: bool = False) -> list[list[float]]:
        """What steps from `first` on took, by side: us by one clock, of `schedule` alone or with the update."""
        return [[float(took[clock]) for took in side[first:]] for side in (self.schedule if alone else self.whole)]


class Schedulers(Engine):
    """Makes schedulers of both sides with their requests, and has them serve."""

    def sides(self, prompts: list[list[int]], max_tokens: int, kind: Any = None, **options: Any) -> Sides:
        """Two schedulers with the same requests; kvgpu's is of class `kind`, or vLLM's with kvgpu's manager."""
        from vllm.v1.core.sched import scheduler as module

        made = []
        for maker, scheduler_class in zip(self.makers, (None, kind), strict=True):
            module.KVCacheManager = maker
            scheduler = self.engines.make_scheduler(self.engines.Options(scheduler=scheduler_class, **options))
            for i, prompt in enumerate(prompts):
                scheduler.add_request(self.request(f"r{i}", prompt, max_tokens))
            made.append(scheduler)
        module.KVCacheManager = self.makers[0]
        return Sides(made)

    def decode(self, running: int, is_async: bool, hybrid: bool, kind: Any, seed: int) -> Sides:
        """Requests that all generate; their blocks become full in different steps."""
        rng = random.Random(seed)
        prompts = [tokens(rng, 400 + rng.randrange(SIZE)) for _ in range(running)]
        specs = self.specs["full + window" if hybrid else "full"]
        sides = self.sides(
            prompts,
            10_000,
            kind,
            specs=specs,
            num_blocks=40 * running * len(specs) + 10,
            is_async=is_async,
            most_running=running,
            budget=420 * running,
            longest=4000,
        )
        for number in range(SETTLE + DECODE_STEPS):
            sides.step(self.engines, number)
        sides.schedulers[1].kv_cache_manager.check()
        return sides

    def prefill(self, requests: int, length: int, shared: int, seed: int) -> Sides:
        """Requests that generate one token, from the first step to the last."""
        rng = random.Random(seed)
        prefix = tokens(rng, shared)
        prompts = [prefix + tokens(rng, length - shared) for _ in range(requests)]
        num_blocks = requests * (length // SIZE + 4) + 10
        sides = self.sides(prompts, 1, num_blocks=num_blocks, most_running=requests, budget=8192, longest=length + 100)
        number = 0
        while any(scheduler.requests for scheduler in sides.schedulers):
            sides.step(self.engines, number)
            number += 1
        sides.schedulers[1].kv_cache_manager.check()
        return sides


def row(engine: Engine, metric: str, case: str, times: list[list[float]], goal: float | None = None) -> Row:
    """A figure of both sides."""
    return compared(metric, case, "us", times[1], times[0], peer_name=engine.name, goal=goal)


def prefills(engine: Schedulers, options: argparse.Namespace) -> Iterator[Row]:
    """Rows of prompts: all steps together."""
    for name, (requests, length, shared, goal) in PROMPTS.items():
        if requests > options.most:
            continue
        totals: list[list[float]] = [[], []]
        for seed in tqdm(range(options.rounds), disable=None, unit="round", desc=name):
            gc.collect()
            for total, times in zip(totals, engine.prefill(requests, length, shared, seed).times(), strict=True):
                total.append(sum(times))
        yield row(engine, "prefill, all steps", name, totals, goal)
        if name == next(iter(PROMPTS)):
            yield row(engine, "prefill, all steps, first run", name, [total[:1] for total in totals], goal)


def tails(engine: Engine, case: str, times: list[list[float]]) -> Iterator[Row]:
    """Rows of the slowest steps, which must not be slower than vLLM's."""
    for name, share in (("99th percentile", 99), ("maximum", 100)):
        ours, theirs = (float(np.percentile(side, share)) for side in (times[1], times[0]))
        yield row(engine, f"decode step, {CLASS}, {name}", case, [[theirs], [ours]], 1)


def decodes(engine: Schedulers, options: argparse.Namespace) -> Iterator[Row]:
    """Rows of decode steps, with kvgpu's manager and with its scheduler class."""
    from kvgpu.vllm import Scheduler

    cases = [(running, is_async, False) for running in (256, 1024) for is_async in (False, True)]
    cases.append((256, False, True))
    for running, is_async, hybrid in cases:
        running = min(running, options.most)
        words = f"{running:,} running, {'async' if is_async else 'sync'}{', full + window' if hybrid else ''}"
        gc.collect()
        sides = engine.decode(running, is_async, hybrid, None, seed=running)
        yield row(engine, "decode step", words, sides.times(first=SETTLE), 1.25)
        gc.collect()
        sides = engine.decode(running, is_async, hybrid, Scheduler, seed=running)
        served = sides.schedulers[1].served
        case = f"{words}, {100 * served.array_rows / max(1, served.rows):.0f} % from arrays"
        yield row(engine, f"decode step, {CLASS}", case, sides.times(first=SETTLE), 2)
        yield row(engine, f"decode step, {CLASS}, schedule alone", case, sides.times(first=SETTLE, alone=True), 4)
        yield from tails(engine, case, sides.times(first=SETTLE))
        for clock, name in ((WALL, "wall time"), (PROCESS, "CPU time of the process")):
            yield row(engine, f"decode step, {CLASS}, {name}", case, sides.times(clock, SETTLE))


def made(options: argparse.Namespace) -> Iterator[Row]:
    """All rows."""
    gc.disable()
    engine = Schedulers()
    rows = [*prefills(engine, options), *decodes(engine, options)]
    print("both schedulers told the workers the same in all steps")
    yield from rows


def main() -> int:
    """Compare, measure, print, save."""
    parser = benchmark_options(__doc__, rounds=5)
    parser.add_argument("--most", type=int, default=1024, help="requests at once")
    options = parser.parse_args()
    os.environ["PYTHONHASHSEED"] = "0"
    logging.disable(logging.WARNING)
    return finish("vllm_steps", made(options), options)


if __name__ == "__main__":
    sys.exit(main())
