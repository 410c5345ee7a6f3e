"""What a pool costs: time and bytes per block to construct it, each time in a fresh process.

    python bench/pool.py [--blocks 1000000] [--rounds 5] [--json -]

The pool is checked before its figures count. The first pool of a process, of any size, also makes
Numba start and load machine code from disk; that is a row of its own. Exit status 1 if a goal is
missed.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import numpy as np  # noqa: E402
from harness import Row, benchmark_options, compared, finish  # noqa: E402
from tqdm import tqdm  # noqa: E402

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
    """Seconds for the pool and for the first of the process, bytes of records and of table.

    Raises:
        AssertionError: The pool is not as it should be.
    """
    done = subprocess.run(
        [sys.executable, "-c", ONE, str(count)], capture_output=True, text=True, check=False, cwd=HERE.parent
    )
    assert done.returncode == 0, done.stderr
    figures: list[float] = json.loads(done.stdout)
    return figures


def made(options: argparse.Namespace) -> Iterator[Row]:
    """All rows."""
    construct(1000)
    rounds = [construct(options.blocks) for _ in tqdm(range(options.rounds), disable=None)]
    times = np.array(rounds)[:, :2].T
    records, host_table = np.array(rounds[0][2:]) / options.blocks
    case = f"pool of {options.blocks:,} blocks"
    # One record more than blocks: the head of the free queue.
    yield from [
        compared("construct", case, "ns/block", times[0] / options.blocks * 1e9).stay_below(100),
        Row("records", case, "bytes/block", round(records, 2)).stay_below(64),
        Row("host table", case, "bytes/block", host_table).stay_below(40),
        compared("first pool of a process", "2 blocks", "ms", times[1] * 1e3),
    ]


def main() -> int:
    """Check, measure, print, save."""
    parser = benchmark_options(__doc__, rounds=5)
    parser.add_argument("--blocks", type=int, default=1_000_000)
    options = parser.parse_args()
    return finish("pool", made(options), options)


if __name__ == "__main__":
    sys.exit(main())
