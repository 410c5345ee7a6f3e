"""Compiles parts in processes beside each other: a process can only compile one function at a time."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence

from kvgpu.compiled.cache import code_folder
from kvgpu.compiled.shipped import shipped_folder
from kvgpu.environment import environment_with
from kvgpu.errors import WarmupError

LOOK_S = 0.05
"""Seconds between looks at the processes."""


def is_cold() -> bool:
    """Whether the single calls have never been compiled for this version, or never been kept. O(files of the cache)."""
    folders = [folder for folder in (code_folder().path, shipped_folder()) if folder is not None]
    return not any(any(folder.glob("kvgpu.allocation.single_call.allocate_one*")) for folder in folders)


def compile_parts(
    parts: Sequence[str], jobs: int | None = None, variables: Mapping[str, str] | None = None
) -> Iterator[str]:
    """Compile parts into the cache of compiled code; yield the name of each that is done.

    Args:
        parts: Names of `kvgpu.warmup.parts.PARTS`.
        jobs: Processes at once; the number of processors if None.
        variables: Of their environment, beside those of this process.

    Raises:
        WarmupError: A process failed. The others are ended.
    """
    waiting = list(parts)
    running: dict[str, subprocess.Popen[str]] = {}
    jobs = jobs or os.cpu_count() or 1
    environment = environment_with(variables or {})
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                command = [sys.executable, "-m", "kvgpu", "warmup", "--part", waiting[0]]
                running[waiting.pop(0)] = subprocess.Popen(
                    command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment
                )
            name = next((name for name, process in running.items() if process.poll() is not None), None)
            if name is None:
                time.sleep(LOOK_S)
                continue
            _, told = running[name].communicate()
            if running.pop(name).returncode:
                raise WarmupError(f"compiling {name} failed: {told.strip()[-500:]}")
            yield name
    finally:
        for process in running.values():
            process.kill()
            process.communicate()
