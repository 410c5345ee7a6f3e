"""How many buckets a lookup reads, and how many rounds a warp needs for that, by load: a simulation of the table.

    python bench/on_gpu/designs/rounds.py [--buckets N]

A round is one bucket for each lane of a warp. Prints a line for each load, of hits and of misses: buckets a key; then,
for three kinds of warps, rounds for a key of each lane, and the share of lanes that have work in a round. Warps take 32
or 64 keys and wait for the last of them, or their lanes take their next key when they are done: 31 keys each, which are
2^22 keys on 1,024 lanes of each of 132 processors.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
if __name__ == "__main__":
    sys.path[:1] = [str(HERE.parents[2])]

import numba  # noqa: E402
import numpy as np  # noqa: E402

from kvgpu.layout import OVERFLOW_COUNTERS, SLOTS_PER_BUCKET  # noqa: E402

LOADS = (0.5, 0.7, 0.8, 0.9)
LANES = 32
IN_TURN = 2**22 // (132 * 1024)
"""Keys of a lane that takes one after the other."""


@numba.njit
def filled(buckets: Any, counters: Any, num_buckets: int) -> tuple[Any, Any]:
    """Enter keys one after the other, each in the first bucket from its own on that has room.

    Returns:
        int32 [keys]: buckets that a lookup of each reads. int32 [num_buckets, counters]: how many keys have passed.
    """
    used = np.zeros(num_buckets, np.int32)
    passed = np.zeros((num_buckets, OVERFLOW_COUNTERS), np.int32)
    reads = np.zeros(len(buckets), np.int32)
    for i in range(len(buckets)):
        bucket, count = buckets[i], 1
        while used[bucket] == SLOTS_PER_BUCKET:
            passed[bucket, counters[i]] += 1
            bucket = (bucket + 1) % num_buckets
            count += 1
        used[bucket] += 1
        reads[i] = count
    return reads, passed


@numba.njit
def missed(buckets: Any, counters: Any, passed: Any) -> Any:
    """Buckets that a lookup of a key which is not there reads, int32 [keys]."""
    reads = np.zeros(len(buckets), np.int32)
    for i in range(len(buckets)):
        bucket, count = buckets[i], 1
        while passed[bucket, counters[i]] > 0 and count < len(passed):
            bucket = (bucket + 1) % len(passed)
            count += 1
        reads[i] = count
    return reads


def lookups(load: float, num_buckets: int, seed: int = 1) -> dict[str, Any]:
    """Buckets that lookups of random keys read, by what they find."""
    rng = np.random.default_rng(seed)
    count = int(num_buckets * SLOTS_PER_BUCKET * load)

    def hashes() -> tuple[Any, Any]:
        return rng.integers(0, num_buckets, count), rng.integers(0, OVERFLOW_COUNTERS, count)

    hits, passed = filled(*hashes(), num_buckets)
    return {"hit": rng.permutation(hits), "miss": missed(*hashes(), passed)}


def rounds_together(reads: Any, keys: int) -> float:
    """Rounds of a warp that takes so many keys at once and waits for all of them, on average."""
    return float(reads[: len(reads) // keys * keys].reshape(-1, keys).max(axis=1).mean())


def rounds_in_turn(reads: Any) -> float:
    """Rounds of a warp for a key of each lane, if a lane does not wait for others until it has no more keys."""
    size = LANES * IN_TURN
    of_lanes = reads[: len(reads) // size * size].reshape(-1, LANES, IN_TURN).sum(axis=2)
    return float(of_lanes.max(axis=1).mean()) / IN_TURN


def main() -> None:
    """Print all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--buckets", type=int, default=2**20)
    options = parser.parse_args()
    for load in LOADS:
        for kind, reads in lookups(load, options.buckets).items():
            mean = float(reads.mean())
            designs = {
                "32": rounds_together(reads, 32),
                "64": rounds_together(reads, 64),
                "in turn": rounds_in_turn(reads),
            }
            words = [f"{name}: {rounds:.2f} rounds, {mean / rounds:.0%} at work" for name, rounds in designs.items()]
            print(f"load {load} {kind:<4} {mean:.3f} buckets a key; {'; '.join(words)}")


if __name__ == "__main__":
    main()
