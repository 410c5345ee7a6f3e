"""Runs the hashing of chains in several threads, while compiled code does not hold the interpreter's lock."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import cache
from itertools import accumulate, pairwise
from typing import NamedTuple

MAX_THREADS = 1024


@cache
def _workers(count: int, process: int) -> ThreadPoolExecutor:
    """Return the pool of this process; the process id is part of the key because a forked child has no threads."""
    return ThreadPoolExecutor(count, thread_name_prefix="kvgpu-hash")


class Part(NamedTuple):
    """Chains [first, last). base: number of blocks of all chains before them."""

    first: int
    last: int
    base: int


def parts_of(counts: Sequence[int], threads: int, min_blocks: int) -> list[Part]:
    """Divide chains among threads, in order and without splitting a chain.

    Args:
        counts: Blocks of each chain.
        threads: Maximum number of parts.
        min_blocks: Blocks that a part has at least, on average.

    Returns:
        Parts with as similar numbers of blocks as whole chains allow.

    O(len(counts)).
    """
    ends = [0, *accumulate(counts)]
    total = ends[-1]
    num_parts = max(1, min(threads, total // min_blocks))
    bounds, chain = [0], 0
    for part in range(1, num_parts):
        while ends[chain] * num_parts < part * total:
            chain += 1
        if bounds[-1] < chain < len(counts):
            bounds.append(chain)
    bounds.append(len(counts))
    return [Part(first, last, ends[first]) for first, last in pairwise(bounds)]


def in_threads(counts: Sequence[int], threads: int, min_blocks: int, call: Callable[[int, int, int], None]) -> None:
    """Call `call` with each part of `parts_of`, one in this thread and each other one in a thread of its own.

    When all calls have ended, returns, or raises the error of one of them. If a thread cannot be started, or waiting
    is interrupted, calls may still run afterwards, so they have to keep alive what they use.
    """
    if threads == 1:
        call(0, len(counts), 0)
        return
    first, *others = parts_of(counts, threads, min_blocks)
    running: list[Future[None]] = []
    try:
        for part in others:
            # One by one, so that those already started are waited for if the next one cannot be started.
            running.append(_workers(threads - 1, os.getpid()).submit(call, *part))  # noqa: PERF401
        call(*first)
    finally:
        wait(running)
    for done in running:
        done.result()
