"""Chains hashed by several threads at once: compiled code runs without the lock of the interpreter."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import cache
from itertools import accumulate, pairwise
from typing import NamedTuple

MOST_THREADS = 1024


@cache
def _workers(count: int, process: int) -> ThreadPoolExecutor:
    """Threads of this process: those of the one it was forked from are not here."""
    return ThreadPoolExecutor(count, thread_name_prefix="kvgpu-hash")


class Part(NamedTuple):
    """Chains [first, last), and how many blocks those in front have."""

    first: int
    last: int
    base: int


def parts_of(counts: Sequence[int], threads: int, fewest: int) -> list[Part]:
    """Chains with so many blocks, shared out among at most so many threads.

    Chains stay whole and in order; parts have at least `fewest` blocks on average, and about as many each as chains
    allow. O(len(counts)).
    """
    ends = [0, *accumulate(counts)]
    total = ends[-1]
    num_parts = max(1, min(threads, total // fewest))
    bounds, chain = [0], 0
    for part in range(1, num_parts):
        while ends[chain] * num_parts < part * total:
            chain += 1
        if bounds[-1] < chain < len(counts):
            bounds.append(chain)
    bounds.append(len(counts))
    return [Part(first, last, ends[first]) for first, last in pairwise(bounds)]


def in_threads(counts: Sequence[int], threads: int, fewest: int, call: Callable[[int, int, int], None]) -> None:
    """Call `call` with each of the `parts_of` chains with so many blocks, in a thread each, this one among them.

    Returns, or raises what a call raised, when all are done. Where a thread cannot be started, or waiting is
    interrupted, calls may go on: they have to hold what they use.
    """
    if threads == 1:
        call(0, len(counts), 0)
        return
    first, *others = parts_of(counts, threads, fewest)
    running: list[Future[None]] = []
    try:
        for part in others:
            # One by one: what was started is waited for, if the next one cannot be.
            running.append(_workers(threads - 1, os.getpid()).submit(call, *part))  # noqa: PERF401
        call(*first)
    finally:
        wait(running)
    for done in running:
        done.result()
