"""Cost of whole scheduler steps in batches, beside vLLM 0.23.0 and SGLang 0.5.23, in one process.

    python bench/steps.py [TRACE] [--requests 1000] [--rounds 5] [--peers] [--json -]

The replay: the requests of the trace in order, 16 at a time; each is looked up, gets slots for its whole prompt,
and its full blocks are cached; the oldest leave when more than 32 hold blocks. vLLM does the same with one call
a request, in the same order; SGLang matches each prompt, makes slots for it (torch.arange) and inserts it, and
frees nothing. No hashing anywhere.
The decode step: a slot for one token of each running request. Hit lengths, block ids and the order of the free
queue are compared before a time is printed. Where vLLM is not installed they are compared with kvgpu's reference,
one call a request; without SGLang its rows are left out. The output says so; `--peers` makes it an error.
Exit status: 0 all goals met, 1 a goal missed, 2 the results differ, or a peer is missing
that `--peers` asks for.
"""

import argparse
import gc
import os
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter as now
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import numpy as np  # noqa: E402
from harness import Row, beside_limit, compared, finish  # noqa: E402
from limits import ns_per_byte  # noqa: E402
from sglang_cache import NAME, RadixCache, sglang_cache  # noqa: E402
from sides import BLOCK, Side, Workload, make_requests, trace_options, two_sides, workload  # noqa: E402
from tqdm import tqdm  # noqa: E402

AT_ONCE, MAX_LIVE = 16, 32
POOLS = {"full": 200_000, "hybrid": 400_000}
RUNNING = (1, 16, 128, 1024, 8192)
IN_STEP = 1024
ASKED = 200
STEPS, WARM = 5 * BLOCK, 2
WHOLE = 1 << 30
GOALS = {
    ("full", "look up + allocate + cache"): 25,
    ("full", "free"): 10,
    ("full", "whole replay"): 15,
    ("hybrid", "look up + allocate + cache"): 20,
}


def settle() -> None:
    """Leave what was made so far, all prompts above all, out of collections: they would be charged to whoever
    makes the most objects."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def turns(requests: list[Any], at_once: int) -> list[list[Any]]:
    """The requests, so many at a time."""
    return [requests[i : i + at_once] for i in range(0, len(requests), at_once)]


def replay_batched(
    side: Side, case: str, requests: list[Any], keep: bool = False, at_once: int = AT_ONCE
) -> tuple[Any, Any, Any]:
    """Seconds by operation, (hits, new block ids) of each request if wanted, and the manager."""
    from kvgpu.batch.manager import BatchManager

    manager = side.manager(case, POOLS[case])
    batch = BatchManager(manager, at_once + MAX_LIVE, (at_once + MAX_LIVE) * 8192)
    seconds: Counter[str] = Counter()
    got, live = [], np.empty(0, np.int64)
    settle()
    for part in turns(requests, at_once):
        start = now()
        rows = batch.track(part)
        seconds["track"] += now() - start
        start = now()
        given = batch.allocate_batch(rows, WHOLE)
        seconds["look up + allocate + cache"] += now() - start
        assert given.fits.all()
        if keep:
            got.append(given)
        live = np.concatenate([live, rows])
        if len(live) > MAX_LIVE:
            oldest, live = live[: len(live) - MAX_LIVE], live[len(live) - MAX_LIVE :]
            start = now()
            batch.free_batch(oldest)
            seconds["free"] += now() - start
            start = now()
            batch.untrack(oldest)
            seconds["track"] += now() - start
    results = [
        (int(hit), given.get_block_ids(i))
        for given in got
        for i, hit in enumerate(given.num_hit_tokens)
    ]
    return seconds, results, manager


def replay_single(
    side: Side, case: str, requests: list[Any], keep: bool = False, at_once: int = AT_ONCE
) -> tuple[Any, Any, Any]:
    """The same with one call a request."""
    manager = side.manager(case, POOLS[case])
    seconds: Counter[str] = Counter()
    results, live = [], []
    settle()
    for part in turns(requests, at_once):
        for request in part:
            start = now()
            blocks, hit = manager.get_computed_blocks(request)
            new = manager.allocate_slots(request, request.num_tokens - hit, hit, blocks)
            seconds["look up + allocate + cache"] += now() - start
            if keep:
                results.append((hit, new.get_block_ids()))
        live += part
        while len(live) > MAX_LIVE:
            oldest = live.pop(0)
            start = now()
            manager.free(oldest)
            seconds["free"] += now() - start
    return seconds, results, manager


def free_order(manager: Any) -> list[int]:
    """Ids in the free queue."""
    blocks = manager.block_pool.free_block_queue.get_all_free_blocks()
    return [block.block_id for block in blocks]


def replay(sides: list[Side], case: str, load: Workload, rounds: int) -> list[Row]:
    """Rows of one case."""
    requests = [make_requests(side, load.prompts) for side in sides]
    num_blocks = sum(len(request.block_hashes) for request in requests[0])
    ways = (replay_batched, replay_single)
    done = [
        way(side, case, made, keep=True)
        for way, side, made in zip(ways, sides, requests, strict=True)
    ]
    if done[0][1] != done[1][1] or free_order(done[0][2]) != free_order(done[1][2]):
        raise AssertionError(f"{case}: hits, blocks or the free queue differ")
    done[0][2].check()
    done.clear()
    times: list[dict[str, list[float]]] = [{}, {}]
    timed = [place for place, side in enumerate(sides) if side.timed]
    for _ in tqdm(range(rounds), disable=None, unit="round"):
        for place in timed:
            seconds = ways[place](sides[place], case, requests[place])[0]
            seconds["whole replay"] = sum(seconds.values())
            for name, taken in seconds.items():
                times[place].setdefault(name, []).append(taken / num_blocks * 1e9)
    rows = []
    for name, taken in times[0].items():
        rows.append(
            compared(
                name,
                f"{case}, {load}, {AT_ONCE} at once",
                "ns/block",
                taken,
                times[1].get(name, ()),
                sides[1].name,
                GOALS.get((case, name)),
            )
        )
    return [*rows, beside_limit(rows[1], *cheapest())] if case == "full" else rows


def cheapest() -> tuple[float, str]:
    """ns to move a block from one key to another, at least: its hash is read, its record read and written."""
    read, changed = 32, 64
    ns = read * ns_per_byte("read in order") + changed * ns_per_byte("copy in order")
    return ns, f"{read} bytes read and {changed} changed, in order"


def beside_sglang(cache: RadixCache, side: Side, load: Workload, rounds: int) -> list[Row]:
    """The whole replay, and a warm queue, beside SGLang's cache."""
    from kvgpu.batch.manager import BatchManager

    prompts, asked = load.prompts, min(ASKED, len(load.prompts))
    keys = cache.keys(prompts)
    requests = make_requests(side, prompts)
    again = make_requests(side, prompts[-asked:], "again")
    num_blocks = sum(len(request.block_hashes) for request in requests)
    times: dict[str, list[list[float]]] = {"whole replay": [[], []], "match a queue": [[], []]}
    num_hits = 0
    _, results, _ = replay_batched(side, "full", requests, keep=True)
    for _ in tqdm(range(rounds), disable=None, unit="round"):
        seconds, _, manager = replay_batched(side, "full", requests)
        times["whole replay"][0].append(sum(seconds.values()) / num_blocks * 1e9)
        batch = BatchManager(manager, asked, sum(len(r.block_hashes) for r in again))
        rows = batch.track(again)
        batch.match(rows)
        batch.rows.forget()
        start = now()
        ours = batch.match(rows).num_tokens
        taken = now() - start
        num_hits = int(ours.sum()) // BLOCK
        times["match a queue"][0].append(taken / num_hits * 1e9)
        del manager, batch
        cache.clear()
        settle()
        start = now()
        theirs = cache.replay(keys)
        times["whole replay"][1].append((now() - start) / num_blocks * 1e9)
        # SGLang may hit the last token, too, and never evicts here.
        if any(
            mine > (other // BLOCK) * BLOCK
            for (mine, _), other in zip(results, theirs, strict=True)
        ):
            raise AssertionError("a prefix is cached that SGLang does not have")
        start = now()
        hits = sum(cache.match(key) for key in keys[-asked:]) // BLOCK
        times["match a queue"][1].append((now() - start) / hits * 1e9)
    goals = {"whole replay": 4, "match a queue": 8}
    found = []
    for name, (mine, others) in times.items():
        whole = name == "whole replay"
        found.append(
            compared(
                name,
                f"full, {load}, {AT_ONCE} at once"
                if whole
                else f"the last {asked} of {load}, warm",
                "ns/block" if whole else "ns/hit",
                mine,
                others,
                NAME,
                goals[name],
            )
        )
    return found


def decode(sides: list[Side], running: int, spread: bool) -> list[Row]:
    """A slot for one more token of each running request.

    Their prompts end at the same place of a block, so that all need a block in one step of sixteen, or they
    are spread over all places, as those of real requests are.
    """
    from kvgpu.batch.manager import BatchManager

    blocks = 32 + (STEPS + WARM) // BLOCK + 2
    ends = [496 + i % BLOCK if spread else 500 for i in range(running)]
    prompts = [[i * 1000 + j for j in range(end)] for i, end in enumerate(ends)]
    managers = [side.manager("full", running * blocks + 2) for side in sides]
    requests = [make_requests(side, prompts) for side in sides]
    batch = BatchManager(managers[0], running, 128 * running)
    rows = batch.track(requests[0])
    assert batch.allocate_batch(rows, WHOLE).fits.all()
    for request in requests[1]:
        managers[1].allocate_slots(request, request.num_tokens)
        request.num_computed_tokens = request.num_tokens
    tokens = np.full(running, 7)
    settle()
    times: dict[str, list[list[float]]] = {"allocate": [[], []], "append + hash": [[], []]}
    for _ in range(STEPS + WARM):
        start = now()
        batch.append_batch(rows, tokens)
        times["append + hash"][0].append(now() - start)
        start = now()
        given = batch.allocate_batch(rows, 1)
        times["allocate"][0].append(now() - start)
        start = now()
        for request in requests[1]:
            request.append_output_token_ids(7)
        times["append + hash"][1].append(now() - start)
        start = now()
        new = [managers[1].allocate_slots(request, 1) for request in requests[1]]
        times["allocate"][1].append(now() - start)
        for request in requests[1]:
            request.num_computed_tokens += 1
        if [given.get_block_ids(i) for i in range(running)] != [b.get_block_ids() for b in new]:
            raise AssertionError("decode: block ids differ")
    found = []
    for name, (mine, others) in times.items():
        case = f"{running:,} running, {'spread' if spread else 'in step'}"
        goal = 50 if name == "allocate" and running == IN_STEP else None
        found.append(decode_row(name, case, sides[1], mine[WARM:], others[WARM:], goal))
        if not spread:
            # Whole blocks: fifteen steps that need none and the one that needs one for everybody.
            mine, others = (
                np.reshape(taken[WARM:], (-1, BLOCK)).mean(1) for taken in (mine, others)
            )
            found.append(decode_row(name, f"{case}, 16 steps", sides[1], mine, others, None))
    return found


def decode_row(name: str, case: str, peer: Side, mine: Any, others: Any, goal: float | None) -> Row:
    """Seconds of steps as a row."""
    return compared(
        f"decode step, {name}", case, "us/step", np.multiply(mine, 1e6),
        np.multiply(others, 1e6) if peer.timed else (), peer.name, goal,
    )  # fmt: skip


def made(options: argparse.Namespace) -> Iterator[Row]:
    """All rows."""
    load = workload(options.trace, options.requests)
    sides = two_sides("sha256", options.peers)
    for case in POOLS:
        yield from replay(sides, case, load, options.rounds)
    for running in tqdm([n for n in RUNNING if n <= options.most], disable=None, unit="decode"):
        yield from decode(sides, running, spread=True)
    yield from decode(sides, min(IN_STEP, options.most), spread=False)
    cache = sglang_cache(options.peers)
    if cache is not None:
        yield from beside_sglang(cache, sides[0], load, options.rounds)


def main() -> int:
    """Compare, measure, print, save."""
    parser = trace_options(__doc__, rounds=5)
    parser.add_argument("--most", type=int, default=max(RUNNING), help="requests that decode")
    options = parser.parse_args()
    os.environ["PYTHONHASHSEED"] = "0"
    return finish("steps", made(options), options)


if __name__ == "__main__":
    sys.exit(main())
