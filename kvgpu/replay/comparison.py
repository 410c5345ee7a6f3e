"""One trace on several orders of eviction and pools of several sizes, in processes beside each other."""

import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from typing import Any

from kvgpu.config.specs import FullAttentionSpec
from kvgpu.errors import ConfigError
from kvgpu.eviction.names import check_eviction
from kvgpu.replay.belady import belady_hit_tokens
from kvgpu.replay.run import Replayer, ReplayOptions
from kvgpu.replay.traces.trace import Trace

BELADY = "belady"
"""In the place of an order of eviction: the most that any of them could hit."""


@dataclass(frozen=True)
class Outcome:
    """What one order of eviction did with one pool; None where a bound has no such figure, or there is no bound."""

    eviction: str
    num_blocks: int
    hit_rate: float | None
    computed_tokens: int | None = None
    evictions: int | None = None
    preemptions: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return all figures by name, for JSON. O(1)."""
        return asdict(self)


def names_of(text: str) -> list[str]:
    """Return the orders of eviction that a text names, with commas between.

    Raises:
        UnknownNameError: There is no such order.
        ConfigError: A name comes twice, or all of them are bounds.
    """
    names = [part.strip() for part in text.split(",")]
    for name in names:
        if name != BELADY:
            check_eviction(name)
    if len(set(names)) < len(names):
        raise ConfigError(f"an order of eviction comes twice: {text}")
    if set(names) == {BELADY}:
        raise ConfigError(f"{BELADY} is a bound for others, not an order of eviction: name one beside it")
    return names


_replayer: Replayer | None = None
"""Of this process, which serves one comparison."""


def _start(trace: Trace, options: ReplayOptions) -> None:
    """Make a process ready: it hashes the trace once."""
    global _replayer
    _replayer = Replayer(trace, options, keep_hashes=True)


def _replay(eviction: str, num_blocks: int) -> Outcome:
    """Replay once."""
    assert _replayer is not None
    _replayer.options = replace(_replayer.options, eviction=eviction)
    result = _replayer.run(num_blocks)
    return Outcome(eviction, num_blocks, result.hit_rate, result.computed_tokens, result.evictions, result.preemptions)


def bounds(trace: Trace, options: ReplayOptions, sizes: Sequence[int]) -> list[Outcome]:
    """Return the most that pools of these sizes can hit, where it is known: for full attention alone."""
    specs = [group.kv_cache_spec for group in options.config().kv_cache_groups]
    if len(specs) != 1 or type(specs[0]) is not FullAttentionSpec:
        return [Outcome(BELADY, size, None) for size in sizes]
    asked = int(trace.input_length.sum())
    hits = belady_hit_tokens(trace, specs[0].block_size, sizes)
    return [Outcome(BELADY, size, found / asked if asked else 0.0) for size, found in zip(sizes, hits, strict=True)]


def compare(
    trace: Trace,
    options: ReplayOptions,
    names: Sequence[str],
    sizes: Sequence[int],
    advance: Callable[[int], None] = lambda _: None,
) -> list[Outcome]:
    """Replay a trace with each order of eviction on a pool of each size.

    Args:
        trace: The requests.
        options: What to replay on, but for these two.
        names: As `names_of` returns them.
        sizes: Blocks of the pools.
        advance: Called with the number of replays that have ended since the last call.

    Returns:
        Outcomes in the order of sizes, and then of names.

    Raises:
        ConfigError: A pool of such a size cannot be made.
    """
    for size in sizes:
        replace(options, num_blocks=size)  # raises
    tasks = [(name, size) for size in sizes for name in names]
    found = {}
    if BELADY in names:
        for outcome in bounds(trace, options, sizes):
            found[BELADY, outcome.num_blocks] = outcome
        advance(len(found))
    left = [task for task in tasks if task not in found]
    # Not forked: compiled code and its threads do not survive that everywhere.
    context = multiprocessing.get_context("spawn")
    workers = min(len(left), len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    with ProcessPoolExecutor(workers, context, _start, (trace, options)) as pool:
        waiting = {pool.submit(_replay, *task): task for task in left}
        for done in as_completed(waiting):
            found[waiting[done]] = done.result()
            advance(1)
    return [found[task] for task in tasks]
