"""Cost per block of the calls of a manager, one request at a time, beside vLLM 0.23.0 in one process.

    python bench/calls.py [TRACE] [--requests 1000] [--rounds 3] [--peers] [--json -]

Each prompt is looked up and allocated in full, in the order of the trace; at most 32 requests hold
blocks, the oldest is freed first, also when the pool is full; statistics are on. Then the last 200
requests are looked up again, all hits. The two sides take turns. Every hit length and block id is compared with
those of vLLM first, or, where it is not installed, with those of kvgpu's reference: without equality no time is
printed.
Exit status: 0 all goals met, 1 a goal missed, 2 the results differ, or a peer is missing
that `--peers` asks for.
"""

import argparse
import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter as now
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

from harness import Row, compared, finish  # noqa: E402
from sides import BLOCK, Side, Workload, make_requests, trace_options, two_sides, workload  # noqa: E402
from tqdm import tqdm  # noqa: E402

MAX_LIVE = 32
WARM = 200
BLOCKS = {"full": 200_000, "hybrid": 400_000}
GOALS: dict[str, dict[str, float]] = {
    "full": {"lookup": 10, "warm lookup": 10, "allocate + cache": 5, "free": 5},
    "hybrid": {},
}


class Episode:
    """One pass over the requests on a fresh manager: seconds per operation, and what came out."""

    def __init__(self, side: Side, case: str, requests: list[Any], again: list[Any]) -> None:
        self.seconds = {"lookup": 0.0, "allocate + cache": 0.0, "free": 0.0, "warm lookup": 0.0}
        self.hits: list[int] = []
        self.ids: list[Any] = []
        self.manager = side.manager(case, BLOCKS[case])
        gc.collect()
        live: list[Any] = []
        for request in requests:
            self._serve(request, live)
        self.warm_hits = 0
        start = now()
        for request in again:
            self.warm_hits += self.manager.get_computed_blocks(request)[1]
        self.seconds["warm lookup"] = now() - start

    def _free(self, live: list[Any]) -> None:
        oldest = live.pop(0)
        start = now()
        self.manager.free(oldest)
        self.seconds["free"] += now() - start

    def _serve(self, request: Any, live: list[Any]) -> None:
        manager, seconds = self.manager, self.seconds
        start = now()
        blocks, num_hits = manager.get_computed_blocks(request)
        seconds["lookup"] += now() - start
        while True:
            start = now()
            new = manager.allocate_slots(request, request.num_tokens - num_hits, num_hits, blocks)
            seconds["allocate + cache"] += now() - start
            if new is not None:
                break
            self._free(live)
        self.hits.append(num_hits)
        self.ids.append(new.get_block_ids())
        live.append(request)
        if len(live) > MAX_LIVE:
            self._free(live)


def measure(sides: list[Side], case: str, load: Workload, rounds: int) -> list[Row]:
    """Rows of one case.

    Raises:
        AssertionError: The sides differ.
    """
    prompts = load.prompts
    timed = [side for side in sides if side.timed]
    requests = [make_requests(side, prompts) for side in sides]
    again = [make_requests(side, prompts[-WARM:], "again") for side in sides]
    ours, theirs = (Episode(side, case, mine, more) for side, mine, more in zip(sides, requests, again, strict=True))
    if (ours.hits, ours.ids, ours.warm_hits) != (theirs.hits, theirs.ids, theirs.warm_hits):
        raise AssertionError(f"{case}: hits or blocks differ")
    ours.manager.check()
    num_blocks = sum(len(request.block_hashes) for request in requests[0])
    per = dict.fromkeys(ours.seconds, num_blocks) | {"warm lookup": ours.warm_hits // BLOCK}
    times: list[dict[str, list[float]]] = [{name: [] for name in per} for _ in timed]
    del ours, theirs
    for _ in tqdm(range(rounds), disable=None, unit="round"):
        for place, side in enumerate(timed):
            done = Episode(side, case, requests[place], again[place])
            for name, seconds in done.seconds.items():
                times[place][name].append(seconds / per[name] * 1e9)
    print(f"{case}: {num_blocks:,} blocks, {per['warm lookup']:,} warm hits; equal hits and ids")
    words = f"{case}, {load}"
    return [
        compared(
            name, words, "ns/block", *(t[name] for t in times), peer_name=sides[1].name, goal=GOALS[case].get(name)
        )
        for name in per
    ]


def made(options: argparse.Namespace) -> Iterator[Row]:
    """All rows."""
    load = workload(options.trace, options.requests)
    sides = two_sides("sha256", options.peers)
    for case in BLOCKS:
        yield from measure(sides, case, load, options.rounds)


def main() -> int:
    """Compare, measure, print, save."""
    options = trace_options(__doc__, rounds=3).parse_args()
    os.environ["PYTHONHASHSEED"] = "0"
    return finish("calls", made(options), options)


if __name__ == "__main__":
    sys.exit(main())
