"""The process that holds the GPU: runs blocks by name, one order a line, and writes each row at once.

    python bench/on_gpu/worker.py --out FOLDER --common JSON [--blocks MODULE] [--rehearse MODE]
    python bench/on_gpu/worker.py --warm NAME...

It says on its standard output when it is ready and when a block is done, in JSON; what anybody prints goes to
standard error. After an error that leaves the device unusable it ends, and another worker goes on.
"""

import argparse
import ctypes
import gc
import json
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from dataclasses import asdict, replace
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent)]

from harness import Row  # noqa: E402
from on_gpu.rehearsal import MODES  # noqa: E402
from on_gpu.rows import Record, RowsFile  # noqa: E402

OPTIONAL = frozenset(("cbor2", "msgspec", "cupy", "cupy_backends", "xxhash", "tqdm", "matplotlib"))
"""Packages without which a block is left out; any other that is missing is an error."""
LONGEST_MESSAGE = 2_000
PR_SET_PDEATHSIG = 1

FIGURES = ("kvgpu", "low", "high", "peer", "peer_low", "peer_high", "ratio_low", "ratio_middle", "ratio_high", "met")


def missing_package(error: BaseException) -> str | None:
    """Name of an optional package that an error is about."""
    from kvgpu.errors import MissingPackageError

    if isinstance(error, MissingPackageError):
        return str(error).split(" is not installed")[0]
    name = (error.name or "").split(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    return name if name in OPTIONAL else None


def in_words(error: BaseException) -> str:
    """Type and message."""
    return f"{type(error).__name__}: {error}"[:LONGEST_MESSAGE]


class Worker:
    """Runs blocks, and stops behind a row when it is told to."""

    def __init__(self, module: str, rehearse: bool) -> None:
        self._module = import_module(module)
        self._machine: Any = self._module if hasattr(self._module, "described") else import_module("on_gpu.machine")
        """What describes it: beside the blocks, or of `on_gpu`."""
        steps = self._module.STEPS
        self.blocks = {block.name: block for step in steps for block in step.blocks}
        self._sizes = self._module.sizes(rehearse)
        self._rehearse = rehearse
        self.stopping = False
        """Whether a block may not go on."""
        self.stopped = False
        """Whether one did not."""

    def described(self) -> Record:
        """What every record says of the machine."""
        words: Record = self._machine.described()
        return words

    def stop(self, number: int, frame: FrameType | None) -> None:
        """Handler of SIGTERM."""
        self.stopping = True

    def rows(self, name: str) -> Iterator[Record]:
        """Rows of a block; of a check, what it says. No figure of a rehearsal is one."""
        made = self.blocks[name].rows(self._sizes)
        for row in made:
            if not isinstance(row, Row):
                yield {"says": str(row)}
            elif row.kvgpu > 0:
                yield self._figures(row)
            else:
                yield {"error": f"{row.metric}, {row.case}: {row.kvgpu} {row.unit} is no figure"}
            if self.stopping:
                made.close()
                self.stopped = True
                return

    def _figures(self, row: Row) -> Record:
        """A row without what every record of the file says."""
        if self._rehearse:
            nothing: Any = dict.fromkeys(FIGURES)
            row = replace(row, **nothing)
        figures = asdict(row) | {"ratio": row.ratio}
        return {name: figures[name] for name in figures if name not in ("device", "checked")}

    def run(self, name: str, file: RowsFile, checked: list[str]) -> Record:
        """Run a block, write its rows, and say how it went; errors of any kind are part of that."""
        outcome: Record = {"block": name, "rows": 0}
        try:
            clocks = ""
            for row in self.rows(name):
                clocks = clocks or self._machine.clocks()  # behind the first row, when the GPU is at work
                file.append({"block": name, "checked": checked, "clocks": clocks} | row)
                outcome["rows"] += 1
        except BaseException as error:
            package = missing_package(error)
            if package is not None:
                outcome["left_out"] = f"{package} is not installed"
            else:
                traceback.print_exc()
                outcome["error"] = in_words(error)
            # What it still holds would keep the memory of the device.
            traceback.clear_frames(error.__traceback__)
            del error
        return outcome | {"alive": device_lives(), "stopped": self.stopped}


def device_lives() -> bool:
    """Whether the device still computes; what is not used any more is given back."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return True
    from kvgpu.device.tensors import resolve_device

    try:
        gc.collect()
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        return int(torch.ones(2, device=resolve_device()).sum().item()) == 2
    except Exception as error:
        print(f"the device is lost: {in_words(error)}", file=sys.stderr)
        return False


def warm_up(worker: Worker, names: list[str]) -> int:
    """Run blocks small and without a file, so that all they compile is in the caches."""
    failed = 0
    for name in names:
        try:
            for _ in worker.rows(name):
                pass
        except Exception as error:
            failed += missing_package(error) is None
            print(f"{name}: {in_words(error)}")
    return failed


def serve(worker: Worker, options: argparse.Namespace, out: TextIO) -> None:
    """Answer orders until there are none."""

    def say(message: Record) -> None:
        out.write(json.dumps(message) + "\n")
        out.flush()

    common = json.loads(options.common)
    common |= worker.described()
    file = RowsFile(options.out, common)
    say({"ready": common})
    for line in sys.stdin:
        order = json.loads(line)
        outcome = worker.run(order["block"], file, order["checked"])
        say(outcome)
        if worker.stopping or not outcome["alive"]:
            return


def main() -> int:
    """Warm up, or serve."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--blocks", default="on_gpu.blocks")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--common", default="{}")
    parser.add_argument("--rehearse", choices=MODES, default="")
    parser.add_argument("--warm", nargs="+", metavar="NAME")
    options = parser.parse_args()
    # Nothing may stay behind on the GPU if the supervisor is killed.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    worker = Worker(options.blocks, bool(options.rehearse) or options.warm is not None)
    if options.warm is not None:
        return warm_up(worker, options.warm)
    signal.signal(signal.SIGTERM, worker.stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    serve(worker, options, out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
