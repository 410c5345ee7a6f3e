"""Blocks of the GPU's benchmark as on a GPU, which is the CPU behind a torch.cuda that says it is there.

    [TRITON_INTERPRET=1] python tests/support/device/gpu_pretender.py BLOCK...

Without the interpreter kernels run as they are compiled for a GPU (tests/support/ptx).
Prints the rows of the blocks, one a line, in JSON. Events tell Python's time, graphs call what they have captured, the
kernels that measure memory do nothing, and no cache is told what to keep.
"""

import json
import sys
from contextlib import nullcontext
from pathlib import Path
from time import perf_counter
from types import SimpleNamespace
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT), str(ROOT / "bench"), str(ROOT / "tests")]

import torch  # noqa: E402
import triton  # noqa: E402

if not triton.knobs.runtime.interpret:
    from support.ptx import triton_driver

    triton_driver.install()

from support.device.tables import why_not_cuda  # noqa: E402
from torch.overrides import TorchFunctionMode  # noqa: E402


class Event:
    """What has happened when it is recorded."""

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing
        self.at = 0.0

    def record(self) -> None:
        self.at = perf_counter()

    def query(self) -> bool:
        return False

    def synchronize(self) -> None:
        assert self.at

    def elapsed_time(self, end: "Event") -> float:
        return 1e3 * (end.at - self.at)


class OnCPU(TorchFunctionMode):
    """What is asked to lie on the GPU lies in memory."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if kwargs.get("device") == "cuda":
            kwargs["device"] = "cpu"
        return function(*args, **kwargs)


def pretend() -> None:
    """Put a GPU in the place of none."""
    assert why_not_cuda() is None
    for name, value in {
        "is_available": lambda: True,
        "is_initialized": lambda: False,
        "synchronize": lambda: None,
        "Event": Event,
        "_sleep": lambda cycles: None,
        "Stream": lambda priority: SimpleNamespace(priority=priority),
        "stream": lambda stream: nullcontext(),
        "get_device_properties": lambda device: SimpleNamespace(multi_processor_count=2),
    }.items():
        setattr(torch.cuda, name, value)
    from on_gpu import timing

    timing.captured = lambda start: start
    from on_gpu import ceilings

    nothing = SimpleNamespace(get_function=lambda name: lambda grid, block, arguments: None)
    ceilings._module = lambda: nothing
    from on_gpu.designs import finds

    finds.persisting = lambda tensor: nullcontext()


def main(names: list[str]) -> None:
    """Run blocks in small sizes."""
    pretend()
    from on_gpu.rows import plain
    from on_gpu.sizes import SMALL
    from on_gpu.worker import Worker

    worker = Worker("on_gpu.blocks", rehearse=False)
    worker._sizes = SMALL
    with OnCPU():
        for name in names:
            for row in worker.rows(name):
                record = {key: plain(value) for key, value in row.items()}
                print(json.dumps({"block": name} | record), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
