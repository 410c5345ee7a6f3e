"""Times on a GPU, free of what it costs Python to launch.

The GPU is put to sleep before the first event, until all that is timed waits behind it; a time during which it woke
too early is not taken. So nothing that waits for the device can be timed: prepare it before.
"""

import math
from collections.abc import Callable
from time import perf_counter as now
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from harness import QUANTILES

from kvgpu.device.tensors import resolve_device

Start = Callable[[], Any]

CYCLES = 2e9
"""Of a GPU, in a second, at most."""
ENOUGH = 100e-6
"""Seconds between two events beside which their resolution does not count."""
MOST_LAUNCHES = 20
FIRST_NAP, LONGEST_NAP = 100e-6, 0.2
WARM_UP = 0.02
"""Seconds of work after which the clocks of an idle GPU have risen."""
DISCARDED = 3


class Sleeper:
    """Times launches behind a nap of the GPU, which becomes as long as it has to be.

    Args:
        start: Launches what is timed.
        reset: What comes before each time and is not timed.
    """

    def __init__(self, start: Start, reset: Start | None = None) -> None:
        self._start, self._reset = start, reset
        self._nap = FIRST_NAP

    def seconds(self, launches: int = 1) -> float:
        """A launch, of so many in a row.

        Raises:
            AssertionError: They wait for the device.
        """
        while self._nap <= LONGEST_NAP:
            if self._reset is not None:
                self._reset()
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda._sleep(int(self._nap * CYCLES))
            begin.record()
            for _ in range(launches):
                self._start()
            end.record()
            awake = begin.query()
            end.synchronize()
            if not awake:
                return float(begin.elapsed_time(end)) / 1e3 / launches
            self._nap *= 3
        raise AssertionError("what is timed waits for the device: no time of it is one of the device")


def _warm_up(start: Start, reset: Start | None = None) -> None:
    for _ in range(DISCARDED):
        if reset is not None:
            reset()
        start()
    torch.cuda._sleep(int(WARM_UP * CYCLES))
    torch.cuda.synchronize()


def seconds(start: Start, rounds: int, reset: Start | None = None) -> npt.NDArray[np.float64]:
    """(20th, 50th, 80th percentile) of the time on the device of what `start` launches.

    Short launches are timed in a row; with `reset`, which is not timed, one by one.
    """
    _warm_up(start, reset)
    sleeper = Sleeper(start, reset)
    launches = 1
    if reset is None:
        launches = min(MOST_LAUNCHES, math.ceil(ENOUGH / max(sleeper.seconds(), 1e-7)))
    return np.quantile([sleeper.seconds(launches) for _ in range(rounds)], QUANTILES)


def seconds_alone(start: Start, rounds: int) -> npt.NDArray[np.float64]:
    """The same percentiles from an idle GPU to the end of one launch, with what that costs."""
    _warm_up(start)
    times = []
    for _ in range(rounds):
        torch.cuda.synchronize()
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        start()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / 1e3)
    return np.quantile(times, QUANTILES)


def seconds_of_launching(start: Start, rounds: int) -> npt.NDArray[np.float64]:
    """The same percentiles of what Python takes until `start` returns."""
    _warm_up(start)
    times = []
    for _ in range(rounds):
        torch.cuda.synchronize()
        begin = now()
        start()
        times.append(now() - begin)
    return np.quantile(times, QUANTILES)


def captured(start: Start) -> Start:
    """What replays the launches of `start`, which has run before."""
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        start()
    replay: Start = graph.replay
    return replay


def empty_cache() -> None:
    """Write more than the second-level cache holds."""
    global _filler
    if _filler is None:
        _filler = torch.empty(2**28, dtype=torch.uint8, device=resolve_device())
    _filler.zero_()


_filler: Any = None
