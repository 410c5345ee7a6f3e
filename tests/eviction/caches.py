"""Policies as plain caches of keys, each as libcachesim 0.3.5 has it and as a pool of blocks has it.

A pool takes a block before it is known what the block will hold, so what a miss teaches comes after the eviction that
it causes. `as_published` undoes this, and what else differs: its branches are all the differences that there are.
"""

from collections import Counter, OrderedDict


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
        self.small, self.main, self.ghosts = OrderedDict(), OrderedDict(), OrderedDict()
        self.share, self.num_ghosts = int(0.1 * self.num_blocks) + 1, int(0.9 * self.num_blocks)
        self.has_evicted = False

    def holds(self, key):
        return key in self.small or key in self.main

    def hit(self, key):
        queue = self.small if key in self.small else self.main
        queue[key] = min(queue[key] + 1, 3)

    def miss(self, key):
        was_ghost = self.as_published and self.ghosts.pop(key, self) is None
        if len(self.small) + len(self.main) == self.capacity:
            self.has_evicted = True
            self.evict()
        if not self.as_published:
            was_ghost = self.ghosts.pop(key, self) is None
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
            if len(self.ghosts) == self.num_ghosts:
                self.ghosts.popitem(last=False)
            self.ghosts[key] = None

    def takes_small(self):
        return not self.main or len(self.small) >= self.share


class Arc(Cache):
    """Published: a hit on a ghost changes the share before the eviction, by no whole number, and the ghost is gone
    before, too. With as many keys of the first kind as their share, a hit on a ghost of the second kind takes one of
    them. Ghosts of the second kind make room for others; those of the first do where they and the keys of the first
    kind are as many as the capacity. In a pool the oldest ghost of the kind that gets another makes room."""

    def __init__(self, capacity, as_published):
        super().__init__(capacity, as_published)
        self.once, self.often, self.was_once, self.was_often = (OrderedDict() for _ in range(4))
        self.share = 0

    def holds(self, key):
        return key in self.once or key in self.often

    def hit(self, key):
        self.once.pop(key, None)
        self.often.pop(key, None)
        self.often[key] = None

    def learn(self, key):
        sizes = len(self.was_once), len(self.was_often)
        if key in self.was_once:
            most = self.capacity if self.as_published else self.num_blocks
            self.share = min(most, self.share + self.step(sizes[1] / sizes[0]))
        elif key in self.was_often:
            self.share = max(0, self.share - self.step(sizes[0] / sizes[1]))

    def step(self, ratio):
        return max(1, ratio if self.as_published else int(ratio))

    def forget(self, key):
        self.was_once.pop(key, None)
        self.was_often.pop(key, None)

    def miss(self, key):
        in_once, in_often = key in self.was_once, key in self.was_often
        is_full = len(self.once) + len(self.often) == self.capacity
        if self.as_published:
            self.learn(key)
            if is_full:
                self.replace(key, in_once or in_often, in_often)
            self.forget(key)
            lists = self.often if in_once or in_often else self.once
        else:
            if is_full:
                self.replace_in_pool()
            lists = self.often if key in self.was_once or key in self.was_often else self.once
            self.learn(key)
            self.forget(key)
        lists[key] = None

    def replace(self, key, was_ghost, in_often):
        if not was_ghost:
            if len(self.once) + len(self.was_once) >= self.capacity:
                if len(self.once) == self.capacity:
                    self.once.popitem(last=False)
                    return
                self.was_once.popitem(last=False)
            elif sum(map(len, (self.once, self.often, self.was_once, self.was_often))) >= 2 * self.capacity:
                self.was_often.popitem(last=False)
        wins_tie = in_often and 0 < len(self.once) == self.share
        takes_once = len(self.once) > self.share or wins_tie or not self.often
        queue, ghosts = (self.once, self.was_once) if takes_once else (self.often, self.was_often)
        ghosts[queue.popitem(last=False)[0]] = None

    def replace_in_pool(self):
        takes_once = self.once and (not self.often or len(self.once) > self.share)
        queue, ghosts = (self.once, self.was_once) if takes_once else (self.often, self.was_often)
        victim = queue.popitem(last=False)[0]
        if len(self.was_once) + len(self.was_often) == self.num_blocks:
            (ghosts or (self.was_often if takes_once else self.was_once)).popitem(last=False)
        ghosts[victim] = None
        if len(self.once) + len(self.was_once) > self.num_blocks:
            self.was_once.popitem(last=False)


CACHES = {"lru": Lru, "slru": Slru, "lfu": Lfu, "s3fifo": S3Fifo, "arc": Arc}
