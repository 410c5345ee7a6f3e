"""Times on a GPU, and what its memory allows."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from axes import Axes, Find, Prefix
from harness import QUANTILES

LINE = 64
BASE = Find(2**24, 2**22, load=0.5)
PREFIXES = (
    Prefix(64, 64), Prefix(256, 128), Prefix(256, 128, 2), Prefix(256, 128, 4), Prefix(256, 128, 1, 0.5),
    Prefix(256, 128, 1, 0.0), Prefix(256, 128, 1, 1.0, True), Prefix(1000, 8192),
)  # fmt: skip

AXES = Axes(
    BASE,
    entries=tuple(2**power for power in range(13, 27)),
    loads=(0.5, 0.7, 0.8, 0.9),
    batches=tuple(2**power for power in range(6, 23, 4)),
    widths=(16, 32),
    cold=(2**16, 2**18),
    prefixes=PREFIXES,
)


@dataclass(frozen=True)
class Sizes:
    """How much of everything; small ones for a rehearsal."""

    axes: Axes = field(default_factory=lambda: AXES)
    update: int = 2**20
    accesses: int = 2**28
    rounds: int = 15
    queues: tuple[tuple[int, int], ...] = ((64, 64), (1000, 8192))
    product: int = 8192
    """Side of the matrices whose products keep the GPU busy."""
    matches: int = 1000
    graphs: bool = True


REHEARSAL = Sizes(
    Axes(
        Find(60, 40), entries=(30,), loads=(0.9,), matches=(0.5,), widths=(16,), cold=(60,),
        prefixes=(Prefix(2, 5, 2, 0.4, True),),
    ),
    update=20, accesses=0, rounds=1, queues=((2, 5),), product=8, matches=3, graphs=False,
)  # fmt: skip


def empty_cache() -> None:
    """Write more than the second-level cache holds."""
    global _filler
    if _filler is None:
        _filler = torch.empty(2**28, dtype=torch.uint8, device="cuda")
    _filler.zero_()


_filler: Any = None


def seconds(start: Callable[[], Any], rounds: int, reset: Callable[[], Any] | None = None) -> Any:
    """(20th, 50th, 80th percentile) of the time on the device of what `start` launches; `reset` is not timed."""
    if not torch.cuda.is_available():
        start()
        return np.full(3, np.nan)
    times = []
    for turn in range(rounds + 3):
        if reset is not None:
            reset()
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        start()
        end.record()
        end.synchronize()
        if turn >= 3:
            times.append(begin.elapsed_time(end) / 1e3)
    return np.quantile(times, QUANTILES)


class Ceilings:
    """Seconds per random 64-byte line, read or compare-and-swapped, by size of the working set."""

    def __init__(self, sizes: Sizes) -> None:
        import cupy

        code = (Path(__file__).with_name("ceilings.cu")).read_text()
        module = cupy.RawModule(code=code, options=("-std=c++17",))
        self._kernels = {name: module.get_function(name) for name in ("read_lines", "swap_lines")}
        self._sizes = sizes
        self._sink = torch.zeros(1, dtype=torch.int64, device="cuda")
        self._known: dict[tuple[str, int], float] = {}
        self._blocks = 8 * torch.cuda.get_device_properties(0).multi_processor_count

    def of(self, kind: str, nbytes: int) -> float:
        """`kind`: read_lines or swap_lines."""
        lines = max(1, nbytes // LINE)
        if (kind, lines) not in self._known:
            import cupy

            table = torch.zeros(lines * 8, dtype=torch.int64, device="cuda")
            count = self._sizes.accesses
            arguments = (
                np.uint64(table.data_ptr()), np.uint64(lines), np.uint64(count),
                np.uint64(self._sink.data_ptr()),
            )  # fmt: skip

            def start() -> None:
                with cupy.cuda.ExternalStream(torch.cuda.current_stream().cuda_stream):
                    self._kernels[kind]((self._blocks,), (256,), arguments)

            self._known[kind, lines] = seconds(start, 3)[1] / count
        return self._known[kind, lines]
