"""Policies as plain caches of keys, each as libcachesim 0.3.5 has it and as a pool of blocks has it.

A pool takes a block before it is known what the block will hold, so what a miss teaches comes after the eviction that
it causes. `as_published` undoes this, and what else differs: its branches are all the differences that there are.
Where it remembers evicted keys, a pool has lines for them (see `plain_ghosts`), so keys are words of hashes there.
"""

from collections import Counter, OrderedDict

from eviction.plain_ghosts import Ghosts


class Cache:
    """A cache of so many keys. A pool has one block more, the null block, and takes its shares of all blocks."""

    def __init__(self, capacity, as_published):
        self.capacity, self.as_published = capacity, as_published
        self.num_blocks = capacity + 1

    def get(self, key):
        """Whether the key was there; it is now."""
        if self.holds(key):
            self.hit(key)
            return True
        self.miss(key)
        return False


class Lru(Cache):
    """In a pool as published."""

    def __init__(self, capacity, as_published):
        super().__init__(capacity, as_published)
        self.keys = OrderedDict()

    def holds(self, key):
        return key in self.keys

    def hit(self, key):
        self.keys.move_to_end(key)

    def miss(self, key):
        if len(self.keys) == self.capacity:
            self.keys.popitem(last=False)
        self.keys[key] = None


class Slru(Cache):
    """Published: a new key is protected at once where only those that are on probation have no room."""

    def __init__(self, capacity, as_published):
        super().__init__(capacity, as_published)
        self.probation, self.protected = OrderedDict(), OrderedDict()
        self.num_protected = int(0.8 * self.num_blocks)

    def holds(self, key):
        return key in self.probation or key in self.protected

    def hit(self, key):
        self.probation.pop(key, None)
        self.protected.pop(key, None)
        self.protected[key] = None
        if len(self.protected) > self.num_protected:
            self.probation[self.protected.popitem(last=False)[0]] = None

    def miss(self, key):
        if len(self.probation) + len(self.protected) == self.capacity:
            (self.probation or self.protected).popitem(last=False)
        has_room = len(self.probation) < self.capacity - self.num_protected
        protects = self.as_published and not has_room and len(self.protected) < self.num_protected
        (self.protected if protects else self.probation)[key] = None


class Lfu(Cache):
    """Published: a new key has the age from before the eviction that makes room for it."""

    def __init__(self, capacity, as_published):
        super().__init__(capacity, as_published)
        self.age, self.turn, self.ranks, self.used = 0, 0, {}, Counter()

    def holds(self, key):
        return key in self.ranks

    def hit(self, key):
        self.place(key, self.age)

    def place(self, key, age):
        self.turn += 1
        self.used[key] += 1
        self.ranks[key] = age + self.used[key], self.turn

    def miss(self, key):
        before = self.age
        if len(self.ranks) == self.capacity:
            victim = min(self.ranks, key=self.ranks.get)
            self.age = self.ranks.pop(victim)[0]
            del self.used[victim]
        self.place(key, before if self.as_published else self.age)


class S3Fifo(Cache):
    """Published: keys that come while the cache fills go into the main queue once the small one has its share; of the
    small queue, blocks are looked at until one goes, even if it has less than its share by then; a ghost that is hit is
    gone before the eviction adds another. In a pool the small queue may have one more."""

    def __init__(self, capacity, as_published):
        super().__init__(capacity, as_published)
        self.small, self.main = OrderedDict(), OrderedDict()
        self.share, self.num_ghosts = int(0.1 * self.num_blocks) + 1, int(0.9 * self.num_blocks)
        self.ghosts = Ghosts(self.num_ghosts, crowds=not as_published)
        self.has_evicted = False

    def holds(self, key):
        return key in self.small or key in self.main

    def hit(self, key):
        queue = self.small if key in self.small else self.main
        queue[key] = min(queue[key] + 1, 3)

    def miss(self, key):
        was_ghost = self.as_published and self.ghosts.forget(key)
        if len(self.small) + len(self.main) == self.capacity:
            self.has_evicted = True
            self.evict()
        if not self.as_published:
            was_ghost = self.ghosts.forget(key)
        fills = self.as_published and not self.has_evicted and len(self.small) >= self.share
        (self.main if was_ghost or fills else self.small)[key] = 0

    def evict(self):
        from_small = self.takes_small()
        while True:
            if not self.as_published or not self.small:
                from_small = self.takes_small()
            key, hits = (self.small if from_small else self.main).popitem(last=False)
            if from_small and hits > 1:
                self.main[key] = 0
            elif not from_small and hits:
                self.main[key] = hits - 1
            else:
                break
        if from_small:
            self.ghosts.remember(1, key)

    def takes_small(self):
        return not self.main or len(self.small) >= self.share


class Arc(Cache):
    """Published: a hit on a ghost changes the share before the eviction, by no whole number, and the ghost is gone
    before, too. With as many keys of the first kind as their share, a hit on a ghost of the second kind takes one of
    them. Ghosts of the second kind make room for others; those of the first do where they and the keys of the first
    kind are as many as the capacity. In a pool the oldest ghost of the kind that gets another makes room."""

    def __init__(self, capacity, as_published):
        super().__init__(capacity, as_published)
        self.once, self.often = OrderedDict(), OrderedDict()
        self.ghosts = Ghosts(2 * capacity if as_published else self.num_blocks, crowds=not as_published)
        self.share = 0

    def holds(self, key):
        return key in self.once or key in self.often

    def hit(self, key):
        self.once.pop(key, None)
        self.often.pop(key, None)
        self.often[key] = None

    def learn(self, key):
        sizes, which = (self.ghosts.count(1), self.ghosts.count(2)), self.ghosts.list_of(key)
        if which == 1:
            most = self.capacity if self.as_published else self.num_blocks
            self.share = min(most, self.share + self.step(sizes[1] / sizes[0]))
        elif which == 2:
            self.share = max(0, self.share - self.step(sizes[0] / sizes[1]))

    def step(self, ratio):
        return max(1, ratio if self.as_published else int(ratio))

    def miss(self, key):
        is_full = len(self.once) + len(self.often) == self.capacity
        which = self.ghosts.list_of(key)
        if self.as_published:
            self.learn(key)
        if is_full:
            if self.as_published:
                self.replace(which)
            else:
                self.replace_in_pool()
                which = self.ghosts.list_of(key)
        if not self.as_published:
            self.learn(key)
        self.ghosts.forget(key)
        (self.once if which is None else self.often)[key] = None

    def replace(self, which):
        if which is None:
            if len(self.once) + self.ghosts.count(1) >= self.capacity:
                if len(self.once) == self.capacity:
                    self.once.popitem(last=False)
                    return
                self.ghosts.forget_oldest(1)
            elif len(self.once) + len(self.often) + self.ghosts.count(1) + self.ghosts.count(2) >= 2 * self.capacity:
                self.ghosts.forget_oldest(2)
        wins_tie = which == 2 and 0 < len(self.once) == self.share
        self.evict(len(self.once) > self.share or wins_tie or not self.often)

    def replace_in_pool(self):
        self.evict(self.once and (not self.often or len(self.once) > self.share))
        if len(self.once) + self.ghosts.count(1) > self.num_blocks:
            self.ghosts.forget_oldest(1)

    def evict(self, takes_once):
        self.ghosts.remember(1 if takes_once else 2, (self.once if takes_once else self.often).popitem(last=False)[0])


CACHES = {"lru": Lru, "slru": Slru, "lfu": Lfu, "s3fifo": S3Fifo, "arc": Arc}
