"""Self-test of a manager on a backend: random requests, for which its answers must equal those of a plain cache."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from kvgpu.batch.queries import BatchQueries
from kvgpu.device.selftest import expect
from kvgpu.doctor.plain_cache import Admission, PlainCache
from kvgpu.hashing.functions import init_none_hash, sha256
from kvgpu.hashing.request_hasher import get_request_block_hasher
from kvgpu.index.device.auto import AutoIndex
from kvgpu.manager import KVCacheManager
from kvgpu.replay.group_names import block_sizes_of, parse_groups
from kvgpu.request import Request

BLOCK_SIZE = 4
MAX_RUNNING = 4
WAITING = 3
"""Number of requests in the bulk lookup."""
AUTO_CROSSOVER = 5
"""Number of blocks from which `auto` uses its device here, so that both the host and the device answer."""
HYBRID = "full+swa:10"


class ManagerSide:
    """A manager with the methods of `PlainCache`.

    Args:
        backend: Backend of its index.
        num_blocks: Blocks of the pool.
        groups: Names of its cache groups.
    """

    def __init__(self, backend: str, num_blocks: int, groups: str = "full") -> None:
        config = parse_groups(groups, BLOCK_SIZE, num_blocks)
        self.manager = KVCacheManager(config, 4096, *block_sizes_of(config), backend=backend)
        index = self.manager.block_pool.index
        self._auto = index if isinstance(index, AutoIndex) and index.answers else None
        if self._auto is not None:
            self._auto.crossover = AUTO_CROSSOVER

    @property
    def num_evictions(self) -> int:
        return self.manager.block_pool.allocator.num_evictions

    def admit(self, request: Request) -> Admission:
        """Allocate slots for all tokens of a new request. Waits for the device, if there is one."""
        computed, hit_tokens = self.manager.get_computed_blocks(request)
        missing = request.num_tokens - hit_tokens
        new = self.manager.allocate_slots(request, missing, hit_tokens, computed)
        ids = None if new is None else new.get_block_ids()
        return Admission(hit_tokens, computed.get_block_ids(), ids)

    def free(self, request: Request) -> None:
        """Free the blocks of a request."""
        self.manager.free(request)

    def hit_tokens(self, requests: Sequence[Any]) -> list[int]:
        """Return the length of the cached prefix of each request, found in one call. Waits for the device."""
        queries = BatchQueries(self.manager, len(requests), 1_000)
        found: list[int] = queries.match(queries.track(requests)).num_tokens.tolist()
        return found

    def check(self) -> None:
        """Check the state of the manager. O(blocks); waits for the device.

        Raises:
            InvariantError: The state is broken, or `auto` has stopped using its device.
        """
        self.manager.check()
        if self._auto is not None:
            expect(f"`auto` gave its device up: {self._auto.reason}", self._auto.answers)


class ManagerTest:
    """Serves random requests, and compares hits, block ids and evictions at every step.

    Full attention is compared with `PlainCache`, a hybrid with a manager on `reference`.

    Args:
        backend: Backend of the index.
        num_blocks: Blocks of the pool: few, so that blocks are evicted.
        num_requests: Number of requests to serve for each kind of attention.

    Raises:
        DeviceError, MissingPackageError: The backend cannot be used here.
    """

    def __init__(self, backend: str, num_blocks: int = 200, num_requests: int = 80) -> None:
        self.num_blocks, self.num_requests = num_blocks, num_requests
        self.rng = np.random.default_rng(0)
        init_none_hash(sha256)
        self.hasher = get_request_block_hasher(BLOCK_SIZE, sha256)
        longest = num_blocks * BLOCK_SIZE // 5
        self.documents = self.rng.integers(0, 50_000, (3, longest))
        self.pairs: list[tuple[ManagerSide, PlainCache | ManagerSide]] = [
            (ManagerSide(backend, num_blocks), PlainCache(num_blocks, BLOCK_SIZE))
        ]
        if backend != "reference":
            tested, right = (ManagerSide(name, num_blocks, HYBRID) for name in (backend, "reference"))
            self.pairs.append((tested, right))

    def run(self) -> None:
        """Run the whole test. Waits for the device, if there is one.

        Raises:
            InvariantError: An answer is wrong; the message says which.
        """
        for tested, truth in self.pairs:
            self._serve(tested, truth)

    def _serve(self, tested: ManagerSide, truth: PlainCache | ManagerSide) -> None:
        running: list[Request] = []
        for number in range(self.num_requests):
            while len(running) == MAX_RUNNING or (running and self.rng.random() < 0.3):
                leaving = running.pop(int(self.rng.integers(len(running))))
                tested.free(leaving)
                truth.free(leaving)
            request = self._request(f"r{number}")
            got, expected = tested.admit(request), truth.admit(request)
            for what, given, right in zip(("hit tokens", "hit blocks", "new blocks"), got, expected, strict=True):
                expect(f"{what} of request {number}: {right} are right, not {given}", given == right)
            if expected.new is not None:
                running.append(request)
        waiting = [self._request(f"w{number}") for number in range(WAITING)]
        many, each = tested.hit_tokens(waiting), truth.hit_tokens(waiting)
        expect(f"hit tokens of {WAITING} requests at once: {each} are right, not {many}", many == each)
        evictions = tested.num_evictions, truth.num_evictions
        expect(f"{evictions[1]} evictions are right, not {evictions[0]}", len({*evictions}) == 1)
        tested.check()

    def _request(self, name: str) -> Request:
        """Make a request: a part of a document, often with a unique tail."""
        document = self.documents[self.rng.integers(len(self.documents))]
        part = document[: self.rng.integers(1, len(document))].tolist()
        tail = self.rng.integers(0, 50_000, self.rng.integers(0, 2 * BLOCK_SIZE)).tolist()
        return Request(name, part + tail, block_hasher=self.hasher)
