"""Stand-ins for programs of a machine with a GPU, which print what the real ones print.

    python tests/support/rehearsal/programs.py ncu|compute-sanitizer|nvidia-smi ARGUMENT...

The two that run a program run it in their own process, on the stand-in for the GPU, and end with its status.
"""

import csv
import os
import runpy
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]

SMI = {
    "driver_version": "580.95.05",
    "clocks.current.sm": "1980 MHz",
    "clocks.max.sm": "1980 MHz",
    "clocks.current.memory": "3201 MHz",
    "clocks.max.memory": "3201 MHz",
}
UNITS = {"duration": "us", "bytes": "Mbyte", "pct": "%", "registers": "register/thread"}
COLUMNS = ("ID", "Process ID", "Process Name", "Host Name", "Kernel Name", "Context", "Stream", "Block Size")


def run(arguments: list[str]) -> None:
    """Run what stands behind the interpreter in a command, in this process."""
    sys.path[:1] = [str(ROOT), str(ROOT / "bench"), str(ROOT / "tests")]
    from support.rehearsal import gpu

    gpu.put_in_place()
    program = arguments[arguments.index(sys.executable) + 1 :]
    if program[0] == "-c":
        exec(compile(program[1], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv = program
        runpy.run_path(program[0], run_name="__main__")


def ncu(arguments: list[str]) -> None:
    """A row of metrics for each kernel that was started while the profiler was on."""
    options = arguments[: arguments.index(sys.executable)]
    assert options[-3:] == ["--csv", "--page", "raw"], options
    metrics = options[options.index("--metrics") + 1].split(",")
    process = str(os.getpid())
    print(f"==PROF== Connected to process {process} ({sys.executable})")
    run(arguments)
    from support.rehearsal import gpu

    for number, kernel in enumerate(gpu.profiled):
        print(f'==PROF== Profiling "{kernel}" - {number}: 0%....50%....100% - 9 passes')
    print(f"==PROF== Disconnected from process {process}")
    out = csv.writer(sys.stdout, quoting=csv.QUOTE_ALL, lineterminator="\n")
    out.writerow([*COLUMNS, *metrics])
    units = [next((unit for word, unit in UNITS.items() if word in metric), "") for metric in metrics]
    out.writerow([*[""] * len(COLUMNS), *units])
    for number, kernel in enumerate(gpu.profiled):
        place = [str(number), process, Path(sys.executable).name, "127.0.0.1", kernel, "1", "7", "(32, 1, 1)"]
        out.writerow([*place, *["1,234.5"] * len(metrics)])


def compute_sanitizer(arguments: list[str]) -> None:
    """What it says when it has found nothing."""
    print("========= COMPUTE-SANITIZER")
    run(arguments)
    print("========= ERROR SUMMARY: 0 errors")


def nvidia_smi(arguments: list[str]) -> None:
    """One line of what is asked for, of one GPU."""
    asked = next(word for word in arguments if word.startswith("--query-gpu="))
    assert "--format=csv,noheader" in arguments, arguments
    print(", ".join(SMI[name] for name in asked.split("=")[1].split(",")))


PROGRAMS = {"ncu": ncu, "compute-sanitizer": compute_sanitizer, "nvidia-smi": nvidia_smi}


def install(folder: Path) -> None:
    """Put all of them into a folder."""
    for name in PROGRAMS:
        program = folder / name
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{__file__}" {name} "$@"\n')
        program.chmod(0o755)


if __name__ == "__main__":
    PROGRAMS[sys.argv[1]](sys.argv[2:])
