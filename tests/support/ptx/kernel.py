"""A kernel in PTX that runs on the CPU: compiled once, launched with bytes of parameters."""

import ctypes
import hashlib
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from support.ptx.statements import HERE
from support.ptx.translation import translated

BUILT = Path(__file__).resolve().parents[3] / "build" / "ptx"
HEADERS = ("instructions.h", "races.h", "machine.h", "memory.h")
FAILURES = {
    1: "all threads that are left wait for each other",
    2: "a thread runs for ever",
    3: "too many calls inside each other",
    4: "an access outside the shared memory",
}


class LaunchError(Exception):
    """A launch that no GPU may see: a race, a deadlock, or an access out of range."""


@dataclass
class Schedule:
    """How threads of the launches to come take turns.

    Attributes:
        seed: Drawn from for every turn; each launch counts it up.
        blocks_at_once: Blocks that are in flight together.
        pause_every: A thread lets others go on before one in so many of its accesses to memory; 0: hardly ever.
        watches: Whether races are looked for.
        max_steps: Branches of a thread, after which it is taken to run for ever.
        launches: Counted.
    """

    seed: int = 1
    blocks_at_once: int = 8
    pause_every: int = 8
    watches: bool = True
    max_steps: int = 10_000_000
    launches: int = 0


schedule = Schedule()


@contextmanager
def scheduled(**changes: int | bool) -> Iterator[Schedule]:
    """Change the schedule for a while."""
    before = {name: getattr(schedule, name) for name in changes}
    vars(schedule).update(changes)
    try:
        yield schedule
    finally:
        vars(schedule).update({name: value for name, value in before.items() if name != "seed"})


class _Launch(ctypes.Structure):
    _fields_ = [
        ("parameters", ctypes.c_char_p),
        ("grid", ctypes.c_uint32 * 3),
        ("block", ctypes.c_uint32 * 3),
        ("shared_bytes", ctypes.c_uint32),
        ("seed", ctypes.c_uint64),
        ("blocks_at_once", ctypes.c_uint32),
        ("pause_every", ctypes.c_uint32),
        ("watches", ctypes.c_uint32),
        ("max_steps", ctypes.c_uint64),
    ]


class _Report(ctypes.Structure):
    _fields_ = [
        ("conflicts", ctypes.c_uint64),
        ("earlier", ctypes.c_uint32),
        ("later", ctypes.c_uint32),
        ("failure", ctypes.c_uint32),
        ("failed", ctypes.c_uint32),
    ]


def _compiled(source: str) -> Path:
    """A library of a translation; the same one is compiled once."""
    text = source + "".join((HERE / name).read_text() for name in HEADERS)
    library = BUILT / f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.so"
    if not library.exists():
        BUILT.mkdir(parents=True, exist_ok=True)
        file = library.with_suffix(f".{os.getpid()}.cpp")
        made = library.with_suffix(f".{os.getpid()}.so")
        file.write_text(source)
        options = ["-std=c++20", "-O1", "-w", "-shared", "-fPIC", f"-I{HERE}"]
        subprocess.run(["g++", *options, str(file), "-o", str(made)], check=True)
        file.unlink()
        made.replace(library)
    return library


class Kernel:
    """One entry of a file of PTX.

    Args:
        ptx: The file.
        entry: Its name, needed if there are several.

    Raises:
        UnknownInstruction: Something in it cannot be run here.
    """

    def __init__(self, ptx: str, entry: str | None = None) -> None:
        translation = translated(ptx, entry)
        self.parameters = translation.parameters
        self._sources = translation.sources
        self._static_shared = translation.shared_bytes
        self._run = ctypes.CDLL(str(_compiled(translation.text))).run

    def packed(self, values: Sequence[int | bytes]) -> bytes:
        """Parameters as the kernel reads them: integers, or bytes for structs; those that are left out are 0."""
        end = max((start + size for start, size in self.parameters), default=0)
        memory = bytearray(end)
        for (start, size), value in zip(self.parameters, values, strict=False):
            raw = value if isinstance(value, bytes) else (value % (1 << 8 * size)).to_bytes(size, "little")
            assert len(raw) == size, (len(raw), size)
            memory[start : start + size] = raw
        return bytes(memory)

    def launch(self, parameters: bytes, grid: Sequence[int], block: Sequence[int], shared_bytes: int = 0) -> None:
        """Run one launch to its end.

        Raises:
            LaunchError: The kernel races with itself, waits for ever, or leaves its memory.
        """
        schedule.launches += 1
        schedule.seed += 1
        given = _Launch(
            parameters,
            (ctypes.c_uint32 * 3)(*grid, *[1] * (3 - len(grid))),
            (ctypes.c_uint32 * 3)(*block, *[1] * (3 - len(block))),
            self._static_shared + shared_bytes,
            schedule.seed,
            schedule.blocks_at_once,
            schedule.pause_every,
            schedule.watches,
            schedule.max_steps,
        )
        report = _Report()
        if not self._run(ctypes.byref(given), ctypes.byref(report)):
            return
        if report.failure:
            raise LaunchError(f"{FAILURES[report.failure]}: {self._sources[report.failed]}")
        raise LaunchError(
            f"{report.conflicts} races, first of {self._sources[report.earlier]} with {self._sources[report.later]}"
        )
