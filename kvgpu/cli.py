"""The command `kvgpu`, also as `python -m kvgpu`."""

import argparse
import sys
from importlib import import_module

from kvgpu import __version__
from kvgpu.errors import KVGPUError

EXIT_BAD_INPUT = 2

COMMANDS = {
    "replay": (
        "drive the manager with a request trace",
        "Serve the requests of a trace as a scheduler would, and report hit rate and cost.",
    ),
    "doctor": (
        "say what is installed here and whether it works",
        "Print versions, devices and choices, and test every backend that can be used here.",
    ),
}
"""Name, which is also that of its package -> help, description."""


def main(argv: list[str] | None = None) -> int:
    """Run a command; returns the exit status: 0 for success, 2 for bad input, else the command's own."""
    try:
        return _run(argv)
    except (KVGPUError, OSError) as error:
        print(f"kvgpu: error: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT


def _run(argv: list[str] | None) -> int:
    parser = argparse.ArgumentParser(prog="kvgpu", description="KV-cache manager for LLM engines")
    parser.add_argument("--version", action="version", version=f"kvgpu {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    arguments = sys.argv[1:] if argv is None else argv
    for name, (summary, description) in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=description)
        if name in arguments:
            # No other is imported: what that needs may be missing or broken, and a doctor is to say so.
            module = import_module(f"kvgpu.{name}.command")
            module.add_arguments(command)
            command.set_defaults(run=module.run_command)
    args = parser.parse_args(arguments)
    status: int = args.run(args)
    return status
