"""Counts equal hashes of kvgpu128 among structured blocks: counters, equal sums, swaps, shifts, repetitions.

    python bench/collisions.py [--blocks 100000000] [--json -]

Each 64-bit half of the hashes is looked at on its own: among n different blocks n**2 / 2**65 equal halves are
expected, 0.0003 for 10**8. Needs 16 bytes a block, and some minutes for 10**8. No two blocks are the same.
Exit status: 0 none are equal, 1 some are.
"""

import sys
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import numpy as np  # noqa: E402
import numpy.typing as npt  # noqa: E402
from harness import Row, benchmark_options, finish  # noqa: E402
from tqdm import tqdm  # noqa: E402

from kvgpu.hashing.bulk.chains import Blocks  # noqa: E402
from kvgpu.hashing.kvgpu128.function import Kvgpu128  # noqa: E402

SIZE = 16
CHUNK = 1 << 20
KEY = bytes(range(32))
HALF = 1 << 30

Tokens = npt.NDArray[np.int32]


def counters(numbers: npt.NDArray[np.int64]) -> Tokens:
    """One token counts, the others are 0."""
    blocks = np.zeros((len(numbers), SIZE), np.int32)
    blocks[:, 0] = numbers
    return blocks


def equal_sums(numbers: npt.NDArray[np.int64]) -> Tokens:
    """Two tokens of different words with a constant sum."""
    blocks = np.zeros((len(numbers), SIZE), np.int32)
    blocks[:, 2], blocks[:, 9] = numbers, HALF - numbers
    return blocks


def swapped(numbers: npt.NDArray[np.int64]) -> Tokens:
    """Pairs of tokens, and behind each the same pair the other way round."""
    blocks = np.zeros((len(numbers), SIZE), np.int32)
    first, second = 2 * (numbers // 2), HALF - 1 - numbers // 2
    odd = numbers % 2 == 1
    blocks[:, 5], blocks[:, 6] = np.where(odd, second, first), np.where(odd, first, second)
    return blocks


def shifted(numbers: npt.NDArray[np.int64]) -> Tokens:
    """Windows over consecutive numbers."""
    return (numbers[:, None] + np.arange(SIZE)).astype(np.int32)


FAMILIES: dict[str, Callable[[npt.NDArray[np.int64]], Tokens]] = {
    "counters": counters,
    "equal sums": equal_sums,
    "swapped pairs": swapped,
    "shifted windows": shifted,
}


def first_blocks(hash_fn: Kvgpu128, blocks: Tokens) -> npt.NDArray[np.uint64]:
    """Hashes of blocks that all are the first of a prefix, uint64 [n, 2]: chains of one block each."""
    lines = list(blocks)
    ones = [1] * len(lines)
    rows = hash_fn.hashes(Blocks(lines, ones, len(lines), SIZE, [bytes(16)] * len(lines), None))
    return rows[:, :2].view(np.uint64)


def repeated(hash_fn: Kvgpu128, count: int) -> npt.NDArray[np.uint64]:
    """Hashes of one prefix that repeats the same block."""
    tokens = np.full(count * SIZE, 7, np.int32)
    rows = hash_fn.hashes(Blocks([tokens], [count], count, SIZE, [bytes(16)], None))
    return rows[:, :2].view(np.uint64)


def num_equal(halves: npt.NDArray[np.uint64]) -> int:
    """Equal neighbours after sorting in place."""
    halves.sort()
    return int((halves[1:] == halves[:-1]).sum())


def main() -> int:
    """Hash, count, print, save."""
    parser = benchmark_options(__doc__)
    parser.add_argument("--blocks", type=int, default=100_000_000)
    options = parser.parse_args()
    hash_fn = Kvgpu128(KEY)
    each = options.blocks // (len(FAMILIES) + 1)
    halves = np.empty((2, each * (len(FAMILIES) + 1)), np.uint64)
    at = 0
    with tqdm(total=halves.shape[1], disable=None, unit="block") as bar:
        for family in FAMILIES.values():
            for begin in range(0, each, CHUNK):
                numbers = np.arange(begin + 1, min(begin + CHUNK, each) + 1, dtype=np.int64)
                found = first_blocks(hash_fn, family(numbers))
                halves[:, at : at + len(found)] = found.T
                at += len(found)
                bar.update(len(found))
        halves[:, at:] = repeated(hash_fn, each).T
        bar.update(each)
    case = f"{halves.shape[1]:,} structured blocks"
    rows = []
    for name, half in zip(("low half", "high half"), halves, strict=True):
        equal = num_equal(half)
        rows.append(Row(f"equal hashes, {name}", case, "pairs", equal, goal="0", met=equal == 0))
    return finish("collisions", rows, options)


if __name__ == "__main__":
    sys.exit(main())
