"""`kvgpu warmup`: command line and exit status."""

import argparse
import gc
import json
import sys
import time
from pathlib import Path

from tqdm import tqdm

from kvgpu.compiled.cache import code_folder
from kvgpu.compiled.shipped import LEVEL, has_level, shipped_folder, variables_of_level
from kvgpu.compiled.source_digest import source_digest
from kvgpu.compiled.trusted_files import trusted_folder
from kvgpu.console.printable import say
from kvgpu.errors import ConfigError
from kvgpu.warmup.parts import PARTS
from kvgpu.warmup.processes import compile_parts


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command to its parser."""
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--part", choices=list(PARTS), help="compile only this, in this process")
    what.add_argument(
        "--for-wheel", type=Path, metavar="FOLDER", help=f"compile for every {LEVEL}, into this folder, which is empty"
    )
    parser.add_argument("--jobs", type=int, help="processes at once (the number of processors)")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run_command(args: argparse.Namespace) -> int:
    """Compile everything into the cache of compiled code, as when the image of a container is made; return 0.

    What has been compiled before, or came with kvgpu, is only loaded. Else half a minute on two processors.

    Raises:
        ConfigError: There is no folder that keeps compiled code, that of the wheel is not empty, or the processor
            cannot run what is to be compiled.
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
    if args.for_wheel is not None and not any(folder.glob(f"numba-{source_digest()}/*.nbc")):
        raise ConfigError(f"nothing could be kept in {folder}")
    if args.json:
        json.dump({"folder": str(folder), "done_after_seconds": seconds}, sys.stdout, indent=1)
        sys.stdout.write("\n")
    else:
        say(f"{len(PARTS)} parts are ready, after {max(seconds.values()):.0f} s; {folder} has the code", sys.stdout)
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
    """Where the code goes, or came with kvgpu, and the variables of the processes that compile it."""
    if for_wheel is None:
        own = code_folder()
        folder = own.path or shipped_folder()
        if folder is None:
            raise ConfigError(f"compiled code cannot be kept: {own.problem}")
        return folder, {}
    if not has_level():
        raise ConfigError(f"code for {LEVEL} is compiled where it runs, and this processor lacks a part of it")
    try:
        empty = not any(trusted_folder(for_wheel).iterdir())
    except OSError as error:
        raise ConfigError(f"compiled code cannot be kept: {error}") from error
    if not empty:
        raise ConfigError(f"{for_wheel} is not empty: code of other sources would get into the wheel")
    return for_wheel, variables_of_level(for_wheel)
