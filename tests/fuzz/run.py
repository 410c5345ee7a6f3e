"""A long attack: many seeds in several processes, each watched for hanging.

    python tests/fuzz/run.py --count 100000 [--processes 2] [--only host,reference,triton] [--json -]

Inputs that end a process are counted and left out; the attack goes on behind them. Exit status: 0 no fault, 1 faults.
"""

import argparse
import json
import queue
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

ATTACK = Path(__file__).resolve().parent / "attack.py"
PART = 2000
"""Inputs of one process."""
HANGS = 5.0
"""Seconds after which a call has hung, once the first calls of a process have loaded what they need."""
STARTS = 300.0


def watch(process: Any, allowed: float) -> tuple[list[str], dict[str, Any] | None, bool]:
    """Faults that a process prints, the last input that it began, and whether it had to be ended."""
    lines: queue.Queue[str | None] = queue.Queue()

    def read() -> None:
        for line in process.stderr:
            lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    last: dict[str, Any] | None = None
    begun, ended, hung = 0, False, False
    while True:
        try:
            line = lines.get(timeout=allowed if begun >= 200 and not ended else STARTS)
        except queue.Empty:
            process.kill()
            hung = True
            break
        if line is None:
            break
        if line.startswith("{"):
            last, begun = json.loads(line), begun + 1
        # What a process does after its last call is no call.
        ended = line == "ended\n"
    return process.stdout.read().splitlines(), last, hung


def attack(seed: int, count: int, only: str, allowed: float, found: list[Any]) -> None:
    """One part, with all inputs that end its process."""
    skip = 0
    while skip < count:
        command = [
            sys.executable,
            str(ATTACK),
            "--seed",
            seed,
            "--count",
            count,
            "--skip",
            skip,
            "--only",
            only,
            "--keep-going",
        ]
        process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        printed, last, hung = watch(process, allowed)
        status = process.wait()
        found += [json.loads(line) for line in printed if '"found"' in line]
        if status in (0, 1) and not hung:
            return
        what = f"hung for more than {allowed} s" if hung else f"ended with status {status}"
        found.append({**(last or {}), "found": [what]})
        skip = (last or {}).get("input", count) + 1


def main() -> int:
    """Attack, print faults and counts."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--only", default="host,reference")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--hangs", type=float, default=HANGS, help="seconds (%(default)s)")
    parser.add_argument("--json", help="'-': print the faults as JSON")
    options = parser.parse_args()
    parts = [(options.seed + part, min(PART, options.count - part * PART)) for part in range(-(-options.count // PART))]
    todo: queue.Queue[tuple[int, int]] = queue.Queue()
    for part in parts:
        todo.put(part)
    found: list[Any] = []
    bar = tqdm(total=options.count, unit="input", disable=None)

    def work() -> None:
        while True:
            try:
                seed, count = todo.get_nowait()
            except queue.Empty:
                return
            attack(seed, count, options.only, options.hangs, found)
            bar.update(count)

    threads = [threading.Thread(target=work) for _ in range(options.processes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    bar.close()
    if options.json:
        print(json.dumps(found, indent=1))
    else:
        for fault in found:
            print(json.dumps(fault))
        print(f"{options.count:,} inputs on {options.only}, seeds from {options.seed}: {len(found)} faults")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
