"""Cost per block of kvgpu and of vLLM 0.23.0 on one real trace, alternating in one process.

    python bench/vs_vllm.py TRACE [--requests 1000] [--rounds 5] [--case full|hybrid] [--json -]

Each prompt is looked up and allocated in full, in the order of the trace; at most 32 requests hold
blocks, the oldest is freed first, also when the pool is full; statistics are on. Then the last 200
requests are looked up again, all hits. Every hit length and block id of the two is compared first:
without equality no time is printed. Needs an interpreter in which both can be imported.
Exit status: 0 all goals met, 1 a goal missed, 2 the results differ.
"""

import gc
import os
import sys
from pathlib import Path
from time import perf_counter as now
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

from harness import Row, compared, finish  # noqa: E402
from sides import Kvgpu, Side, Vllm, make_requests, trace_options, trace_prompts  # noqa: E402
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


def main() -> int:
    """Compare, measure, print, save."""
    parser = trace_options(__doc__, rounds=5)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--case", choices=list(BLOCKS), default="full")
    options = parser.parse_args()
    os.environ["PYTHONHASHSEED"] = "0"
    prompts = trace_prompts(options.trace, options.requests)
    sides: list[Side] = [Kvgpu("sha256"), Vllm("sha256")]
    hash_seconds, requests, again = [], [], []
    for side in sides:
        start = now()
        requests.append(make_requests(side, prompts))
        hash_seconds.append(now() - start)
        again.append(make_requests(side, prompts[-WARM:], "again"))
    ours, theirs = (
        Episode(side, options.case, mine, more)
        for side, mine, more in zip(sides, requests, again, strict=True)
    )
    if (ours.hits, ours.ids, ours.warm_hits) != (theirs.hits, theirs.ids, theirs.warm_hits):
        print("kvgpu and vLLM give different hits or blocks: nothing was measured", file=sys.stderr)
        return 2
    ours.manager.block_pool.check()
    num_blocks = sum(len(request.block_hashes) for request in requests[0])
    per = dict.fromkeys(ours.seconds, num_blocks) | {"warm lookup": ours.warm_hits // 16}
    times: list[dict[str, list[float]]] = [{name: [] for name in per} for _ in sides]
    del ours, theirs
    for _ in tqdm(range(options.rounds), disable=None, unit="round"):
        for place, side in enumerate(sides):
            done = Episode(side, options.case, requests[place], again[place])
            for name, seconds in done.seconds.items():
                times[place][name].append(seconds / per[name] * 1e9)
    rows = [
        Row(
            "hash a prompt", f"{options.case}, sha256", "ns/block",
            *(seconds / num_blocks * 1e9 for seconds in hash_seconds), sides[1].name,
        )
    ]  # fmt: skip
    case = f"{options.case}, {len(prompts)} requests"
    goals = GOALS[options.case]
    rows += [
        compared(name, case, "ns/block", *(t[name] for t in times), sides[1].name, goals.get(name))
        for name in per
    ]
    print(f"{num_blocks} blocks, {per['warm lookup']} warm hits; equal hits and block ids")
    return finish("vs_vllm", rows, options.json)


if __name__ == "__main__":
    sys.exit(main())
