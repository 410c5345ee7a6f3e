"""The command `kvgpu`, also as `python -m kvgpu`."""

import argparse
import sys

from kvgpu import __version__
from kvgpu.errors import KVGPUError
from kvgpu.replay.command import add_arguments, replay_command

EXIT_BAD_INPUT = 2


def main(argv: list[str] | None = None) -> int:
    """Run a command; returns the exit status: 0 for success, 2 for bad input."""
    parser = argparse.ArgumentParser(prog="kvgpu", description="KV-cache manager for LLM engines")
    parser.add_argument("--version", action="version", version=f"kvgpu {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    replay = commands.add_parser(
        "replay",
        help="drive the manager with a request trace",
        description="Serve the requests of a trace as a scheduler would, and report hit rate and cost.",
    )
    add_arguments(replay)
    replay.set_defaults(run=replay_command)
    args = parser.parse_args(argv)
    try:
        status: int = args.run(args)
    except (KVGPUError, OSError) as error:
        print(f"kvgpu: error: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    return status
