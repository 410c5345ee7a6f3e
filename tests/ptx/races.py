"""A long search for races of flushes, in kernels as they are compiled for a GPU.

    python tests/ptx/races.py [--tables 2000] [--engines triton,cuda] [--seed 0] [--json -]

Each table is flushed three times under contention and compared with a dict. Exit status: 0 none found, 1 a wrong
answer or a race.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
os.environ.pop("TRITON_INTERPRET", None)

from support.ptx import triton_driver  # noqa: E402

triton_driver.install()

from support.device.tables import why_not_cuda  # noqa: E402
from support.ptx.contention import contended_table  # noqa: E402
from support.ptx.kernel import LaunchError, schedule  # noqa: E402

from kvgpu.errors import InvariantError  # noqa: E402


def search(engine: str, tables: int, seed: int) -> dict[str, Any]:
    """What was run with one engine, and what was found."""
    found: list[str] = []
    start, launches = time.monotonic(), schedule.launches
    for number in tqdm(range(seed, seed + tables), desc=engine, unit="table", disable=None):
        try:
            contended_table(engine, number)
        except (InvariantError, LaunchError) as error:
            found.append(f"table {number}: {error}")
    return {
        "engine": engine,
        "tables": tables,
        "launches": schedule.launches - launches,
        "seconds": round(time.monotonic() - start, 1),
        "found": found,
    }


def main() -> int:
    """Search, print what was found and how much was run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tables", type=int, default=2000)
    parser.add_argument("--engines", default="triton,cuda")
    parser.add_argument("--seed", type=int, default=0, help="number of the first table")
    parser.add_argument("--json", help="'-': print the results as JSON")
    options = parser.parse_args()
    results = []
    for engine in options.engines.split(","):
        reason = why_not_cuda() if engine == "cuda" else None
        if reason is not None:
            print(reason, file=sys.stderr)
            continue
        results.append(search(engine, options.tables, options.seed))
    if options.json:
        print(json.dumps(results, indent=1))
    else:
        for result in results:
            print("\n".join(result["found"]))
            print("{engine}: {tables:,} tables, {launches:,} launches, {seconds} s".format(**result))
    return 1 if any(result["found"] for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
