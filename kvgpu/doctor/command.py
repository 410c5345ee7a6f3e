"""`kvgpu doctor`: command line, report and exit status."""

import argparse
import json
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import BinaryIO

from kvgpu.console.output_file import output_file
from kvgpu.console.printable import say
from kvgpu.doctor.backends import AutoChoice, auto_choice, backend_test, usable_backend
from kvgpu.doctor.hashes import hash_test, usable_hash
from kvgpu.doctor.installation import CacheDirectory, Installation, one_line
from kvgpu.doctor.verdict import FAILED, UNUSABLE, Usable, Verdict, judged
from kvgpu.environment import backend_name, chosen_backend
from kvgpu.errors import UnknownNameError
from kvgpu.hashing.functions import HASH_FUNCTIONS
from kvgpu.index.registry import BACKENDS

EXIT_FAILED = 1
STANDARD_OUTPUT = "-"
WIDTH = 20
"""Columns for a name."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command to its parser."""
    add = parser.add_argument
    add(
        "--backend",
        action="append",
        default=[],
        metavar="NAME",
        help=f"test only this backend, or several separated by commas: {', '.join(BACKENDS)}",
    )
    add("--json", type=Path, help="write the report as JSON ('-' for standard output)")


def run_command(args: argparse.Namespace) -> int:
    """Print the report; return 0 only if all that can be used here passed its self-test.

    A backend that cannot be used counts as a failure if `--backend` or `KVGPU_BACKEND` names it. Waits for the device.
    Takes seconds; a minute more if everything has to be compiled first.

    Raises:
        UnknownNameError: A backend does not exist.
        OSError: The JSON file cannot be written; raised before the tests begin.
    """
    with ExitStack() as stack:
        file = None
        if args.json is not None and str(args.json) != STANDARD_OUTPUT:
            file = stack.enter_context(output_file(args.json))
        return _examine(args, file)


def _examine(args: argparse.Namespace, file: BinaryIO | None) -> int:
    asked = _known([name for text in args.backend for name in text.split(",")])
    chosen = _known([backend_name()])[0]
    by_variable = chosen_backend() is not None
    reason = "KVGPU_BACKEND" if by_variable else "the default: KVGPU_BACKEND is not set"
    to_stdout = str(args.json) == STANDARD_OUTPUT
    out = sys.stderr if to_stdout else sys.stdout

    def tell(name: str, text: str) -> None:
        say(f"  {name:<{WIDTH}}{text}", out, flush=True)

    def tested(name: str, usable: Callable[[str], Usable], test: Callable[[], None]) -> Verdict:
        verdict = judged(name, partial(usable, name), test)
        tell(name, verdict.words)
        return verdict

    here = Installation.found()
    say(f"kvgpu {here.kvgpu}", out)
    for row in _rows(here):
        tell(*row)
    tell("backend", f"{chosen} ({reason})")
    auto = _auto_choice()
    tell("auto", auto.words)
    say("self-tests", out)
    backends = [
        tested(name, usable_backend, partial(backend_test, name, here.interpreter)) for name in asked or BACKENDS
    ]
    hashes = [tested(name, usable_hash, partial(hash_test, name)) for name in HASH_FUNCTIONS]
    problems = _problems([*backends, *hashes], [*asked, chosen] if by_variable else asked)
    failed = f"FAILED: {', '.join(problems)}"
    say(f"result: {failed if problems else 'all that can be used here passed'}", out)
    if args.json is not None:
        report = {
            **asdict(here),
            "backend": {"name": chosen, "reason": reason},
            "auto": auto._asdict(),
            "backends": [asdict(verdict) for verdict in backends],
            "hashes": [asdict(verdict) for verdict in hashes],
            "problems": problems,
            "passed": not problems,
        }
        # Not msgspec: the doctor must work without any package.
        text = json.dumps(report, indent=2) + "\n"
        if to_stdout:
            sys.stdout.write(text)
        else:
            assert file is not None
            file.write(text.encode())
    return EXIT_FAILED if problems else 0


def _known(names: list[str]) -> list[str]:
    """Return the names, each once; raise UnknownNameError if one is unknown."""
    for name in names:
        if name not in BACKENDS:
            raise UnknownNameError("index backend", name, list(BACKENDS))
    return list(dict.fromkeys(names))


def _auto_choice() -> AutoChoice:
    try:
        return auto_choice()
    except Exception as error:  # the self-test of `auto` will fail with it
        return AutoChoice(None, one_line(error))


def _problems(verdicts: list[Verdict], wanted: list[str]) -> list[str]:
    failed = [f"{v.name} (self-test)" for v in verdicts if v.state == FAILED]
    return failed + [
        f"{v.name} (asked for and not usable here)" for v in verdicts if v.state == UNUSABLE and v.name in wanted
    ]


def _rows(here: Installation) -> list[tuple[str, str]]:
    rows = [("Python", here.python), ("platform", here.platform)]
    for name, version in here.packages.items():
        text = version or here.broken.get(name, "not installed")
        if name == "triton" and here.interpreter:
            text += ", interpreter on (TRITON_INTERPRET): kernels run on the CPU"
        rows.append((name, text))
    driver = [here.driver or "", f"for CUDA up to {here.driver_cuda}" if here.driver_cuda else ""]
    rows.append(("NVIDIA driver", ", ".join(filter(None, driver)) or "none found"))
    for gpu in here.gpus:
        memory = f"{gpu.memory_bytes / 2**30:,.1f} GiB"
        rows.append(("GPU", f"{gpu.name}, {memory}, compute capability {gpu.compute_capability}"))
    if not here.gpus:
        rows.append(("GPU", f"none: {here.gpu_problem}"))
    rows.append(("compiled code", _place(here.compiled_code)))
    if here.triton_code is not None:
        rows.append(("compiled by Triton", _place(here.triton_code)))
    return rows


def _place(directory: CacheDirectory) -> str:
    text = f"{directory.path} ({'writable' if directory.writable else 'NOT WRITABLE'})"
    return text if directory.problem is None else f"{text}: {directory.problem}"
