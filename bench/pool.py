"""What a pool costs: time and bytes per block to construct it, each time in a fresh process.

    python bench/pool.py [--blocks 1000000] [--rounds 5] [--json -]

The pool is checked before its figures count. The first pool of a process, of any size, also makes
Numba start and load machine code from disk; that is a row of its own. Exit status 1 if a goal is
missed.
"""

import json
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import numpy as np  # noqa: E402
from harness import Row, benchmark_options, finish  # noqa: E402
from tqdm import tqdm  # noqa: E402

GOALS = {"construct": 100.0, "records": 64.0, "host table": 40.0}
"""At most: ns, bytes, bytes per block."""

ONE = """
import json, sys, time
from kvgpu.block_pool import BlockPool
count = int(sys.argv[1])
start = time.perf_counter()
BlockPool(2, True, 16)
first = time.perf_counter() - start
start = time.perf_counter()
pool = BlockPool(count, True, 16)
seconds = time.perf_counter() - start
ids = pool.allocate(count - 1)
assert ids.tolist() == list(range(1, count)), "blocks do not come in id order"
pool.free_blocks(ids)
pool.check()
print(json.dumps([seconds, first, pool.state.records.nbytes, pool.index.nbytes]))
"""


def construct(count: int) -> list[float]:
    """Seconds for the pool and for the first of the process, bytes of records and of table."""
    done = subprocess.run(
        [sys.executable, "-c", ONE, str(count)],
        capture_output=True, text=True, check=True, cwd=HERE.parent,
    )  # fmt: skip
    figures: list[float] = json.loads(done.stdout)
    return figures


def main() -> int:
    """Check, measure, print, save."""
    parser = benchmark_options(__doc__, rounds=5)
    parser.add_argument("--blocks", type=int, default=1_000_000)
    options = parser.parse_args()
    construct(1000)
    rounds = [construct(options.blocks) for _ in tqdm(range(options.rounds), disable=None)]
    figures = np.array(rounds)
    low, middle, high = np.quantile(figures[:, :2], (0.2, 0.5, 0.8), axis=0)
    records, host_table = figures[0, 2:] / options.blocks
    scale = 1e9 / options.blocks
    case = f"pool of {options.blocks:,} blocks"
    rows = [
        Row("construct", case, "ns/block", middle[0] * scale,
            low=low[0] * scale, high=high[0] * scale),
        Row("records", case, "bytes/block", records),
        Row("host table", case, "bytes/block", host_table),
        Row("first pool of a process", "2 blocks", "ms", middle[1] * 1e3,
            low=low[1] * 1e3, high=high[1] * 1e3),
    ]  # fmt: skip
    for row in rows[:3]:
        goal = GOALS[row.metric]
        # One row more than blocks: the head of the free queue.
        row.goal, row.met = f"<= {goal:g}", round(row.kvgpu, 2) <= goal
    return finish("pool", rows, options)


if __name__ == "__main__":
    sys.exit(main())
