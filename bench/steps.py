"""Cost of whole scheduler steps in batches, beside vLLM 0.23.0 and SGLang 0.5.23, in one process.

    python bench/steps.py [TRACE] [--requests 1000] [--rounds 5] [--peers] [--json -]

The replay: the requests of the trace in order, 16 at a time; each is looked up, gets slots for its whole prompt,
and its full blocks are cached; the oldest leave when more than 32 hold blocks. vLLM does the same with one call
a request, in the same order; SGLang matches each prompt, makes slots for it (torch.arange) and inserts it, and
frees nothing. No hashing anywhere.
The same in a pool that has served 1,000,000 requests with decode before.
The decode step: a slot for one token of each running request. Hit lengths, block ids and the order of the free
queue are compared before a time is printed. Where vLLM is not installed they are compared with kvgpu's reference,
one call a request; without SGLang its rows are left out. The output says so; `--peers` makes it an error.
Exit status: 0 all goals met, 1 a goal missed, 2 the results differ, or a peer is missing
that `--peers` asks for.
"""

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter as now
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import numpy as np  # noqa: E402
from harness import Row, beside_limit, compared, finish  # noqa: E402
from limits import ns_per_byte  # noqa: E402
from peers.sglang_cache import NAME, RadixCache, sglang_cache  # noqa: E402
from served.pool import BatchedPool, Traffic  # noqa: E402
from served.trace import ALL_BUT_FREE, AT_ONCE, POOLS, WHOLE, free_order, replay_batched, replay_single, settle  # noqa: E402
from sides import BLOCK, Side, Workload, make_requests, trace_options, two_sides, workload  # noqa: E402
from tqdm import tqdm  # noqa: E402

RUNNING = (1, 16, 128, 1024, 8192)
IN_STEP = 1024
FEW = 128
"""Up to so many running requests a step is at least as fast as the other side's loop."""
ASKED = 200
STEPS, WARM = 5 * BLOCK, 2
AGE = 1_000_000
"""Requests that an old pool has served."""
WARM_TURNS = 1
"""Replays in an old pool before its cost is measured: they fill it again."""
NEW_TOKEN = 1 << 20
GOALS = {("full", ALL_BUT_FREE): 25, ("full", "free"): 10, ("full", "whole replay"): 15, ("hybrid", ALL_BUT_FREE): 20}


def replay(sides: list[Side], case: str, load: Workload, rounds: int) -> list[Row]:
    """Rows of one case."""
    requests = [make_requests(side, load.prompts) for side in sides]
    num_blocks = sum(len(request.block_hashes) for request in requests[0])
    ways = (replay_batched, replay_single)
    done = [way(side, case, made, keep=True) for way, side, made in zip(ways, sides, requests, strict=True)]
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


def age(manager: Any, num_requests: int) -> None:
    """Let a manager of kvgpu serve many requests that decode in step, and forget what it has cached."""
    pool, traffic = BatchedPool(manager, 0), Traffic(1)
    with tqdm(total=num_requests, disable=None, unit="request") as progress:
        for _ in range(0, num_requests, AT_ONCE):
            pool.serve(traffic.take(AT_ONCE))
            progress.update(AT_ONCE)
    pool.leave()
    assert manager.reset_prefix_cache()


def shuffle_alike(manager: Any, order: list[int]) -> None:
    """Put the free queue of a manager of any side into an order."""
    queue = manager.block_pool.free_block_queue
    blocks = {block.block_id: block for block in queue.popleft_n(len(order))}
    queue.append_n([blocks[block_id] for block_id in order])


def long_life(sides: list[Side], load: Workload, rounds: int, num_requests: int) -> list[Row]:
    """The replay in a pool that has served many requests: its free blocks are shuffled.

    The other side's are put into the same order: to serve as many would take it too long.
    """
    managers = [side.manager("full", POOLS["full"]) for side in sides]
    age(managers[0], num_requests)
    shuffle_alike(managers[1], free_order(managers[0]))
    times: list[dict[str, list[float]]] = [{}, {}]
    ways = (replay_batched, replay_single)
    for turn in tqdm(range(WARM_TURNS + rounds), disable=None, unit="replay"):
        # Nothing of the turns before is hit.
        prompts = [[NEW_TOKEN + turn, *prompt[1:]] for prompt in load.prompts]
        timed, results = turn >= WARM_TURNS, []
        for side, way, manager, taken in zip(sides, ways, managers, times, strict=True):
            requests = make_requests(side, prompts, f"{turn}-")
            num_blocks = sum(len(request.block_hashes) for request in requests)
            seconds, found, _ = way(side, "full", requests, keep=True, aged=manager)
            results.append(found)
            seconds["whole replay"] = sum(seconds.values())
            for name, spent in seconds.items() if timed else ():
                taken.setdefault(name, []).append(spent / num_blocks * 1e9)
        if results[0] != results[1] or free_order(managers[0]) != free_order(managers[1]):
            raise AssertionError(f"replay {turn} in an old pool: hits, blocks or the free queue differ")
    managers[0].check()
    case = f"full, after {num_requests:,} requests, {load}, {AT_ONCE} at once"
    return [
        compared(
            name,
            case,
            "ns/block",
            taken,
            times[1].get(name, ()) if sides[1].timed else (),
            sides[1].name,
            GOALS.get(("full", name)),
        )
        for name, taken in times[0].items()
    ]


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
        if any(mine > (other // BLOCK) * BLOCK for (mine, _), other in zip(results, theirs, strict=True)):
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
                f"full, {load}, {AT_ONCE} at once" if whole else f"the last {asked} of {load}, warm",
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
    both = ([sum(pair) for pair in zip(*(times[name][side] for name in times), strict=True)] for side in range(2))
    times["append + hash + allocate"] = list(both)
    found = []
    for name, (mine, others) in times.items():
        case = f"{running:,} running, {'spread' if spread else 'in step'}"
        goal = 50 if name == "allocate" and running == IN_STEP else 1 if running <= FEW else None
        found.append(decode_row(name, case, sides[1], mine[WARM:], others[WARM:], goal))
        if not spread:
            # Whole blocks: fifteen steps that need none and the one that needs one for everybody.
            mine, others = (np.reshape(taken[WARM:], (-1, BLOCK)).mean(1) for taken in (mine, others))
            found.append(decode_row(name, f"{case}, 16 steps", sides[1], mine, others, None))
    return found


def decode_row(name: str, case: str, peer: Side, mine: Any, others: Any, goal: float | None) -> Row:
    """Seconds of steps as a row."""
    return compared(
        f"decode step, {name}",
        case,
        "us/step",
        np.multiply(mine, 1e6),
        np.multiply(others, 1e6) if peer.timed else (),
        peer.name,
        goal,
    )


def made(options: argparse.Namespace) -> Iterator[Row]:
    """All rows."""
    load = workload(options.trace, options.requests)
    sides = two_sides("sha256", options.peers)
    for case in POOLS:
        yield from replay(sides, case, load, options.rounds)
    yield from long_life(sides, load, min(options.rounds, 3), options.age)
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
    parser.add_argument("--age", type=int, default=AGE, help="requests that an old pool has served")
    options = parser.parse_args()
    os.environ["PYTHONHASHSEED"] = "0"
    return finish("steps", made(options), options)


if __name__ == "__main__":
    sys.exit(main())
