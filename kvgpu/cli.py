"""The command `kvgpu`, also as `python -m kvgpu`."""

import argparse
import sys
from importlib import import_module
from typing import NoReturn

from kvgpu import __version__
from kvgpu.console.printable import printable, say
from kvgpu.errors import KVGPUError

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130
"""Exit status that a shell reports for a process ended by SIGINT."""

COMMANDS = {
    "replay": (
        "drive the manager with a request trace",
        "Serve the requests of a trace as a scheduler would, and report hit rate and cost.",
    ),
    "compare": ("put replays side by side", "Compare runs of a replay, from the JSON that they wrote."),
    "doctor": (
        "say what is installed here and whether it works",
        "Print versions, devices and choices, and test every backend that can be used here.",
    ),
    "warmup": (
        "compile everything now, as when the image of a container is made",
        "Compile what is not in the cache of compiled code yet, so that no process has to wait for it.",
    ),
}
"""Name of the command, which is also that of its package -> help, description."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        super().error(printable(message))


def main(argv: list[str] | None = None) -> int:
    """Run a command.

    Returns:
        The exit status: 0 for success, 2 for bad input, 130 if interrupted, else the command's own.

    Raises:
        SystemExit: Raised by argparse: the command line cannot be parsed (2), or requests help or the version (0).
    """
    try:
        return _run(sys.argv[1:] if argv is None else argv)
    except (KVGPUError, OSError) as error:
        say(f"kvgpu: error: {error}", sys.stderr)
    except MemoryError as error:
        say(f"kvgpu: error: not enough memory: {error or 'nothing is left'}", sys.stderr)
    except (KeyboardInterrupt, SystemError) as error:
        if not _is_interrupt(error):
            raise
        say("kvgpu: interrupted", sys.stderr)
        return EXIT_INTERRUPTED
    return EXIT_BAD_INPUT


def _is_interrupt(error: BaseException | None) -> bool:
    """Return whether an error is a KeyboardInterrupt, or what compiled code has made of one."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def _run(arguments: list[str]) -> int:
    parser = _Parser(prog="kvgpu", description="KV-cache manager for LLM engines")
    parser.add_argument("--version", action="version", version=f"kvgpu {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, (summary, description) in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=description)
        if name in arguments:
            # Other commands are not imported: what they need may be missing or broken, which `doctor` must report.
            module = import_module(f"kvgpu.{name}.command")
            module.add_arguments(command)
            command.set_defaults(run=module.run_command)
    args = parser.parse_args(arguments)
    status: int = args.run(args)
    return status
