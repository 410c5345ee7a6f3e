"""Everything to be known on a machine with a GPU, in one command that may be cut off at any second.

    python bench/gpu.py [--out FOLDER] [--deadline SECONDS] [--data FOLDER] [--revision WORDS] [--rehearse]

First the rates at which this GPU reads and swaps random 64-byte lines, while all that has to be compiled is; then
what has goals, each behind a comparison of its answers; then whole queues, ncu, the project's tests and sanitizers,
and last the other cases, until the deadline. The system's Python with torch and Triton is enough; what needs CuPy,
pytest, ncu, compute-sanitizer or another package that is missing is left out and named.

Every row is a line of gpu.jsonl in `--out`, else in the folder that the environment names OUT, else in bench/data, on
the disk before the next is measured. An error, a hang or a crash becomes such a row, and the rest runs. `--data` also
inserts the rows into gpu.csv there, from which tables and pictures are made, if all that was checked passed.
In the end at most 60 lines say what failed and, last, which goals are met or MISSED; gpu-summary.txt has all rows, too.
`--rehearse` runs it all small on the CPU, with a stand-in for the GPU: in Triton's interpreter or, where that does not
work, with kernels as they are compiled for a GPU. It takes no figure.
Exit status: 0 all goals met; 1 a goal missed; 2 a check failed or was cut off, or a block failed.
"""

import argparse
import datetime
import json
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
CACHE = HERE.parent / "build" / "gpu-cache"
sys.path[:0] = [str(HERE.parent), str(HERE)]

from harness import DATA, Row, revision, save, table  # noqa: E402
from on_gpu import rehearsal  # noqa: E402
from on_gpu.outcome import CUT_OFF, FAILED, PASSED, Outcome, described  # noqa: E402
from on_gpu.rows import Record, RowsFile, records  # noqa: E402
from on_gpu.supervisor import Supervisor  # noqa: E402

DEADLINE, REHEARSAL_DEADLINE = 480, 1200
"""Ten minutes are often all that a command may take: two are left to start the machine and to copy what it wrote."""
CACHES = {
    "TRITON_CACHE_DIR": "triton",
    "KVGPU_CACHE_DIR": "kvgpu",
    "CUPY_CACHE_DIR": "cupy",
    "CUDA_CACHE_PATH": "cuda",
    "HYPOTHESIS_STORAGE_DIRECTORY": "hypothesis",
}
"""Folders of `CACHE` for what is compiled and the like, so that a second run on the same machine finds it."""
UNWANTED = ("PYTHONHASHSEED",)
"""Seeds the hashes of the first block, which needs cbor2."""
SUMMARY = "gpu-summary.txt"
MOST_LINES = 60
"""Of what is printed in the end."""
STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def environment(rehearse: str) -> dict[str, str]:
    """Of everything that is started."""
    found = {name: value for name, value in rehearsal.environment(rehearse).items() if name not in UNWANTED}
    if rehearse:
        return found
    for variable, name in CACHES.items():
        folder = CACHE / name
        if variable not in found:
            with suppress(OSError):  # what is to be kept there is made again
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                found[variable] = str(folder)
    return found


def as_row(record: Record, checked: Sequence[str]) -> Row:
    """A row of a file, with all that was checked in the end."""
    known = {field.name for field in fields(Row)}
    row = Row(**{name: value for name, value in record.items() if name in known})
    row.checked = "; ".join(checked)
    return row


def good(outcomes: Sequence[Outcome]) -> bool:
    """Whether nothing failed, and every check that could run here has run to its end."""
    bad = [o for o in outcomes if o.counts and o.status == FAILED]
    return not bad and not [o for o in outcomes if o.is_check and o.status == CUT_OFF]


def shortened(lines: Sequence[str], most: int) -> list[str]:
    """As many lines as may be, and how many more there are."""
    return [*lines] if len(lines) <= most else [*lines[: most - 1], f"... and {len(lines) - most + 1} more: {SUMMARY}"]


def summary(rows: Sequence[Row], outcomes: Sequence[Outcome]) -> list[str]:
    """How everything went, then the rows that have goals: met, or MISSED."""
    held = [row for row in rows if row.goal]
    met, missed = (sum(row.met is verdict for row in held) for verdict in (True, False))
    goals = [f"goals: {met} met, {missed} MISSED; {len(rows)} rows in all", *(table(held).splitlines() if held else [])]
    # What went wrong is short, unless everything did.
    words = shortened(described(outcomes), max(MOST_LINES // 2, MOST_LINES - len(goals)))
    return [*words, *shortened(goals, MOST_LINES - len(words))]


def finish(file: RowsFile, outcomes: Sequence[Outcome], options: argparse.Namespace) -> int:
    """Print, publish what may be, and return the exit status."""
    checked = [outcome.name for outcome in outcomes if outcome.status == PASSED]
    rows = [as_row(record, checked) for record in records(file.path, file.common["run"]) if "metric" in record]
    lines = summary(rows, outcomes)
    try:
        file.path.with_name(SUMMARY).write_text("\n".join([table(rows), "", *lines, ""]))
    except OSError as error:
        print(error, file=sys.stderr)
    if options.rehearse:
        print(f"rehearsed {len(rows)} cases, none of which is published: no speed of a rehearsal is worth anything")
    elif options.data is not None and not (good(outcomes) and rows):
        print("not published: a check failed, was cut off, or there are no rows", file=sys.stderr)
    elif options.data is not None:
        save(rows, options.data / "gpu.csv", file.common["machine"], file.common["revision"])
    print("\n".join(lines), flush=True)
    if not good(outcomes):
        return 2
    return 1 if any(row.met is False for row in rows) else 0


def parsed() -> argparse.Namespace:
    """The command line, with the folder that rows go to."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, help="folder of gpu.jsonl and of what tools say")
    parser.add_argument("--data", type=Path, help="folder of gpu.csv, written if all checks pass")
    parser.add_argument("--deadline", type=float, help=f"seconds from now, else {DEADLINE}")
    parser.add_argument("--revision", help="what was copied here, where git cannot say it")
    parser.add_argument(
        "--rehearse",
        nargs="?",
        choices=rehearsal.MODES,
        const=rehearsal.usual_mode(),
        default="",
        help="small, on the CPU; else as works here: %(const)s",
    )
    parser.add_argument("--blocks", default="on_gpu.blocks", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.deadline is None:
        options.deadline = REHEARSAL_DEADLINE if options.rehearse else DEADLINE
    if options.out is None:
        temporary = tempfile.mkdtemp(prefix="kvgpu-rehearsal-") if options.rehearse else DATA
        options.out = Path(os.environ.get("OUT") or temporary)
    return options


def main() -> int:
    """Run everything."""
    options = parsed()
    start = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
    common = {"run": f"{start} {os.getpid()}", "revision": options.revision or revision()}
    try:
        file = RowsFile(options.out, common)
    except OSError as error:
        print(f"no rows can be written to {options.out}: {error}", file=sys.stderr)
        return 2
    told = ("--blocks", options.blocks, "--out", str(options.out), "--common", json.dumps(common))
    worker = rehearsal.worker(options.rehearse, *told)
    supervisor = Supervisor(file, worker, environment(options.rehearse), options.deadline, options.rehearse)
    for number in STOPPING:
        signal.signal(number, supervisor.stop)
    steps: Any = import_module(options.blocks).STEPS
    outcomes = supervisor.run(steps)
    print(f"{supervisor.elapsed:.0f} s in all; rows are in {file.path}")
    return finish(file, outcomes, options)


if __name__ == "__main__":
    sys.exit(main())
