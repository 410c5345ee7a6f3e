"""A pool that serves made-up requests, as many as one likes, and what makes it old: it shuffles its free blocks."""

from collections import Counter
from time import perf_counter as now
from types import SimpleNamespace
from typing import Any

import numpy as np
from served.trace import ALL_BUT_FREE, WHOLE
from sides import BLOCK

from kvgpu.batch.manager import BatchManager
from kvgpu.hashing.block_hashes import BlockHashes
from kvgpu.layout import HASH_MULTIPLIER, KEY_WORDS

AT_ONCE, KEPT, ROWS = 16, 48, 96
NUM_DOCUMENTS, SHORTEST, LONGEST = 1500, 200, 1500
OWN_LEAST, OWN_MOST = 10, 900
HASH_BYTES = 8 * KEY_WORDS
DECODE = 3
"""Steps of a block each between the arrival of requests."""


class Traffic:
    """Requests that begin with a part of one of many documents, some of which are asked for often, and end with blocks
    of their own. Hashes are random numbers."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        lengths = self._random.integers(SHORTEST, LONGEST, NUM_DOCUMENTS)
        self._documents = [self._keys(int(length)) for length in lengths]
        self._own = self._keys(1 << 16)
        popularity = 1 / np.arange(1, NUM_DOCUMENTS + 1) ** 0.9
        self._choices = self._random.choice(NUM_DOCUMENTS, 1 << 16, p=popularity / popularity.sum())
        self.count = 0

    def _keys(self, count: int) -> np.ndarray:
        return self._random.integers(-(2**62), 2**62, (count, KEY_WORDS))

    def take(self, count: int) -> list[Any]:
        """The next requests."""
        return [self._next() for _ in range(count)]

    def _next(self) -> Any:
        self.count += 1
        document = self._documents[self._choices[self.count % len(self._choices)]]
        shared, own = self._random.integers((1, OWN_LEAST), (len(document), OWN_MOST)).tolist()
        begin = self.count % (len(self._own) - OWN_MOST)
        keys = np.concatenate([document[:shared], self._own[begin : begin + own]])
        keys[shared:, 0] ^= self.count * HASH_MULTIPLIER % 2**62
        num_tokens = BLOCK * len(keys) + 5
        return SimpleNamespace(
            request_id=f"r{self.count}",
            block_hashes=BlockHashes.of_keys(keys, HASH_BYTES, linked=True),
            num_tokens=num_tokens,
            num_prompt_tokens=num_tokens,
            num_computed_tokens=0,
            num_preemptions=0,
            skip_reading_prefix_cache=False,
        )


class ServedPool:
    """A pool whose requests decode in step and leave in no order."""

    def __init__(self, manager: Any, seed: int) -> None:
        self.manager = manager
        self.batch = BatchManager(manager, ROWS, ROWS * (LONGEST + OWN_MOST))
        self._random = np.random.default_rng(seed)
        self._num_blocks = np.zeros(ROWS, np.int64)
        self._live = np.empty(0, np.int64)

    def serve(self, requests: list[Any]) -> Counter[str]:
        """Admit requests, let all decode, and let some leave; returns ns and blocks, by operation.

        Raises:
            AssertionError: The pool is too small.
        """
        done: Counter[str] = Counter()
        rows = self.batch.track(requests)
        self._num_blocks[rows] = [len(request.block_hashes) for request in requests]
        self._time(done, ALL_BUT_FREE, rows, self._admit)
        self._live = np.concatenate([self._live, rows])
        for _ in range(DECODE):
            assert self.batch.allocate_batch(self._live, BLOCK, delay_cache_blocks=True).fits.all()
        self._num_blocks[self._live] += DECODE
        leaving = self._random.permutation(len(self._live))[KEPT:]
        if len(leaving):
            gone, self._live = self._live[leaving], np.delete(self._live, leaving)
            self._time(done, "free", gone, self.batch.free_batch)
            self.batch.untrack(gone)
        return done

    def _admit(self, rows: Any) -> None:
        assert self.batch.allocate_batch(rows, WHOLE).fits.all()

    def _time(self, done: Counter[str], name: str, rows: Any, operation: Any) -> None:
        start = now()
        operation(rows)
        done[f"{name}, ns"] += int((now() - start) * 1e9)
        done[f"{name}, blocks"] += int(self._num_blocks[rows].sum())

    def leave(self) -> None:
        """Let all requests leave."""
        self.batch.free_batch(self._live)
        self.batch.untrack(self._live)
        self._live = self._live[:0]


def ns_per_block(pool: ServedPool, traffic: Traffic, steps: int) -> dict[str, float]:
    """Cost of a block in a pool by operation, over some steps."""
    done: Counter[str] = Counter()
    for _ in range(steps):
        done += pool.serve(traffic.take(AT_ONCE))
    return {name: done[f"{name}, ns"] / done[f"{name}, blocks"] for name in (ALL_BUT_FREE, "free")}
