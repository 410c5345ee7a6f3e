"""One trace on several orders of eviction and pools of several sizes, in processes beside each other."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from functools import cached_property
from typing import Any

from kvgpu.batch.admission import POLICIES
from kvgpu.errors import ConfigError
from kvgpu.eviction.names import check_eviction
from kvgpu.replay.belady import belady_hit_tokens
from kvgpu.replay.group_names import block_sizes_of
from kvgpu.replay.result import ReplayResult
from kvgpu.replay.run import Replayer, ReplayOptions
from kvgpu.replay.traces.trace import Trace
from kvgpu.report.document import BOUND, Order

SECONDS_BETWEEN = 0.2
"""Between two looks at how far the replays are."""


def outcome_of(result: ReplayResult) -> Order:
    """Return what a replay did, as an order of eviction among others. O(1)."""
    return Order(
        result.eviction,
        result.num_blocks,
        result.hit_rate,
        result.computed_tokens,
        result.recomputed_tokens,
        result.evictions,
        result.early_evictions,
        result.preemptions,
    )


def names_of(text: str) -> list[str]:
    """Return the orders of eviction that a text names, with commas between.

    Raises:
        UnknownNameError: There is no such order.
        ConfigError: A name comes twice, or all of them are bounds.
    """
    names = [part.strip() for part in text.split(",")]
    for name in names:
        if name != BOUND:
            check_eviction(name)
    if len(set(names)) < len(names):
        raise ConfigError(f"an order of eviction comes twice: {text}")
    if set(names) == {BOUND}:
        raise ConfigError(f"{BOUND} is a bound for others, not an order of eviction: name one beside it")
    return names


def bounds(trace: Trace, options: ReplayOptions, sizes: Sequence[int]) -> list[Order]:
    """Return the most that pools of these sizes can hit, where it is known.

    That is for full attention alone, with requests admitted in the order of arrival. Prompts that do not fit into a
    pool are rejected, and count for nothing.
    """
    if not options.full_attention_only or POLICIES[options.limits.policy] is not None:
        return [Order(BOUND, size, None) for size in sizes]
    block_size, _ = block_sizes_of(options.config())
    needed = -(-trace.input_length // block_size)
    found = {}
    for fitting in {int((needed < size).sum()) for size in sizes}:
        alike = [size for size in sizes if int((needed < size).sum()) == fitting]
        served = trace if fitting == len(trace) else trace.chosen(needed < alike[0])
        num_tokens = int(served.input_length.sum())
        for size, hits in zip(alike, belady_hit_tokens(served, block_size, alike), strict=True):
            found[size] = Order(BOUND, size, hits / num_tokens if num_tokens else 0.0)
    return [found[size] for size in sizes]


STOPPED = -1
"""In the place of the requests served so far: replays end, since nobody wants them any more."""


class _Process:
    """What a process of the comparison has."""

    trace: Trace
    options: ReplayOptions
    served: Any
    """A number shared by all processes."""

    @cached_property
    def replayer(self) -> Replayer:
        """What hashes the trace once."""
        return Replayer(self.trace, self.options, keep_hashes=True, follows_blocks=True)

    def advance(self, num_requests: int) -> None:
        with self.served.get_lock():
            if self.served.value == STOPPED:
                raise InterruptedError
            self.served.value += num_requests


_process = _Process()


def _end_with(parent: Any) -> None:
    """End this process when another one does, however that ends."""
    parent.join()
    os._exit(1)


def _start(trace: Trace, options: ReplayOptions, served: Any) -> None:
    """Make a process ready."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process tells
    threading.Thread(target=_end_with, args=(multiprocessing.parent_process(),), daemon=True).start()
    _process.trace, _process.options, _process.served = trace, options, served


def _replay(eviction: str, num_blocks: int) -> Order:
    """Replay once."""
    _process.replayer.options = replace(_process.replayer.options, eviction=eviction)
    return outcome_of(_process.replayer.run(num_blocks, _process.advance))


def compare(
    trace: Trace,
    options: ReplayOptions,
    names: Sequence[str],
    sizes: Sequence[int],
    known: Sequence[Order] = (),
    advance: Callable[[int], None] = lambda _: None,
) -> list[Order]:
    """Replay a trace with each order of eviction on a pool of each size.

    Args:
        trace: The requests.
        options: What to replay on, but for these two.
        names: As `names_of` returns them.
        sizes: Blocks of the pools.
        known: Orders that there are already.
        advance: Called with the number of requests that all replays have served since the last call.

    Returns:
        Orders in the order of sizes, and then of names.

    Raises:
        ConfigError: A pool of such a size cannot be made.
        MemoryError: A process was ended, as the system does if memory runs out.
    """
    for size in sizes:
        replace(options, num_blocks=size)  # raises
    found = {(outcome.eviction, outcome.num_blocks): outcome for outcome in known}
    if BOUND in names:
        found |= {(BOUND, bound.num_blocks): bound for bound in bounds(trace, options, sizes)}
    tasks = [(name, size) for size in sizes for name in names]
    # Not forked: compiled code and its threads do not survive that everywhere.
    context = multiprocessing.get_context("spawn")
    served = context.Value("q", 0)
    left = [task for task in tasks if task not in found]
    workers = max(1, min(len(left), _num_cores()))
    with ProcessPoolExecutor(workers, context, _start, (trace, options, served)) as pool:
        waiting = {pool.submit(_replay, *task): task for task in left}
        try:
            _wait(list(waiting), served, advance)
            found |= {task: done.result() for done, task in waiting.items()}
        except BrokenProcessPool:
            raise MemoryError("the system ended a process that replayed") from None
        except BaseException:
            served.value = STOPPED
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [found[task] for task in tasks]


def _wait(futures: list[Future[Order]], served: Any, advance: Callable[[int], None]) -> None:
    """Wait until all are done, or one has failed."""
    told = 0
    while True:
        done, pending = wait(futures, SECONDS_BETWEEN, FIRST_EXCEPTION)
        so_far = served.value
        advance(so_far - told)
        told = so_far
        if not pending or any(future.exception() for future in done):
            return


def _num_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
