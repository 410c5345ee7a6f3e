"""What the host's table costs per key: insert, erase, find, longest prefix, and the buckets that a search reads.

    python bench/table.py [--most 4194304] [--rounds 5] [--json -]

One axis varies at a time: entries, load factor, share of hits, keys of a call, blocks of a request, cache groups,
warm or cold caches. Every answer is compared with what it has to be before it is timed. The peer of a row is
the memory: the time of the random 64-byte lines that an operation cannot do without (a hit reads two, a miss one),
at the rate that bench/limits.py finds in the same run. Exit status: 0, or 2 if an answer is wrong.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter as now
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import numba  # noqa: E402
import numpy as np  # noqa: E402
from axes import Axes, Find, Prefix  # noqa: E402
from harness import Row, benchmark_options, beside_limit, compared, finish  # noqa: E402
from limits import lines_of, ns_per_byte, ns_per_line  # noqa: E402
from tqdm import tqdm  # noqa: E402

from kvgpu.blocks.state import BlockState  # noqa: E402
from kvgpu.compiled.cache_lines import CACHE_LINE  # noqa: E402
from kvgpu.hashing.hash_arena import HashArena  # noqa: E402
from kvgpu.index.host.index import HostIndex  # noqa: E402
from kvgpu.index.host.table import bucket_of, find_first, has_overflowed  # noqa: E402
from kvgpu.index.key import key_at  # noqa: E402
from kvgpu.index.request_spans import RequestSpans  # noqa: E402
from kvgpu.index.slot_hash import slot_hash  # noqa: E402
from kvgpu.layout import BUCKET_WORDS, KEY_WORDS, OVERFLOW_WORD, num_buckets_for  # noqa: E402
from kvgpu.rules.plan import HitQuery, HitRule, PrefixPlan  # noqa: E402
from kvgpu.rules.plan_words import FULL  # noqa: E402

MIDDLE = 1 << 20
FRESH = 8
"""One key in so many is inserted and erased again."""
LARGER_THAN_CACHES = np.zeros(1 << 25, np.int64)


def axes(most: int) -> Axes:
    """The cases, none with more than so many entries."""
    middle, small = min(MIDDLE, most), min(1 << 13, most)
    entries = tuple(n for n in (1 << 13, 1 << 16, 1 << 20, 1 << 22, 1 << 24, 1 << 26) if n <= most)
    hashes = middle // 4
    lengths = [n for n in (16, 256, 8192) if n <= hashes]
    prefixes = [Prefix(hashes // n, n) for n in lengths]
    usual = Prefix(max(1, hashes // 256), min(256, hashes))
    prefixes += [
        Prefix(usual.requests, usual.blocks, *rest)
        for rest in ((2,), (4,), (1, 0.5), (1, 0.0), (1, 1.0, True), (1, 1.0, False, True))
    ]
    return Axes(
        base=Find(middle, middle),
        entries=entries,
        batches=tuple(n for n in (1, 64, 4096) if n < middle),
        cold=(small, middle),
        prefixes=tuple(prefixes),
    )


@numba.njit
def _find_all(records: Any, table: Any, keys: Any, seed: int, out: Any) -> None:
    for i in range(len(keys)):
        key = key_at(keys, i, 0)
        out[i] = find_first(records, table, key, slot_hash(key, seed))


@numba.njit
def _buckets_read(table: Any, keys: Any, words: Any, seed: int) -> int:
    """Buckets that the search for keys reads; the low half of words[i] is 1 + the block that it finds, or 0."""
    total = 0
    for i in range(len(keys)):
        h = slot_hash(key_at(keys, i, 0), seed)
        bucket = bucket_of(h, len(table))
        looking = True
        while looking:
            total += 1
            looking = has_overflowed(table, bucket, h)
            if words[i] != 0:
                looking = not (table[bucket, :OVERFLOW_WORD] & 0xFFFFFFFF == words[i]).any()
            bucket = (bucket + 1) % len(table)
    return total


def empty_caches() -> None:
    """Read more than the processor's caches hold."""
    LARGER_THAN_CACHES.sum()


def timed(run: Callable[[], Any], count: int, rounds: int, cold: bool) -> list[float]:
    """ns per key of so many calls for `count` keys."""
    times = []
    for _ in range(rounds if count > 100 else 50 * rounds):
        if cold:
            empty_caches()
        start = now()
        run()
        times.append((now() - start) / count * 1e9)
    return times


class Filled:
    """An index with so many keys, and those keys."""

    def __init__(self, entries: int, load: float) -> None:
        rng = np.random.default_rng(entries)
        self.keys = rng.integers(-(2**63), 2**63 - 1, (entries, KEY_WORDS))
        self.state = BlockState(entries)
        self.state.adopt_width(8 * KEY_WORDS)
        self.index = HostIndex(self.state)
        self.index.table = np.zeros((num_buckets_for(entries, load), BUCKET_WORDS), np.int64)
        self.ids = np.arange(entries, dtype=np.int32)
        self.index.insert(self.ids, self.keys, 1, 0, 0)
        self.rng = rng

    def lines(self, kind: str, of_table: float, of_records: float) -> float:
        """ns that memory takes for so many random lines of each."""
        records = CACHE_LINE * self.state.num_blocks
        return of_table * ns_per_line(kind, lines_of(self.index.nbytes)) + (
            of_records * ns_per_line(kind, lines_of(records))
        )

    def asked(self, case: Find) -> tuple[Any, Any]:
        """Keys of a call, and the ids they lead to."""
        places = self.rng.integers(0, case.entries, case.batch)
        keys = self.keys[places]
        missing = self.rng.permutation(case.batch) >= round(case.match * case.batch)
        keys[missing, 0] ^= 1
        return keys, np.where(missing, -1, places).astype(np.int32)


def beside_memory(metric: str, case: Any, times: list[float], limit: float, name: str) -> Row:
    """A row whose peer is what the memory takes."""
    return beside_limit(compared(metric, str(case), "ns/key", times), limit, name)


def finds(filled: Filled, case: Find, rounds: int) -> Iterator[Row]:
    """One case of lookups; with whole batches also the buckets that are read."""
    index = filled.index
    keys, expected = filled.asked(case)
    out = np.empty(case.batch, np.int32)

    def run() -> None:
        _find_all(filled.state.records, index.table, keys, index.seed, out)

    run()
    assert np.array_equal(out, expected), f"find: wrong blocks, {case}"
    times = timed(run, case.batch, rounds, case.cold)
    limit = filled.lines("read", 1, case.match)
    yield beside_memory("find", case, times, limit, f"{1 + case.match:g} random line{'s' if case.match else ''}")
    if case.batch == case.entries and case.match in (0, 1) and not case.cold:
        total = _buckets_read(index.table, keys, expected.astype(np.int64) + 1, index.seed)
        yield Row("buckets read", str(case), "buckets/key", total / case.batch)


def changes(filled: Filled, load: float, rounds: int) -> Iterator[Row]:
    """A part of the keys leaves and comes back."""
    index = filled.index
    count = len(filled.keys) // FRESH
    if count < 100:
        return
    part = filled.rng.permutation(len(filled.keys))[:count]
    ids, keys = filled.ids[part], np.ascontiguousarray(filled.keys[part])
    out = np.empty(count, np.int32)
    times: dict[str, list[float]] = {"erase": [], "insert": []}
    for _ in range(rounds + 1):
        for name, run in (("erase", lambda: index.erase(ids)), ("insert", lambda: index.insert(ids, keys, 1, 0, 0))):
            start = now()
            run()
            times[name].append((now() - start) / count * 1e9)
            _find_all(filled.state.records, index.table, keys, index.seed, out)
            assert np.array_equal(out, ids if name == "insert" else np.full(count, -1)), (
                f"{name}: the table does not say so"
            )
    limit = filled.lines("change", 1, 1)
    case = f"{len(filled.keys):,} entries, load {load:g}, {count:,} keys"
    for name, taken in times.items():
        # The first compiles.
        yield beside_memory(name, case, taken[1:], limit, "2 random lines changed")


def prefixes(case: Prefix, rounds: int) -> Row:
    """Longest prefixes of requests whose blocks were cached one after the other."""
    rng = np.random.default_rng(0)
    num_hashes = case.requests * case.blocks
    state = BlockState(num_hashes * case.groups)
    state.adopt_width(8 * KEY_WORDS)
    index = HostIndex(state)
    arena = HashArena(num_hashes)
    arena.words[:] = rng.integers(-(2**63), 2**63 - 1, arena.words.shape)
    begins = np.arange(case.requests, dtype=np.int64) * case.blocks
    cached = round(case.match * case.blocks)
    ids = rng.permutation(state.num_blocks) if case.scattered else np.arange(state.num_blocks)
    ids = ids.astype(np.int32).reshape(case.requests, case.groups, case.blocks)
    for request, begin in enumerate(begins.tolist()):
        words = arena.words[begin : begin + cached]
        for group in range(case.groups):
            index.insert(ids[request, group, :cached], words, 1, group, 0)
    rule = HitRule(FULL, 1, 1)
    plan = PrefixPlan((HitQuery(rule, tuple(range(case.groups))),))
    spans = RequestSpans.in_arena(begins, begins + case.blocks, case.blocks)

    def run() -> Any:
        return index.match_batch(plan, arena, spans).num_tokens

    assert (run() == cached).all(), f"longest prefix: wrong lengths, {case}"
    # The first block that is missing is looked for, too.
    looked_up = case.requests * min(cached + 1, case.blocks)
    times = timed(run, looked_up, rounds, case.cold)
    # A hash of 32 bytes, and the record of a block in each group.
    limit = (32 + CACHE_LINE * case.groups) * ns_per_byte("read in order")
    name = f"{32 + CACHE_LINE * case.groups} bytes in order"
    if case.scattered:
        records = lines_of(state.records.nbytes)
        limit, name = ns_per_line("read", records), "1 random line"
    row = compared("longest prefix", str(case), "ns/block", times)
    return beside_limit(row, limit, name) if case.match == 1 else row


def made(options: argparse.Namespace) -> Iterator[Row]:
    """All rows."""
    cases = axes(options.most)
    filled, key = None, None
    for case in tqdm(list(cases.finds()), disable=None, unit="case"):
        if key != (case.entries, case.load):
            filled = None  # before the next one is made
            key = (case.entries, case.load)
            filled = Filled(*key)
            yield from changes(filled, case.load, options.rounds)
        assert filled is not None
        yield from finds(filled, case, options.rounds)
    for prefix in tqdm(cases.prefixes, disable=None, unit="case"):
        yield prefixes(prefix, options.rounds)


def main() -> int:
    """Check, measure, print, save."""
    parser = benchmark_options(__doc__, rounds=5)
    parser.add_argument("--most", type=int, default=1 << 22, help="entries; up to 2**26 are tried")
    options = parser.parse_args()
    return finish("table", made(options), options)


if __name__ == "__main__":
    sys.exit(main())
