"""Cost of block hashes, beside vLLM 0.23.0, and of a whole replay with hashing, in one process.

    python bench/hashing.py [TRACE] [--requests 1000] [--rounds 3] [--peers] [--json -]

Hashing: all full blocks of each prompt, one request at a time or 64 at once. vLLM hashes a list of token ids;
kvgpu hashes a list, or an array (int32), which is what an engine that uses it would keep; one row more is of two
threads. Hashes are compared with vLLM's, those of kvgpu128 with its own block by block form, before a time is printed.
The replay: hash, look up, allocate, cache and free, as in steps.py; vLLM with sha256, kvgpu with kvgpu128 from
arrays, 16 or 64 requests at a time; SGLang hashes nothing. Where vLLM is not installed, hashes are compared with the
block by block form, and the replay with kvgpu's reference; without SGLang its row is left out. The output says so;
`--peers` makes it an error. Exit status: 0 all goals met, 1 a goal missed, 2 the results differ, or a peer is missing
that `--peers` asks for.
"""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import perf_counter as now
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import numpy as np  # noqa: E402
from harness import Row, beside_limit, compared, finish  # noqa: E402
from limits import ns_per_byte, sha256_ns  # noqa: E402
from peers.sglang_cache import NAME, sglang_cache  # noqa: E402
from served.trace import replay_batched, replay_single, settle, turns  # noqa: E402
from sides import BLOCK, Side, Workload, make_requests, trace_options, two_sides, workload  # noqa: E402
from tqdm import tqdm  # noqa: E402

from kvgpu.hashing.serialised.libcrypto import available  # noqa: E402
from kvgpu.hashing.serialised.messages import CBOR, PICKLE  # noqa: E402

AT_ONCE = 64
PEER_OF = {
    "sha256": "sha256",
    "sha256_cbor": "sha256_cbor",
    "xxhash": "xxhash",
    "xxhash_cbor": "xxhash_cbor",
    "kvgpu128": "sha256",
}
"""The hash function of vLLM that each is compared with."""
RELEASED = ("sha256", "sha256_cbor", "kvgpu128")
"""Those that are hashed without the interpreter's lock, as far as libcrypto can be reached."""
ONE, BATCH = "one request at a time", f"batches of {AT_ONCE}"
THREADS = 2
REPLAYED = (16, AT_ONCE)
"""Requests at a time of the replays; goals are for the last, as those of hashing."""
SHARED = f"batches of {AT_ONCE}, {THREADS} threads"
LIST, ARRAY = "from lists", "from arrays"
GOALS = {
    ("sha256", ONE, LIST): 4,
    ("sha256", BATCH, ARRAY): 12,
    ("sha256_cbor", ONE, LIST): 6,
    ("sha256_cbor", BATCH, ARRAY): 20,
    ("kvgpu128", BATCH, ARRAY): 75,
}


class Replays(NamedTuple):
    """ns a block of each turn: ours, ours with more threads that hash, the peer's."""

    alone: list[float]
    with_threads: list[float]
    peer: list[float]


def with_hash(side: Side, name: str) -> Side:
    """The side, with another hash function."""
    side.hash_fn = side.modules.get_hash_fn_by_name(name)
    side.modules.init_none_hash(side.hash_fn)
    side.hasher = side.modules.get_request_block_hasher(BLOCK, side.hash_fn)
    return side


def bare_requests(side: Side, prompts: Sequence[Any]) -> list[Any]:
    """Requests without hashes."""
    hasher, side.hasher = side.hasher, None
    try:
        return make_requests(side, prompts)
    finally:
        side.hasher = hasher


def shared(side: Side) -> Any:
    """The hasher of our side with more threads."""
    return side.modules.get_request_block_hasher(BLOCK, side.hash_fn, threads=THREADS)


def hash_ours(side: Side, way: str, requests: list[Any]) -> None:
    """Hash requests one by one, or all in one call, by one thread or more."""
    if way == SHARED:
        shared(side).update(requests)
        return
    if way == BATCH:
        side.hasher.update(requests)
        return
    for request in requests:
        side.hasher.update([request])


def check(sides: list[Side], name: str, prompt: list[int]) -> None:
    """Compare hashes of a prompt, from lists and from arrays, with what they have to be."""
    from kvgpu.hashing.functions import hash_block_tokens

    made = bare_requests(sides[0], [prompt, np.array(prompt, np.int32)])
    hash_ours(sides[0], BATCH, made)
    if name == "kvgpu128" or not sides[1].timed:
        expected, parent = [], None
        for i in range(0, len(prompt) - BLOCK + 1, BLOCK):
            parent = hash_block_tokens(sides[0].hash_fn, parent, prompt[i : i + BLOCK])
            expected.append(parent)
    else:
        expected = sides[1].hasher(bare_requests(sides[1], [prompt])[0])
    if any(request.block_hashes[:] != expected for request in made):
        raise AssertionError(f"{name}: hashes differ")


def check_threads(side: Side, prompts: Sequence[Any]) -> None:
    """Compare hashes of several threads with those of one."""
    made = [bare_requests(side, prompts) for _ in range(2)]
    for way, requests in zip((BATCH, SHARED), made, strict=True):
        hash_ours(side, way, requests)
    if any(one.block_hashes != other.block_hashes for one, other in zip(*made, strict=True)):
        raise AssertionError("several threads give other hashes than one")


def hashing(sides: list[Side], name: str, load: Workload, rounds: int) -> list[Row]:
    """Rows of one hash function."""
    prompts = load.prompts
    with_hash(sides[0], name)
    with_hash(sides[1], PEER_OF[name])
    for prompt in (*prompts[:20], list(range(-8, 40)), prompts[0][: BLOCK - 1]):
        check(sides, name, prompt)
    arrays = [np.array(prompt, np.int32) for prompt in prompts]
    ways = [(way, kind) for way in (ONE, BATCH) for kind in (LIST, ARRAY)]
    if name in RELEASED:
        ways.append((SHARED, ARRAY))
        check_threads(sides[0], arrays[:AT_ONCE])
    num_blocks = sum(len(prompt) // BLOCK for prompt in prompts)
    times: dict[tuple[str, str], list[float]] = {way: [] for way in ways}
    peer: list[float] = []
    for _ in range(rounds):
        seconds = dict.fromkeys(times, 0.0)
        peers = 0.0
        for at in range(0, len(prompts), AT_ONCE):
            part = slice(at, at + AT_ONCE)
            for way, kind in ways:
                made = bare_requests(sides[0], (prompts if kind == LIST else arrays)[part])
                start = now()
                hash_ours(sides[0], way, made)
                seconds[way, kind] += now() - start
            if not sides[1].timed:
                continue
            made = bare_requests(sides[1], prompts[part])
            start = now()
            for request in made:
                request.block_hashes.extend(sides[1].hasher(request))
            peers += now() - start
        if sides[1].timed:
            peer.append(peers / num_blocks * 1e9)
        for way, taken in seconds.items():
            times[way].append(taken / num_blocks * 1e9)
    rows = [
        compared(
            f"hash, {name}",
            ", ".join((*way, str(load))),
            "ns/block",
            taken,
            peer,
            f"{sides[1].name} {PEER_OF[name]}",
            GOALS.get((name, *way)),
        )
        for way, taken in times.items()
    ]
    best = rows[ways.index((BATCH, ARRAY))]
    if name == "kvgpu128":
        limit = 4 * BLOCK * ns_per_byte("read in order")
        rows.append(beside_limit(best, limit, "reading the tokens"))
    elif name.startswith("sha256") and available():
        kind = CBOR if name.endswith("cbor") else PICKLE
        rows.append(beside_limit(best, sha256_ns(kind), "SHA-256 of ready messages"))
    return rows


def replay(sides: list[Side], load: Workload, rounds: int, with_peers: bool) -> list[Row]:
    """The whole replay, hashing included."""
    prompts = load.prompts
    with_hash(sides[0], "kvgpu128")
    # Hits are those of equal prefixes, whatever the hash.
    with_hash(sides[1], "sha256")
    arrays = [np.array(prompt, np.int32) for prompt in prompts]
    num_blocks = sum(len(prompt) // BLOCK for prompt in prompts)
    times = {at_once: Replays([], [], []) for at_once in REPLAYED}
    cache = sglang_cache(with_peers)
    keys = [] if cache is None else cache.keys(prompts)
    others: list[float] = []
    for turn in tqdm(range(rounds + 1), disable=None, unit="replay"):
        # The first turn compares, and compiles; it is not timed.
        first = turn == 0
        requests = bare_requests(sides[1], prompts)
        settle()
        start = now()
        for request in requests:
            request.block_hashes.extend(sides[1].hasher(request))
        hashed = now() - start
        for at_once, taken in times.items():
            mine, twice = (bare_requests(sides[0], arrays) for _ in range(2))
            settle()
            alone = seconds_to_hash(sides[0].hasher, mine, at_once)
            together = seconds_to_hash(shared(sides[0]), twice, at_once)
            del twice
            ours, found, _ = replay_batched(sides[0], "full", mine, first, at_once)
            theirs, expected, _ = replay_single(sides[1], "full", requests, first, at_once)
            if first and found != expected:
                raise AssertionError("the replays differ in hits or blocks")
            rest = sum(ours.values())
            taken.alone.append((alone + rest) / num_blocks * 1e9)
            taken.with_threads.append((together + rest) / num_blocks * 1e9)
            taken.peer.append((hashed + sum(theirs.values())) / num_blocks * 1e9)
        if cache is not None:
            cache.clear()
            settle()
            start = now()
            cache.replay(keys)
            others.append((now() - start) / num_blocks * 1e9)
    del others[:1]
    rows = []
    for at_once, taken in times.items():
        for each in taken:
            del each[:1]
        named = at_once == AT_ONCE
        case = f"full, hashing included, {at_once} at once"
        peer = taken.peer if sides[1].timed else ()
        for suffix, ours, beside, name, goal in (
            ("", taken.alone, peer, sides[1].name, 20),
            ("", taken.alone, others, NAME, 3),
            (f", {THREADS} threads hash", taken.with_threads, others, NAME, None),
        ):
            if name != NAME or others:
                rows.append(
                    compared(
                        "whole replay",
                        f"{case}{suffix}, {load}",
                        "ns/block",
                        ours,
                        beside,
                        name,
                        goal if named else None,
                    )
                )
    return rows


def seconds_to_hash(hasher: Any, requests: list[Any], at_once: int) -> float:
    """Time for so many requests at once."""
    start = now()
    for part in turns(requests, at_once):
        hasher.update(part)
    return now() - start


def made(options: argparse.Namespace) -> Iterator[Row]:
    """All rows."""
    load = workload(options.trace, options.requests)
    sides = two_sides("sha256", options.peers)
    for name in tqdm(PEER_OF, disable=None, unit="function"):
        yield from hashing(sides, name, load, options.rounds)
    yield from replay(sides, load, options.rounds, options.peers)


def main() -> int:
    """Compare, measure, print, save."""
    options = trace_options(__doc__, rounds=3).parse_args()
    os.environ["PYTHONHASHSEED"] = "0"
    return finish("hashing", made(options), options)


if __name__ == "__main__":
    sys.exit(main())
