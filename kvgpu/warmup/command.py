"""`kvgpu warmup`: command line and exit status."""

import argparse
import json
import sys
import time

from tqdm import tqdm

from kvgpu.compiled.cache import code_folder
from kvgpu.console.printable import say
from kvgpu.errors import ConfigError
from kvgpu.warmup.parts import PARTS
from kvgpu.warmup.processes import compile_parts


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command to its parser."""
    parser.add_argument("--part", choices=list(PARTS), help="compile only this, in this process")
    parser.add_argument("--jobs", type=int, help="processes at once (the number of processors)")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run_command(args: argparse.Namespace) -> int:
    """Compile everything into the cache of compiled code, as when the image of a container is made; return 0.

    What has been compiled before is only loaded. A minute on two processors, else seconds.

    Raises:
        ConfigError: There is no folder that keeps compiled code.
        WarmupError: A part could not be compiled.
    """
    folder = code_folder()
    if folder.path is None:
        raise ConfigError(f"compiled code cannot be kept: {folder.problem}")
    if args.part is not None:
        PARTS[args.part]()
        return 0
    started, seconds = time.monotonic(), {}
    with tqdm(total=len(PARTS), disable=None, unit="part", desc="compiling") as progress:
        for name in compile_parts(list(PARTS), args.jobs):
            seconds[name] = round(time.monotonic() - started, 1)
            progress.set_postfix_str(name)
            progress.update()
    if args.json:
        json.dump({"folder": str(folder.path), "done_after_seconds": seconds}, sys.stdout, indent=1)
        sys.stdout.write("\n")
    else:
        say(f"{len(PARTS)} parts are compiled in {folder.path}, after {max(seconds.values()):.0f} s", sys.stdout)
    return 0
