"""A pool that serves made-up requests, as many as one likes, and what makes it old: it shuffles its free blocks."""

from collections import Counter
from time import thread_time as now
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
    """A pool whose requests decode in step and leave in no order. Subclasses say how it is asked."""

    def __init__(self, manager: Any, seed: int) -> None:
        self.manager = manager
        self._random = np.random.default_rng(seed)
        self._live: list[Any] = []

    def serve(self, requests: list[Any]) -> Counter[str]:
        """Admit requests, let all decode, and let some leave; returns ns of CPU time and blocks, by operation.

        Raises:
            AssertionError: The pool is too small.
        """
        done: Counter[str] = Counter()
        new = self._enter(requests)
        self._time(done, ALL_BUT_FREE, new, self._admit)
        self._live += new
        for _ in range(DECODE):
            self._decode(self._live)
        order = self._random.permutation(len(self._live)).tolist()
        gone = [self._live[place] for place in order[KEPT:]]
        self._live = [self._live[place] for place in order[:KEPT]]
        if gone:
            self._time(done, "free", gone, self._free)
            self._forget(gone)
        return done

    def leave(self) -> None:
        """Let all requests leave."""
        self._free(self._live)
        self._forget(self._live)
        self._live = []

    def _time(self, done: Counter[str], name: str, live: list[Any], operation: Any) -> None:
        num_blocks = sum(map(self._blocks_of, live))
        start = now()
        operation(live)
        done[f"{name}, ns"] += int((now() - start) * 1e9)
        done[f"{name}, blocks"] += num_blocks


class BatchedPool(ServedPool):
    """Asked for many requests at once, with their hashes in arrays; what lives is rows."""

    case = f"{AT_ONCE} at once"

    def __init__(self, manager: Any, seed: int) -> None:
        super().__init__(manager, seed)
        self._batch = BatchManager(manager, ROWS, ROWS * (LONGEST + OWN_MOST))

    def _enter(self, requests: list[Any]) -> list[Any]:
        return self._batch.track(requests).tolist()

    def _blocks_of(self, row: int) -> int:
        # Before the prompt has slots, and after it and the decoded tokens have.
        record = self._batch.rows.records[row]
        return max(int(record["num_tokens"]), int(record["num_computed"])) // BLOCK

    def _admit(self, rows: list[Any]) -> None:
        assert self._batch.allocate_batch(np.array(rows), WHOLE).fits.all()

    def _decode(self, rows: list[Any]) -> None:
        assert self._batch.allocate_batch(np.array(rows), BLOCK, delay_cache_blocks=True).fits.all()

    def _free(self, rows: list[Any]) -> None:
        self._batch.free_batch(np.array(rows, np.int64))

    def _forget(self, rows: list[Any]) -> None:
        self._batch.untrack(np.array(rows, np.int64))


class EnginePool(ServedPool):
    """Asked as an engine asks: one call a request, with its hashes in a list of bytes; what lives is requests."""

    case = "one call a request, hashes in lists"

    def _enter(self, requests: list[Any]) -> list[Any]:
        for request in requests:
            request.block_hashes = list(request.block_hashes)
        return requests

    def _blocks_of(self, request: Any) -> int:
        return max(request.num_tokens, request.num_computed_tokens) // BLOCK

    def _admit(self, requests: list[Any]) -> None:
        for request in requests:
            blocks, hit = self.manager.get_computed_blocks(request)
            assert self.manager.allocate_slots(request, request.num_tokens - hit, hit, blocks) is not None
            request.num_computed_tokens = request.num_tokens

    def _decode(self, requests: list[Any]) -> None:
        for request in requests:
            assert self.manager.allocate_slots(request, BLOCK, delay_cache_blocks=True) is not None
            request.num_computed_tokens += BLOCK

    def _free(self, requests: list[Any]) -> None:
        for request in requests:
            self.manager.free(request)

    def _forget(self, requests: list[Any]) -> None:
        """The manager remembers nothing."""


def ns_per_block(pool: ServedPool, traffic: Traffic, steps: int) -> dict[str, float]:
    """Cost of a block in a pool by operation, over some steps."""
    done: Counter[str] = Counter()
    for _ in range(steps):
        done += pool.serve(traffic.take(AT_ONCE))
    return {name: done[f"{name}, ns"] / done[f"{name}, blocks"] for name in (ALL_BUT_FREE, "free")}
