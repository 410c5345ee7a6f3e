"""How kernels run in a rehearsal: in Triton's interpreter, or, where that does not work, compiled and on the CPU."""

import os
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

HERE = Path(__file__).resolve().parent
INTERPRETED, COMPILED = MODES = "interpreted", "compiled"
IN_WORDS = {INTERPRETED: "Triton's interpreter", COMPILED: "kernels compiled for sm_90, run on the CPU"}
WORKER = HERE.parents[1] / "tests" / "support" / "rehearsal" / "worker.py"
"""Script that serves blocks, with a stand-in for the GPU."""


def worker(mode: str, *arguments: str) -> list[str]:
    """Command of a worker whose kernels run in this mode; "": on a GPU."""
    script = WORKER if mode else HERE / "worker.py"
    return [sys.executable, str(script), *arguments, *(("--rehearse", mode) if mode else ())]


MENDED = (3, 7)
"""The first Triton whose interpreter works with this NumPy and newer ones:"""
REFUSING = (2, 4)


def _version(package: str) -> tuple[int, ...]:
    """Its first two numbers, zeros if it is not installed."""
    try:
        return tuple(int(number) for number in version(package).split(".")[:2])
    except PackageNotFoundError:
        return 0, 0


def usual_mode() -> str:
    """How kernels can run here without a GPU."""
    broken = (0, 0) < _version("triton") < MENDED and _version("numpy") >= REFUSING
    return COMPILED if broken else INTERPRETED


def environment(mode: str) -> dict[str, str]:
    """Variables of processes whose kernels run in this mode; "": on a GPU."""
    found = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    return found | ({"TRITON_INTERPRET": "1"} if mode == INTERPRETED else {})
