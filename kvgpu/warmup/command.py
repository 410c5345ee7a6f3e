"""`kvgpu warmup`: command line and exit status."""

import argparse
import gc
import json
import sys
import time
from pathlib import Path

from tqdm import tqdm

from kvgpu.compiled.cache import code_folder
from kvgpu.compiled.shipped import LEVEL, has_level, variables_of_level
from kvgpu.console.printable import say
from kvgpu.errors import ConfigError
from kvgpu.warmup.parts import PARTS
from kvgpu.warmup.processes import compile_parts


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command to its parser."""
    parser.add_argument("--part", choices=list(PARTS), help="compile only this, in this process")
    parser.add_argument("--jobs", type=int, help="processes at once (the number of processors)")
    parser.add_argument("--for-wheel", type=Path, metavar="FOLDER", help=f"compile for every {LEVEL}, into this folder")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run_command(args: argparse.Namespace) -> int:
    """Compile everything into the cache of compiled code, as when the image of a container is made; return 0.

    What has been compiled before, or came with kvgpu, is only loaded. Else 40 s on two processors.

    Raises:
        ConfigError: There is no folder that keeps compiled code, or the processor cannot run what is to be compiled.
        WarmupError: A part could not be compiled.
    """
    if args.part is not None:
        _compile(args.part)
        return 0
    folder, variables = _target(args.for_wheel)
    started, seconds = time.monotonic(), {}
    with tqdm(total=len(PARTS), disable=None, unit="part", desc="compiling") as progress:
        for name in compile_parts(list(PARTS), args.jobs, variables):
            seconds[name] = round(time.monotonic() - started, 1)
            progress.set_postfix_str(name)
            progress.update()
    if args.for_wheel is not None and not any(folder.glob("numba-*/*.nbc")):
        raise ConfigError(f"nothing could be kept in {folder}: name a folder that only you can write")
    if args.json:
        json.dump({"folder": str(folder), "done_after_seconds": seconds}, sys.stdout, indent=1)
        sys.stdout.write("\n")
    else:
        say(f"{len(PARTS)} parts are compiled in {folder}, after {max(seconds.values()):.0f} s", sys.stdout)
    return 0


def _compile(part: str) -> None:
    """Compile a part without the collector, which takes a tenth of the time: Numba makes millions of objects."""
    collects = gc.isenabled()
    gc.disable()
    try:
        PARTS[part]()
    finally:
        if collects:
            gc.enable()


def _target(for_wheel: Path | None) -> tuple[Path, dict[str, str]]:
    """Where the code goes, and the variables of the processes that compile it."""
    if for_wheel is None:
        own = code_folder()
        if own.path is None:
            raise ConfigError(f"compiled code cannot be kept: {own.problem}")
        return own.path, {}
    if not has_level():
        raise ConfigError(f"code for {LEVEL} is compiled where it runs, and this processor lacks a part of it")
    return for_wheel, variables_of_level(for_wheel)
