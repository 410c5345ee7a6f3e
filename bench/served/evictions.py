"""What a block costs in a pool under pressure with each policy of eviction, beside least recently used first.

    python bench/served/evictions.py [--requests 2000] [--steps 30] [--rounds 7] [--json -]

It is asked in batches, with hashes in arrays, and as an engine asks, one call a request, with hashes in lists of bytes.
Requests share prefixes, and the pool holds a part of what they look up, so that it evicts at each step. First every
policy serves requests in both ways, which must evict the same blocks, and others than `lru` does, or nothing is
printed. Then the pool of a policy and one with `lru` serve the same requests in turn. Exit status: 0 all goals met, 1 a
goal missed, 2 the checks failed.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(HERE.parent), str(HERE)]

from harness import Row, benchmark_options, compared, finish  # noqa: E402
from served.pool import AT_ONCE, BatchedPool, EnginePool, ServedPool, Traffic, ns_per_block  # noqa: E402
from served.trace import ALL_BUT_FREE, POOLS, settle  # noqa: E402
from sides import Kvgpu  # noqa: E402
from tqdm import tqdm  # noqa: E402

from kvgpu.blocks.invariants import queue_violations  # noqa: E402
from kvgpu.eviction.names import EVICTIONS, LRU  # noqa: E402

CHECKED_STEPS = 12
CHECKED_BLOCKS = 100_000
"""So few that the checked requests evict: those that live at a time need up to 80,000."""
GOAL = 0.5
"""A policy takes at most twice as long as LRU."""
KINDS = (BatchedPool, EnginePool)
WHOLE_LIFE = f"{ALL_BUT_FREE} + free"


def make_pool(kind: type[ServedPool], policy: str, num_blocks: int) -> ServedPool:
    """A fresh pool whose blocks a policy evicts."""
    side = Kvgpu("sha256")
    side.options["eviction"] = policy
    return kind(side.manager("full", num_blocks), 0)


def refuse_odd(pool: ServedPool) -> None:
    """Check that a pool has evicted blocks, and that its queue of free blocks is in order.

    Raises:
        AssertionError: It has not, or is not.
    """
    found = queue_violations(pool.manager.block_pool.state)
    assert not found, "; ".join(found)
    assert pool.manager.block_pool.allocator.num_evictions, "the pool evicts nothing"


def served_blocks(pool: ServedPool) -> list[list[int]]:
    """Tokens looked up and hit in some steps, and ids of all blocks, in the order in which they are evicted then.

    Raises:
        AssertionError: The pool is not as it should be.
    """
    traffic = Traffic(2)
    for _ in range(CHECKED_STEPS):
        pool.serve(traffic.take(AT_ONCE))
    pool.leave()
    refuse_odd(pool)
    stats = pool.manager.make_prefix_cache_stats()
    free = pool.manager.block_pool.get_num_free_blocks()
    return [[stats.queries, stats.hits], pool.manager.block_pool.allocate(free).tolist()]


def check() -> None:
    """Check that all policies evict the same in batches and in single calls, each in an order of its own.

    Raises:
        AssertionError: They do not.
    """
    orders = {}
    for policy in EVICTIONS:
        found, expected = (served_blocks(make_pool(kind, policy, CHECKED_BLOCKS)) for kind in KINDS)
        assert found == expected, f"{policy} evicts other blocks in batches than in single calls"
        orders[policy] = found
    alike = {policy for policy, order in orders.items() if order == orders[LRU]}
    assert alike == {LRU}, f"{alike} evict the same"


def beside_lru(kind: type[ServedPool], policy: str, options: argparse.Namespace) -> Iterator[Row]:
    """Rows of one policy.

    Raises:
        AssertionError: A pool is not as it should be.
    """
    pools = [make_pool(kind, name, options.blocks) for name in (policy, LRU)]
    traffics = [Traffic(1) for _ in pools]
    for pool, traffic in zip(pools, traffics, strict=True):
        ns_per_block(pool, traffic, -(-options.requests // AT_ONCE))
    settle()
    costs: dict[str, list[list[float]]] = {ALL_BUT_FREE: [[], []], "free": [[], []], WHOLE_LIFE: [[], []]}
    for turn in range(options.rounds):
        for place in (0, 1) if turn % 2 else (1, 0):
            found = ns_per_block(pools[place], traffics[place], options.steps)
            for name, cost in (*found.items(), (WHOLE_LIFE, sum(found.values()))):
                costs[name][place].append(cost)
    for pool in pools:
        refuse_odd(pool)
    for name, (ours, others) in costs.items():
        goal = GOAL if name == WHOLE_LIFE else None
        yield compared(name, f"{policy}, {kind.case}", "ns/block", ours, others, LRU, goal)


def made(options: argparse.Namespace) -> Iterator[Row]:
    """All rows."""
    check()
    cases = [(kind, policy) for kind in KINDS for policy in EVICTIONS if policy != LRU]
    for kind, policy in tqdm(cases, disable=None, unit="policy"):
        yield from beside_lru(kind, policy, options)


def main() -> int:
    """Check, measure, print, save."""
    parser = benchmark_options(__doc__, rounds=7)
    parser.add_argument("--requests", type=int, default=2000, help="that a pool has served before")
    parser.add_argument("--blocks", type=int, default=POOLS["full"], help="of a pool")
    parser.add_argument("--steps", type=int, default=30, help="of a turn")
    options = parser.parse_args()
    return finish("evictions", made(options), options)


if __name__ == "__main__":
    sys.exit(main())
