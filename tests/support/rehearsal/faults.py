"""Blocks for a rehearsal in which much goes wrong, between blocks of the benchmark that must go on all the same."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any

from on_gpu.blocks import GOAL_FINDS, GOAL_PREFIXES, HASHES, UPDATES, Block, Step, sizes
from on_gpu.tools import Profile, Sanitizer, Tool

__all__ = ["STEPS", "sizes"]


def out_of_memory(sizes: Any) -> Iterator[Any]:
    """The second case finds no memory."""
    import torch
    from on_gpu import table

    made = table.random_keys
    yield from table.updates("triton", sizes)

    def refused(*arguments: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    table.random_keys = refused
    try:
        yield from table.goal_finds("triton", sizes)
    finally:
        table.random_keys = made


def without_numba(sizes: Any) -> Iterator[Any]:
    """A package is missing that is not optional."""
    numba = sys.modules.get("numba")
    sys.modules["numba"] = None  # type: ignore[assignment]
    try:
        import numba
    finally:
        del sys.modules["numba"]
        if numba is not None:
            sys.modules["numba"] = numba
    yield


def waits(sizes: Any) -> Iterator[Any]:
    """The GPU has always woken before all that is timed waits."""
    import torch
    from on_gpu import table

    query = torch.cuda.Event.query
    torch.cuda.Event.query = lambda event: True
    try:
        yield from table.goal_finds("triton", sizes)
    finally:
        torch.cuda.Event.query = query


def no_figure(sizes: Any) -> Iterator[Any]:
    """A time that is none, before one that is."""
    from harness import Row

    yield Row("nothing", "timed", "us", float("nan"))
    yield Row("something", "timed", "us", 1.0)


def hangs(sizes: Any) -> Iterator[Any]:
    """For ever."""
    yield "before it hangs"
    time.sleep(1000)


def crashes(sizes: Any) -> Iterator[Any]:
    """As after an access that no process may make."""
    yield "before it crashes"
    os.kill(os.getpid(), signal.SIGSEGV)


def loses_device(sizes: Any) -> Iterator[Any]:
    """As after an access that no kernel may make."""
    import torch

    def synchronize() -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    torch.cuda.synchronize = synchronize
    yield "before it loses the device"
    torch.cuda.synchronize()


def is_stopped(sizes: Any) -> Iterator[Any]:
    """Somebody ends the run while a row is made, which is still written."""
    yield "before it is stopped"
    os.kill(os.getppid(), signal.SIGTERM)
    time.sleep(1)
    yield "behind it"
    yield "never"


class Program(Tool):
    """A program in Python."""

    is_check = True

    def __init__(self, name: str, code: str, seconds: float = 20, python: str = sys.executable) -> None:
        self.name, self._code, self.seconds, self._python = name, code, seconds, python

    def command(self, rehearse: str) -> list[str]:
        return [self._python, "-c", self._code]


def fault(name: str, seconds: float = 20) -> Block:
    """A block of this file."""
    return Block(name.replace("_", " "), f"{__name__}:{name}", (), seconds)


STEPS = [
    Step(
        [
            fault("hangs", 0.1),
            GOAL_PREFIXES[0],
            fault("crashes"),
            UPDATES[0],
            fault("loses_device"),
            fault("without_numba"),
            fault("out_of_memory"),
            GOAL_FINDS[0],
            Block("ceilings", "on_gpu.ceilings:ceilings"),
            GOAL_FINDS[1],
            fault("waits"),
            fault("no_figure"),
            HASHES[0],
            fault("is_stopped"),
            HASHES[1],
        ],
        [
            Program("finds something", "exit(3)"),
            Program("hangs, too", "import time; time.sleep(1000)", 0.1),
            Program("does not start", "", python="/no/such/python"),
            Profile("cuda"),
            Sanitizer("cuda", "memcheck"),
        ],
    )
]
