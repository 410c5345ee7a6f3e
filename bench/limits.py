"""What the memory of this machine allows: the rates that a table in it is held against.

    python bench/limits.py [--most 1073741824] [--rounds 5] [--json -]

Random 64-byte lines, read or written back changed, when the processor may overlap as many as it can; the latency
of one that depends on the one before. Each by size of the working set. Then reading and copying in order, and
SHA-256 of messages of blocks that are ready, by the function that kvgpu calls.
"""

import argparse
import hashlib
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from time import perf_counter as now
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import numba  # noqa: E402
import numpy as np  # noqa: E402
from harness import Row, benchmark_options, compared, finish  # noqa: E402
from tqdm import tqdm  # noqa: E402

from kvgpu.hashing.serialised.libcrypto import CONTEXT_WORDS, DIGEST_BYTES, available, digest, padded  # noqa: E402
from kvgpu.hashing.serialised.messages import CBOR, PICKLE, build  # noqa: E402

LINE = 64
WORDS = LINE // 8
ACCESSES = 1 << 20
SIZES = tuple(1 << power for power in range(16, 31, 2))
COPIED = 1 << 28
MESSAGES = 20_000
A, C = 6364136223846793005, 1442695040888963407


@numba.njit
def _read(words: Any, mask: int, count: int, x: int) -> int:
    """The sum of words of random lines."""
    total = 0
    for _ in range(count):
        x = x * A + C
        total += words[((x >> 33) & mask) * WORDS]
    return total


@numba.njit
def _change(words: Any, mask: int, count: int, x: int) -> int:
    """Add one to words of random lines."""
    for _ in range(count):
        x = x * A + C
        words[((x >> 33) & mask) * WORDS] += 1
    return x


@numba.njit
def _chase(words: Any, mask: int, count: int, line: int) -> int:
    """Follow lines that name the next one."""
    for _ in range(count):
        line = words[line * WORDS]
    return line


KINDS = {"read": _read, "change": _change, "chase": _chase}


def lines_of(nbytes: int) -> int:
    """Lines of a working set, the power of two next to it."""
    return 1 << max(0, round(np.log2(max(1, nbytes / LINE))))


def measure(kind: str, nbytes: int, rounds: int) -> list[float]:
    """ns per random line of a working set of so many bytes.

    Raises:
        AssertionError: The loop did not do what it should.
    """
    lines = lines_of(nbytes)
    words = np.zeros(lines * WORDS, np.int64)
    words[:] = 0  # pages that nobody wrote to are all the same one
    if kind == "chase":
        # One cycle through all lines: a step cannot be foreseen.
        order = np.random.default_rng(0).permutation(lines)
        words[order * WORDS] = np.roll(order, -1)
    run = KINDS[kind]
    count = max(ACCESSES, lines)
    run(words, lines - 1, count, 1)
    if kind == "change":
        assert words.sum() == count, "changes were lost"
    times = []
    for turn in range(rounds):
        start = now()
        run(words, lines - 1, ACCESSES, turn if kind != "chase" else turn % lines)
        times.append((now() - start) / ACCESSES * 1e9)
    return times


@cache
def ns_per_line(kind: str, lines: int) -> float:
    """The median, measured once a process."""
    return float(np.median(measure(kind, lines * LINE, 5)))


def in_order(rounds: int) -> dict[str, list[float]]:
    """ns per byte read; and per byte copied, which is read once and written once."""
    source = np.ones(COPIED // 8, np.int64)
    target = np.empty_like(source)
    times: dict[str, list[float]] = {"read in order": [], "copy in order": []}
    for _ in range(rounds + 1):
        start = now()
        total = int(source.sum())
        times["read in order"].append((now() - start) / COPIED * 1e9)
        start = now()
        np.copyto(target, source)
        times["copy in order"].append((now() - start) / COPIED * 1e9)
        assert total == len(source) == target.sum(), "not everything was read or copied"
    return {name: taken[1:] for name, taken in times.items()}


@cache
def ns_per_byte(what: str) -> float:
    """The median, measured once a process; what: a key of `in_order`."""
    return float(np.median(in_order(5)[what]))


@numba.njit
def _digests(message: Any, end: int, count: int, out: Any) -> None:
    """SHA-256 of the same message, again and again."""
    context = np.empty(CONTEXT_WORDS, np.uint32)
    for _ in range(count):
        digest(context, message, end, out)


def sha256_of_ready_messages(kind: int, rounds: int) -> list[float]:
    """ns per message of a block of 16 tokens."""
    tokens = tuple(range(100_000, 100_016))
    parent = bytes(range(32))
    data = build(kind, parent, tokens, None)
    message = np.zeros(padded(len(data)), np.uint8)
    message[: len(data)] = np.frombuffer(data, np.uint8)
    out = np.empty(DIGEST_BYTES, np.uint8)
    times = []
    for _ in range(rounds + 1):
        start = now()
        _digests(message, len(data), MESSAGES, out)
        times.append((now() - start) / MESSAGES * 1e9)
        assert out.tobytes() == hashlib.sha256(data).digest(), "this is not SHA-256"
    return times[1:]


@cache
def sha256_ns(kind: int) -> float:
    """The median, measured once a process."""
    return float(np.median(sha256_of_ready_messages(kind, 5)))


def made(options: argparse.Namespace) -> Iterator[Row]:
    """All rows."""
    for nbytes in tqdm([n for n in SIZES if n <= options.most], disable=None, unit="size"):
        for kind in KINDS:
            times = measure(kind, nbytes, options.rounds)
            case = f"working set of {nbytes >> 10:,} KiB"
            yield compared(f"random line, {kind}", case, "ns/line", times)
    for name, times in in_order(options.rounds).items():
        yield compared(name, f"{COPIED >> 20} MiB", "ns/byte", times)
    if available():
        for kind, name in ((PICKLE, "sha256"), (CBOR, "sha256_cbor")):
            times = sha256_of_ready_messages(kind, options.rounds)
            yield compared("SHA-256", f"ready messages of {name}", "ns/block", times)


def main() -> int:
    """Measure, print, save."""
    parser = benchmark_options(__doc__, rounds=5)
    parser.add_argument("--most", type=int, default=SIZES[-1], help="bytes of a working set")
    options = parser.parse_args()
    return finish("limits", made(options), options)


if __name__ == "__main__":
    sys.exit(main())
