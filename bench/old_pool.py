"""What a block costs in a pool that has served many requests, beside a fresh pool that serves the same kind.

    python bench/old_pool.py [--requests 1000000] [--rounds 7] [--json -]

It is asked in batches, with hashes in arrays, and as an engine asks, one call a request, with hashes in lists of bytes.
Requests share prefixes, decode in step and leave in no order, so that the free blocks of a pool are shuffled after
some thousand of them. Both pools are checked, and must hit about as often, or nothing is printed. They take turns, as
long as it takes to fill the caches of the processor again. Exit status: 0 all goals met, 1 a goal missed, 2 the checks
failed.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

from harness import Row, benchmark_options, compared, finish  # noqa: E402
from served.pool import AT_ONCE, BatchedPool, EnginePool, ServedPool, Traffic, ns_per_block  # noqa: E402
from served.trace import ALL_BUT_FREE, POOLS, settle  # noqa: E402
from sides import Kvgpu  # noqa: E402
from tqdm import tqdm  # noqa: E402

AGES = (1_000, 10_000, 100_000, 1_000_000)
FRESH_STEPS, STEPS = 30, 60
GOAL = 0.8
"""An old pool takes at most 1.25 times as long as a fresh one."""


def beside_fresh(old: ServedPool, traffic: Traffic, age: int, rounds: int) -> list[Row]:
    """Rows of one age.

    Raises:
        AssertionError, InvariantError: A pool is not as it should be.
    """
    fresh = type(old)(Kvgpu("sha256").manager("full", POOLS["full"]), age)
    ns_per_block(fresh, traffic, FRESH_STEPS)
    settle()
    turns = [[ns_per_block(pool, traffic, STEPS) for pool in (old, fresh)] for _ in range(rounds)]
    hits = []
    for pool in (old, fresh):
        pool.manager.check()
        stats = pool.manager.make_prefix_cache_stats()
        hits.append(stats.hits / stats.queries)
    assert abs(hits[0] - hits[1]) < 0.05, f"the pools hit {hits[0]:.1%} and {hits[1]:.1%}"
    case = f"full, after {age:,} requests with decode, {old.case}"
    rows = []
    for name in (ALL_BUT_FREE, "free"):
        mine, others = ([turn[place][name] for turn in turns] for place in range(2))
        rows.append(compared(name, case, "ns/block", mine, others, "fresh", GOAL))
    return rows


def ages(kind: type[ServedPool], options: argparse.Namespace) -> Iterator[Row]:
    """Rows of all ages of a pool."""
    served = 0
    old, traffic = kind(Kvgpu("sha256").manager("full", POOLS["full"]), 0), Traffic(1)
    with tqdm(total=options.requests, disable=None, unit="request") as progress:
        for age in (age for age in AGES if age <= options.requests):
            # A bar that is not shown does not count.
            while served < age:
                old.serve(traffic.take(AT_ONCE))
                served += AT_ONCE
                progress.update(AT_ONCE)
            old.manager.make_prefix_cache_stats()
            yield from beside_fresh(old, traffic, age, options.rounds)


def made(options: argparse.Namespace) -> Iterator[Row]:
    """All rows."""
    for kind in (BatchedPool, EnginePool):
        yield from ages(kind, options)


def main() -> int:
    """Check, measure, print, save."""
    parser = benchmark_options(__doc__, rounds=7)
    parser.add_argument("--requests", type=int, default=AGES[-1])
    options = parser.parse_args()
    return finish("old_pool", made(options), options)


if __name__ == "__main__":
    sys.exit(main())
