"""Cost of asking for a whole waiting queue, and of single decode calls, beside vLLM 0.23.0, in one process.

    python bench/queues.py [TRACE] [--requests 1000] [--rounds 7] [--peers] [--json -]

The queue: the last 200 of the first requests of the trace, all cached; then queues of 1 to 10,000 requests of 16
to 8,192 blocks, all cached. kvgpu answers in one call, vLLM one request at a time. Every call looks at every block,
as if the queue had just come, but for rows that say `again`: there kvgpu may remember, as it does from step to step,
and a request of 850 new blocks came and went in between, on both sides. The decode step: 1,024 running
requests get a slot for one token each, call by call on both sides; the median step stays inside its blocks, sixteen
steps hold the one that does not. Hit lengths and block ids of the two are compared before a time is printed, or,
where vLLM is not installed, those of kvgpu's reference.
Exit status: 0 all goals met, 1 a goal missed, 2 the results differ, or a peer is missing
that `--peers` asks for.
"""

import argparse
import gc
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import perf_counter as now
from types import SimpleNamespace
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import numpy as np  # noqa: E402
from harness import Row, beside_limit, compared, finish  # noqa: E402
from limits import ns_per_byte  # noqa: E402
from sides import BLOCK, Side, make_requests, trace_options, two_sides, workload  # noqa: E402
from tqdm import tqdm  # noqa: E402

QUEUES = ((1, 16), (1, 8192), (16, 256), (256, 128), (1024, 64), (10_000, 16))
RUNNING, STEPS = 1024, 3 * BLOCK


def serve(manager: Any, requests: Sequence[Any], max_live: int = 32) -> None:
    """Look each up and allocate it in full; the oldest leaves when there are too many."""
    live: list[Any] = []
    for request in requests:
        blocks, num_hits = manager.get_computed_blocks(request)
        while manager.allocate_slots(request, request.num_tokens - num_hits, num_hits, blocks) is None:
            manager.free(live.pop(0))
        live.append(request)
        if len(live) > max_live:
            manager.free(live.pop(0))


class Queue:
    """One waiting queue on both sides, everything in it cached."""

    def __init__(self, sides: list[Side], prompts: list[list[int]], asked: int) -> None:
        self.managers, self.waiting = [], []
        self.sides, self.peer = sides, sides[1]
        for side in sides:
            manager = side.manager("full", 200_000)
            serve(manager, make_requests(side, prompts, "first"))
            self.managers.append(manager)
            self.waiting.append(make_requests(side, prompts[-asked:], "again"))
        from kvgpu.batch.queries import BatchQueries

        hashes = sum(len(request.block_hashes) for request in self.waiting[0])
        self.queries = BatchQueries(self.managers[0], asked, hashes)
        self.rows = self.queries.track(self.waiting[0])

    def ours(self) -> list[int]:
        hits: list[int] = self.queries.match(self.rows).num_tokens.tolist()
        return hits

    def theirs(self) -> list[int]:
        ask = self.managers[1].get_computed_blocks
        return [ask(request)[1] for request in self.waiting[1]]

    def row(self, case: str, rounds: int, goal: float | None = None) -> Row:
        """Nanoseconds per block that hits, nothing being remembered."""
        if self.ours() != self.theirs():
            raise AssertionError(f"{case}: hit lengths differ")
        times: list[list[float]] = [[], []]
        gc.collect()
        for _ in range(rounds):
            self.queries.rows.forget()
            self._ask(times)
        return compared("match a queue", case, "ns/hit", *times, self.peer.name, goal)

    def again(self, case: str, rounds: int) -> Row:
        """The same from step to step."""
        times: list[list[float]] = [[], []]
        rng = np.random.default_rng(0)
        self.ours()
        for number in range(rounds):
            tokens = rng.integers(0, 128_000, 850 * BLOCK).tolist()
            for side, manager in zip(self.sides, self.managers, strict=True):
                serve(manager, [side.request(f"between{number}", tokens)], max_live=0)
            if self._ask(times) != self.theirs():
                raise AssertionError(f"{case}: hit lengths differ")
        return compared("match a queue again", case, "ns/hit", *times, self.peer.name)

    def _ask(self, times: list[list[float]]) -> list[int]:
        """One round of those that are timed; what kvgpu hit."""
        hits: list[list[int]] = []
        for place, ask in enumerate((self.ours, self.theirs)[: 1 + self.peer.timed]):
            start = now()
            hits.append(ask())
            times[place].append((now() - start) / (sum(hits[0]) // BLOCK) * 1e9)
        return hits[0]


def track(queries: Any, requests: list[Any], words: str, rounds: int) -> list[Row]:
    """Nanoseconds per hash to track requests with an array of hashes, and with lists of bytes."""
    foreign = [
        SimpleNamespace(
            request_id=r.request_id,
            block_hashes=list(r.block_hashes),
            num_tokens=r.num_tokens,
            skip_reading_prefix_cache=False,
        )
        for r in requests
    ]
    num_hashes = sum(len(request.block_hashes) for request in requests)
    kinds = {"an array": requests, "a list of bytes": foreign}
    times: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(rounds):
        for kind, made in kinds.items():
            start = now()
            rows = queries.track(made)
            times[kind].append((now() - start) / num_hashes * 1e9)
            queries.untrack(rows)
    rows = [compared("track", f"{words}, hashes as {kind}", "ns/hash", taken) for kind, taken in times.items()]
    more = rows[1].kvgpu - rows[0].kvgpu
    rows[1].goal, rows[1].met = "<= 15 ns more", more <= 15
    return rows


def decode(sides: list[Side], running: int) -> list[Row]:
    """A slot for one more token of each of so many running requests."""
    prompts = [[i * 1000 + j for j in range(500)] for i in range(running)]
    times: list[list[float]] = [[], []]
    managers, requests_of = [], []
    for side in sides:
        manager, requests = side.manager("full", 200_000), make_requests(side, prompts)
        serve(manager, requests, running)
        for request in requests:
            request.num_computed_tokens = request.num_tokens
        managers.append(manager)
        requests_of.append(requests)
    for _ in range(STEPS):
        given = []
        for place, (manager, requests) in enumerate(zip(managers, requests_of, strict=True)):
            for request in requests:
                request.append_output_token_ids(7)
            start = now()
            blocks = [manager.allocate_slots(request, 1) for request in requests]
            times[place].append((now() - start) / running * 1e6)
            for request in requests:
                request.num_computed_tokens += 1
            given.append([b.get_block_ids() for b in blocks])
        if given[0] != given[1]:
            raise AssertionError("decode: block ids differ")
    peer = sides[1]
    rows = []
    for name, steps in (("a step", 1), ("16 steps", BLOCK)):
        mine, others = (np.reshape(taken, (-1, steps)).mean(1) for taken in times)
        rows.append(
            compared(
                "decode, one call a request",
                f"{running:,} running, {name}",
                "us/request",
                mine,
                others if peer.timed else (),
                peer.name,
            )
        )
    rows[0].stay_below(1)
    return rows


def made(options: argparse.Namespace) -> Iterator[Row]:
    """All rows."""
    load = workload(options.trace, options.requests)
    asked = min(200, len(load.prompts))
    words = f"the last {asked} of {load}, warm"
    sides = two_sides("sha256", options.peers)
    queue = Queue(sides, load.prompts, asked)
    row = queue.row(words, options.rounds, goal=100)
    yield row
    yield queue.again(words, options.rounds)
    queue.queries.untrack(queue.rows)
    # A hash and the record of a block.
    yield beside_limit(row, (32 + 64) * ns_per_byte("read in order"), "96 bytes in order")
    yield from track(queue.queries, queue.waiting[0], words, options.rounds)
    del queue
    queues = [shape for shape in QUEUES if shape[0] <= options.most]
    for count, blocks in tqdm(queues, disable=None, unit="queue"):
        rng = np.random.default_rng(count)
        prompts = rng.integers(0, 128_000, (count, blocks * BLOCK + 1)).tolist()
        case = f"{count:,} requests of {blocks:,} blocks"
        queue = Queue(sides, prompts, count)
        yield queue.row(case, options.rounds)
        yield queue.again(case, options.rounds)
    yield from decode(sides, min(RUNNING, options.most))


def main() -> int:
    """Compare, measure, print, save."""
    parser = trace_options(__doc__, rounds=7)
    parser.add_argument("--most", type=int, default=10_000, help="requests of a queue")
    options = parser.parse_args()
    os.environ["PYTHONHASHSEED"] = "0"
    return finish("queues", made(options), options)


if __name__ == "__main__":
    sys.exit(main())
