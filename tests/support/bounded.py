"""A bound on the time and the memory of what malformed input sets off, and how much of it there is."""

import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType


def num_inputs(usual: int) -> int:
    """How many inputs a fuzzer makes: KVGPU_FUZZ, else the usual number."""
    return int(os.environ.get("KVGPU_FUZZ") or usual)


@contextmanager
def bounded(seconds: float, more_bytes: int) -> Iterator[None]:
    """What runs longer ends with an AssertionError, and what wants more memory with a MemoryError."""

    def too_long(number: int, frame: FrameType | None) -> None:
        raise AssertionError(f"no end after {seconds} s")

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    handler = signal.signal(signal.SIGALRM, too_long)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + more_bytes, hard))
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.signal(signal.SIGALRM, handler)
