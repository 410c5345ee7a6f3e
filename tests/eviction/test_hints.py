"""Hints of requests: what they say decides which free blocks go first, as a few lines of Python say, too."""

import random

import numpy as np
import pytest
from eviction.keys import hash_of

from kvgpu.block_pool import BlockPool
from kvgpu.eviction.policy import KINDS

SHARES = [3, 0, 5]
USUAL = 35


class Plain:
    """Free blocks with what is known of them; the smallest rank goes first."""

    def __init__(self, num_blocks):
        self.free = {block: ((0,), block) for block in range(1, num_blocks)}
        """Free block -> where it waits, and since when."""
        self.turn, self.said, self.tenants = num_blocks, {}, {}
        self.expired, self.num_expired = set(), 0

    def place(self, block, where):
        self.turn += 1
        self.free[block] = (where, self.turn)

    def by_level(self, block):
        level = self.said.get(block, (USUAL, None))[0]
        self.place(block, (1, level) if level < USUAL else (2,) if level == USUAL else (3, level))

    def give_back(self, block, cached):
        if not cached:
            self.said.pop(block, None)
            self.tenants.pop(block, None)
            self.expired.discard(block)
            self.place(block, (0,))
            return
        tenant = self.tenants.get(block, 0)
        share = SHARES[tenant - 1] if tenant else 0
        if not share or self.said.get(block, (USUAL,))[0] < USUAL:
            self.by_level(block)
            return
        self.place(block, (4, tenant))
        kept = [other for other, (where, _) in self.free.items() if where == (4, tenant)]
        if len(kept) > share:
            self.by_level(min(kept, key=lambda other: self.free[other][1]))

    def expire(self, now):
        over = sorted((until, block) for block, (_, until) in self.said.items() if until is not None and until <= now)
        for _, block in over:
            del self.said[block]
            self.expired.add(block)
            if block in self.free:
                self.place(block, (1, 0))

    def take(self, taker):
        def rank(block):
            where, since = self.free[block]
            return ((4, 0) if where == (4, taker) else where, since)

        block = min(self.free, key=rank)
        where, _ = self.free.pop(block)
        self.num_expired += where == (1, 0) and block in self.expired
        self.expired.discard(block)
        self.said.pop(block, None)
        self.tenants.pop(block, None)
        return block

    def hint(self, block, priority, until, tenant):
        self.expired.discard(block)
        before = self.said.get(block)
        if before is not None:
            priority = max(priority, before[0])
            until = None if until is None or before[1] is None else max(until, before[1])
        self.said[block] = priority, until
        if tenant:
            self.tenants.setdefault(block, tenant)

    def kept_from(self, taker):
        return sum(1 for where, _ in self.free.values() if where[0] == 4 and where[1] != taker)


class Twins:
    """A pool whose requests give hints, and the same in plain Python."""

    def __init__(self, num_blocks, seed):
        self.rng, self.now, self.number = random.Random(seed), 1, 0
        self.pool = BlockPool(num_blocks, True, 16)
        self.pool.set_eviction("lru", dict(zip("abc", SHARES, strict=True)))
        self.plain, self.held, self.cached = Plain(num_blocks), [], set()

    def take(self):
        taker = self.rng.randint(0, len(SHARES))
        kept = self.pool.eviction.begin(self.now, taker)
        self.plain.expire(self.now)
        assert kept == self.plain.kept_from(taker)
        count = min(self.rng.randint(1, 5), self.pool.get_num_free_blocks())
        got = self.pool.allocate(count).tolist()
        assert got == [self.plain.take(taker) for _ in got]
        assert self.pool.eviction.num_expired == self.plain.num_expired
        self.cached.difference_update(got)
        self.held += got
        for block in got:
            if self.rng.random() < 0.8:
                self.number += 1
                request = _Request([hash_of(self.number)])
                self.pool.cache_full_blocks(request, [self.pool.state.view(block)], 0, 1, 16, 0)
                self.cached.add(block)

    def give_back(self):
        chosen = self.rng.sample(self.held, self.rng.randint(1, min(6, len(self.held))))
        if self.rng.random() < 0.7:
            priority, tenant = self.rng.choice([0, 10, 34, 35, 36, 90, 100]), self.rng.randint(0, len(SHARES))
            dated = self.rng.random() < 0.4
            for block in chosen:
                # Blocks with one deadline reach it in any order.
                until = self.now + 1000 * self.rng.randint(0, 40) + block if dated else None
                self.pool.eviction.hint(np.array([block], np.int32), priority, until or 0, tenant)
                self.plain.hint(block, priority, until, tenant)
        self.pool.free_blocks([self.pool.state.view(block) for block in chosen])
        for block in chosen:
            self.held.remove(block)
            if block not in self.held:
                self.plain.give_back(block, block in self.cached)

    def touch(self):
        chosen = self.rng.sample(sorted(self.cached), self.rng.randint(1, min(3, len(self.cached))))
        self.pool.touch([self.pool.state.view(block) for block in chosen])
        self.held += chosen
        for block in chosen:
            self.plain.free.pop(block, None)

    def evict(self):
        chosen = self.rng.sample(sorted(self.cached), self.rng.randint(1, min(2, len(self.cached))))
        self.pool.evict_blocks(chosen)
        for block in chosen:
            self.cached.discard(block)
            if block not in self.held:
                self.plain.give_back(block, False)

    def step(self):
        self.now += 1000 * self.rng.randint(0, 4)
        what = self.rng.random()
        if what < 0.05 and self.cached:
            self.evict()
        elif what < 0.4:
            self.take()
        elif what < 0.6 and self.cached:
            self.touch()
        elif self.held:
            self.give_back()


class _Request:
    request_id = "r"

    def __init__(self, block_hashes):
        self.block_hashes = block_hashes


@pytest.mark.parametrize("seed", range(8))
def test_blocks_are_evicted_in_the_order_that_hints_say(seed):
    twins = Twins([6, 13, 40, 100][seed % 4], seed)
    for _ in range(3000):
        twins.step()
    twins.pool.check()
    assert twins.plain.num_expired > 0


@pytest.mark.parametrize("name", KINDS)
def test_with_any_policy_low_priorities_go_first_and_high_ones_last(name):
    pool = BlockPool(41, True, 16)
    pool.set_eviction(name, {})
    blocks = pool.allocate(40).tolist()
    for block in blocks:
        pool.cache_full_blocks(_Request([hash_of(block)]), [pool.state.view(block)], 0, 1, 16, 0)
    low, high = blocks[:10], blocks[10:20]
    pool.eviction.hint(np.array(low, np.int32), 5, 0, 0)
    pool.eviction.hint(np.array(high, np.int32), 80, 0, 0)
    pool.free_blocks([pool.state.view(block) for block in blocks])
    order = pool.allocate(40).tolist()
    assert order[:10] == low
    assert order[30:] == high


@pytest.mark.parametrize("name", KINDS)
def test_a_reset_forgets_what_requests_said(name):
    pool = BlockPool(41, True, 16)
    pool.set_eviction(name, {"a": 20})
    blocks = pool.allocate(40)
    for block in blocks.tolist():
        pool.cache_full_blocks(_Request([hash_of(block)]), [pool.state.view(block)], 0, 1, 16, 0)
    pool.eviction.hint(blocks, 90, 0, 1)
    pool.free_blocks(blocks)
    assert pool.eviction.begin(0, 0) == 20
    pool.reset_prefix_cache()
    assert pool.eviction.begin(0, 0) == 0
    assert sorted(pool.allocate(40).tolist()) == blocks.tolist()
