"""Each policy evicts the blocks that a few lines of Python say, whatever happens to the blocks."""

import copy
import random
from types import SimpleNamespace

import numpy as np
import pytest
from eviction.keys import hash_of, key_of
from eviction.plain import POLICIES
from support.managers import HEADS, full, make_manager, make_request, per_backend

from kvgpu.block_pool import BlockPool
from kvgpu.config.specs import SinkFullAttentionSpec
from kvgpu.errors import BlockStateError, UnknownNameError
from kvgpu.eviction.names import EVICTIONS
from kvgpu.eviction.policy import KINDS
from kvgpu.rules.plan import HitQuery, HitRule, PrefixPlan
from kvgpu.rules.plan_words import FULL

every_policy = pytest.mark.parametrize("name", POLICIES)

ONE_GROUP = PrefixPlan((HitQuery(HitRule(FULL, 16, 16), (0,)),))


class Twins:
    """A pool with a policy, and the same in plain Python."""

    def __init__(self, name, num_blocks, seed):
        self.rng = random.Random(seed)
        self.pool = BlockPool(num_blocks, True, 16, backend=self.rng.choice(["host", "reference"]))
        self.pool.set_eviction(name)
        self.plain = POLICIES[name](num_blocks)
        self.held = {}
        self.numbers = {}
        """What is in cached blocks, by block: a hash, and in the lowest bit one of two groups."""

    def key_of(self, number):
        return key_of(number >> 1) ^ (number & 1)

    def take(self, count):
        count = min(count, self.pool.get_num_free_blocks())
        expected = [self.plain.take() for _ in range(count)]
        got = self.pool.allocate(count).tolist()
        assert got == expected
        for block in got:
            self.held[block] = 1
            self.numbers.pop(block, None)

    def cache(self, block, number):
        if block in self.numbers:
            return
        place = self.rng.choice([0, 1, 5, 40, 700])
        request = SimpleNamespace(request_id="r", block_hashes=[hash_of(number >> 1)] * (place + 1))
        blocks = [self.pool.null_block] * place + [self.pool.state.view(block)]
        self.pool.cache_full_blocks(request, blocks, place, place + 1, 16, number & 1)
        others = {other for other in self.numbers if self.numbers[other] == number}
        self.plain.shared |= {*others, block} if others else set()
        self.numbers[block] = number
        if hasattr(self.plain, "cached_at"):
            self.plain.cached_at(block, place)

    def touch(self, blocks):
        for block in blocks:
            self.plain.touch(block, self.key_of(self.numbers[block]))
            self.held[block] = self.held.get(block, 0) + 1
        self.pool.touch([self.pool.state.view(block) for block in blocks])

    def free(self, blocks):
        self.pool.free_blocks([self.pool.state.view(block) for block in blocks])
        for block in blocks:
            self.held[block] -= 1
            if not self.held[block]:
                del self.held[block]
                number = self.numbers.get(block)
                self.plain.free(block, None if number is None else self.key_of(number))

    def evict(self, blocks):
        self.pool.evict_blocks(blocks)
        for block in blocks:
            self.numbers.pop(block, None)
            self.plain.shared.discard(block)
            if block not in self.held:
                self.plain.forget(block)

    def expect(self, numbers):
        """Requests wait whose first blocks have these hashes."""
        words = np.frombuffer(b"".join(hash_of(number >> 1) for number in numbers), np.int64).reshape(-1, 4)
        begins = np.arange(len(numbers))
        spans = (words, np.zeros(len(numbers), np.int64), begins, begins + 1)
        self.pool.eviction.expect(ONE_GROUP, spans, np.ones((len(numbers), 1), np.int32))
        self.plain.expected = {self.key_of(number) for number in numbers}

    def step(self, num_keys):
        rng = self.rng
        what = rng.random()
        if what < 0.02:
            self.evict(rng.sample(range(1, self.pool.num_gpu_blocks), 2))
        elif what < 0.06 and self.pool.eviction.expects:
            cached = sorted({number for number in self.numbers.values() if number & 1 == 0})  # nothing else is hit
            self.expect(rng.sample(cached, rng.randint(0, len(cached))))
        if what < 0.35:
            self.take(rng.randint(1, 4))
            for block in list(self.held):
                if rng.random() < 0.5:
                    self.cache(block, int(num_keys * rng.random() ** 3))
        elif what < 0.6 and self.numbers:
            self.touch(rng.sample(sorted(self.numbers), rng.randint(1, min(3, len(self.numbers)))))
        elif self.held:
            self.free(rng.sample(sorted(self.held), rng.randint(1, min(5, len(self.held)))))


@every_policy
@pytest.mark.parametrize("seed", range(8))
def test_blocks_are_evicted_in_the_order_of_the_plain_policy(name, seed):
    twins = Twins(name, [6, 13, 40, 100][seed % 4], seed)
    for _ in range(3000):
        twins.step(num_keys=150)
    twins.pool.check()
    twins.free([block for block, count in twins.held.items() for _ in range(count)])
    twins.take(twins.pool.num_gpu_blocks)
    twins.pool.check()


@every_policy
def test_a_copy_of_a_pool_goes_its_own_way(name):
    twins = Twins(name, 40, seed=3)
    for _ in range(500):
        twins.step(num_keys=150)
    other = copy.deepcopy(twins)
    for pair in (twins, other):
        pair.rng.seed(pair is other)
        for _ in range(500):
            pair.step(num_keys=150)


def test_every_name_has_a_policy():
    assert {*KINDS} == {*EVICTIONS}


@pytest.mark.parametrize("name", EVICTIONS)
def test_an_order_is_chosen_before_blocks_are_used(name):
    pool = BlockPool(8, True, 16)
    pool.set_eviction(name)
    pool.allocate(1)
    with pytest.raises(BlockStateError, match="before blocks are taken"):
        pool.set_eviction("lru")


@pytest.mark.parametrize("name", EVICTIONS)
def test_blocks_that_a_model_keeps_for_itself_are_never_taken(name):
    manager = make_manager(SinkFullAttentionSpec(4, **HEADS, sink_len=8), num_blocks=12, eviction=name)
    taken = manager.block_pool.allocate(manager.block_pool.get_num_free_blocks()).tolist()
    assert sorted(taken) == list(range(3, 12))
    manager.check()


@per_backend
@pytest.mark.parametrize("name", ["lru", "tail-first"])
def test_a_manager_tells_where_blocks_lie_in_their_prompts(backend, name):
    manager = make_manager(full(4), num_blocks=64, backend=backend, eviction=name)
    older, newer = (make_request(key, [token] * (4 * count), 4) for key, token, count in (("a", 1, 20), ("b", 2, 40)))
    held = []
    for request in (older, newer):
        manager.allocate_slots(request, request.num_tokens)
        held.append(manager.get_block_ids(request.request_id)[0])
    for request in (older, newer):
        manager.free(request)
    manager.block_pool.allocate(3)  # what was never cached
    expected = held[0][::-1] if name == "lru" else held[1][:31:-1]
    assert manager.block_pool.allocate(8).tolist() == expected[:8]


def test_an_order_may_be_chosen_again():
    pool = BlockPool(8, True, 16)
    pool.set_eviction("arc")
    more = pool.nbytes
    pool.set_eviction("lru")
    assert pool.eviction is None
    assert pool.nbytes < more


def test_an_unknown_order_is_refused():
    pool = BlockPool(8, True, 16)
    with pytest.raises(UnknownNameError, match="known: arc, cost, lfu, lru"):
        pool.set_eviction("mru")
    assert pool.eviction is None


@every_policy
def test_blocks_of_an_interrupted_call_are_placed_again(name):
    twins = Twins(name, 40, seed=5)
    for _ in range(300):
        twins.step(num_keys=150)
    while twins.pool.get_num_free_blocks() == 0:
        twins.free([next(iter(twins.held))])
    twins.take(0)  # what was handed out before stays
    twins.pool.free_block_queue.popleft()  # nobody holds it
    twins.pool.turn.restore()
    twins.pool.check()
    twins.free([block for block, count in twins.held.items() for _ in range(count)])
    assert sorted(twins.pool.allocate(39).tolist()) == list(range(1, 40))
