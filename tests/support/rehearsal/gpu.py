"""A stand-in for the GPU of a rehearsal: `torch.cuda` says that there is one, and kernels run on the CPU, at once.

Answers are therefore right or wrong as on a GPU. Events tell Python's time, which is no speed of anything; a graph
replays the launches that it has captured.
"""

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from time import perf_counter
from types import SimpleNamespace
from typing import Any

import torch
import torch.cuda.profiler
import triton
from on_gpu.rehearsal import COMPILED, IN_WORDS, INTERPRETED
from support.device import launches
from support.rehearsal.cache_driver import CacheDriver

PROCESSORS = 2
SAMPLE_BLOCKS = 64
"""Of the lookup that `auto` times: with as many as on a GPU the interpreter takes minutes."""

profiled: list[str] = []
"""Names of the kernels that were started while the profiler was on."""


class Event:
    """What has happened when it is recorded."""

    woke_early = False
    """The first that is asked has happened too early, as when a GPU wakes before all that is timed waits."""

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing
        self._at = 0.0

    def record(self) -> None:
        """It happens now."""
        self._at = perf_counter()

    def query(self) -> bool:
        """Whether it has happened before it was asked for."""
        first, Event.woke_early = not Event.woke_early, True
        return first

    def synchronize(self) -> None:
        """Wait for it."""
        assert self._at, "an event that was not recorded"

    def elapsed_time(self, end: "Event") -> float:
        """Milliseconds."""
        return 1e3 * (end._at - self._at)


class Stream:
    """One of several that are all the same."""

    cuda_stream = 0

    def __init__(self, priority: int = 0) -> None:
        self.priority = priority

    def wait_stream(self, other: Any) -> None:
        """What runs at once has nothing to wait for."""


@contextmanager
def _capturing(graph: launches.Graph) -> Iterator[None]:
    with launches.capture(graph):
        yield


class _Profiler:
    stop: Callable[[], None]

    def start(self) -> None:
        self.stop = launches.listen(profiled)


def _let_the_interpreter_note() -> None:
    """Captured launches of the interpreter are noted, too."""
    from triton.runtime.interpreter import GridExecutor

    run = GridExecutor.__call__

    def call(self: Any, *arguments: Any, **options: Any) -> None:
        launches.start(lambda: run(self, *arguments, **options), self.fn.__name__)

    GridExecutor.__call__ = call


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # hidden by a test
        return False


def _cupy(mode: str) -> None:
    """Where CuPy is installed its place is taken by one that needs no GPU.

    Without PTX the kernels that measure memory, which are written in it, do nothing.
    """
    if not _is_installed("cupy"):
        return
    from support.device.tables import why_not_cuda

    reason = why_not_cuda()
    assert reason is None, reason
    if mode == INTERPRETED:
        from on_gpu import ceilings

        nothing = SimpleNamespace(get_function=lambda name: lambda grid, block, arguments: None)
        ceilings._module = lambda: nothing


def put_in_place() -> str:
    """Put a GPU in the place of none, and return in which mode kernels run, one of `on_gpu.rehearsal`."""
    mode = INTERPRETED if triton.knobs.runtime.interpret else COMPILED
    if mode == COMPILED:
        from support.ptx import triton_driver

        triton_driver.install()
    else:
        _let_the_interpreter_note()
    profiler = _Profiler()
    for name, value in {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "synchronize": lambda: None,
        "empty_cache": lambda: None,
        "Event": Event,
        "CUDAGraph": launches.Graph,
        "graph": _capturing,
        "_sleep": lambda cycles: None,
        "Stream": Stream,
        "stream": lambda stream: nullcontext(),
        "current_stream": Stream,
        "get_device_name": lambda device: IN_WORDS[mode],
        "get_device_properties": lambda device: SimpleNamespace(multi_processor_count=PROCESSORS, uuid="0"),
    }.items():
        setattr(torch.cuda, name, value)
    torch.cuda.profiler.start = profiler.start
    torch.cuda.profiler.stop = lambda: profiler.stop()
    _cupy(mode)
    from on_gpu import timing
    from on_gpu.designs import cache_window

    driver = CacheDriver(cache_window)
    cache_window.driver = lambda: driver
    from kvgpu.index.device import auto

    timing.DISCARDED = 1  # no clock has to rise
    auto.SAMPLE_BLOCKS = SAMPLE_BLOCKS
    return mode
