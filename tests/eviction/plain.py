"""Every policy of eviction in a few lines of Python: what the compiled ones must do, block by block."""

from collections import OrderedDict, deque

from eviction.plain_ghosts import Ghosts


class Plain:
    """Blocks of a pool, of which those that are free and cached wait in lists of the policy.
    Block 0 is the null block, so a pool of n blocks has n - 1 that can be taken.
    """

    def __init__(self, num_blocks):
        self.num_blocks = num_blocks
        self.plain = OrderedDict.fromkeys(range(1, num_blocks))
        self.hits = [0] * num_blocks
        self.known = [False] * num_blocks
        self.keys = [None] * num_blocks
        self.used = set()
        self.shared = set()

    def take(self):
        """The block that is evicted next, which is used from now on."""
        block = self.plain.popitem(last=False)[0] if self.plain else self.choose()
        self.used.add(block)
        self.hits[block], self.known[block], self.keys[block] = 0, False, None
        self.shared.discard(block)
        return block

    def free(self, block, key):
        """A block has no users any more; `key` is None if it is not cached."""
        self.used.discard(block)
        self.keys[block] = key
        if key is None:
            self.forget(block)
        else:
            self.enter(block, key)
            self.known[block] = True

    def forget(self, block):
        """A block without users is not cached any more."""
        self.leave(block)
        self.plain.pop(block, None)
        self.plain[block] = None
        self.hits[block], self.known[block] = 0, False

    def touch(self, block, key):
        """A request hits a block."""
        self.hits[block] = min(self.hits[block] + 1, 127)
        self.used.add(block)
        self.leave(block)

    def remember(self, which, block):
        """The key of a block becomes a ghost; one of a block that shared it may be one already."""
        if block in self.shared:
            self.ghosts.forget(self.keys[block])
        self.ghosts.remember(which, self.keys[block])

    def is_new(self, block):
        """Whether it was used once since it was cached."""
        return not self.known[block] and self.hits[block] == 0


class Slru(Plain):
    def __init__(self, num_blocks):
        super().__init__(num_blocks)
        self.probation, self.protected = OrderedDict(), OrderedDict()

    def enter(self, block, key):
        if self.is_new(block):
            self.probation[block] = None
            return
        self.protected[block] = None
        while len(self.protected) > int(0.8 * self.num_blocks):
            self.probation[self.protected.popitem(last=False)[0]] = None

    def leave(self, block):
        self.probation.pop(block, None)
        self.protected.pop(block, None)

    def choose(self):
        return (self.probation or self.protected).popitem(last=False)[0]


class Lfu(Plain):
    def __init__(self, num_blocks):
        super().__init__(num_blocks)
        self.age, self.turn, self.ranks = 0, 0, {}

    def enter(self, block, key):
        self.turn += 1
        self.ranks[block] = self.age + min(self.hits[block] + 1, 127), self.turn

    def leave(self, block):
        self.ranks.pop(block, None)

    def choose(self):
        block = min(self.ranks, key=self.ranks.get)
        self.age = self.ranks.pop(block)[0]
        return block


class S3Fifo(Plain):
    def __init__(self, num_blocks):
        super().__init__(num_blocks)
        self.queues = {"small": deque(), "main": deque()}
        self.of, self.ghosts = {}, Ghosts(max(1, int(0.9 * num_blocks)))

    def enter(self, block, key):
        if not self.known[block]:
            self.of[block] = "main" if self.ghosts.list_of(key) else "small"
            self.ghosts.forget(key)
        if all(block not in queue for queue in self.queues.values()):
            self.queues[self.of[block]].append(block)

    def leave(self, block):
        pass

    def forget(self, block):
        super().forget(block)
        for queue in self.queues.values():
            if block in queue:
                queue.remove(block)

    def choose(self):
        small, main = self.queues["small"], self.queues["main"]
        while True:
            queue = small if not main or len(small) > int(0.1 * self.num_blocks) else main
            block = queue.popleft()
            used = min(self.hits[block], 3)
            if block in self.used:
                continue
            if queue is small and used > 1:
                self.hits[block], self.of[block] = 0, "main"
                main.append(block)
            elif queue is main and used > 0:
                self.hits[block] = used - 1
                main.append(block)
            else:
                if queue is small:
                    self.remember(1, block)
                return block


class Arc(Plain):
    def __init__(self, num_blocks):
        super().__init__(num_blocks)
        self.share = 0
        self.once, self.often = OrderedDict(), OrderedDict()
        self.ghosts = Ghosts(num_blocks)

    def enter(self, block, key):
        lists = self.once if self.is_new(block) else self.often
        ghost = None if self.known[block] else self.ghosts.list_of(key)
        if ghost is not None:
            first, second = self.ghosts.count(1), self.ghosts.count(2)
            if ghost == 1:
                self.share = min(self.num_blocks, self.share + max(1, second // first))
            else:
                self.share = max(0, self.share - max(1, first // second))
            self.ghosts.forget(key)
            lists = self.often
        lists[block] = None

    def leave(self, block):
        self.once.pop(block, None)
        self.often.pop(block, None)

    def choose(self):
        from_once = bool(self.once) if not self.often else len(self.once) > self.share
        block = (self.once if from_once else self.often).popitem(last=False)[0]
        self.remember(1 if from_once else 2, block)
        if len(self.once) + self.ghosts.count(1) > self.num_blocks:
            self.ghosts.forget_oldest(1)
        return block


class TinyLfu(Plain):
    ROWS, COLUMNS, MOST = 4, 16, 15

    def __init__(self, num_blocks):
        super().__init__(num_blocks)
        self.rejected, self.admitted = OrderedDict(), OrderedDict()
        self.num_lines = 1 << (max(1, num_blocks // 4) - 1).bit_length()
        self.counts = [0] * (self.num_lines * self.ROWS * self.COLUMNS)
        self.counted = 0

    def places(self, key):
        """Where the counts of a key are: one in each row of one line."""
        line = key % self.num_lines
        columns = [(key >> (48 + 4 * row)) % self.COLUMNS for row in range(self.ROWS)]
        return [(line * self.ROWS + row) * self.COLUMNS + column for row, column in enumerate(columns)]

    def estimate(self, key):
        return min(self.counts[place] for place in self.places(key))

    def count(self, key):
        for place in self.places(key):
            self.counts[place] = min(self.counts[place] + 1, self.MOST)
        self.counted += 1
        if self.counted >= 32 * self.num_blocks:
            self.counts = [count >> 1 for count in self.counts]
            self.counted //= 2

    def touch(self, block, key):
        super().touch(block, key)
        if key is not None:
            self.count(key)

    def enter(self, block, key):
        is_new = self.is_new(block)
        if is_new:
            self.count(key)
        rejects = False
        if is_new and not self.plain and self.admitted:
            victim = next(iter(self.admitted))
            rejects = self.estimate(key) <= self.estimate(self.keys[victim])
        (self.rejected if rejects else self.admitted)[block] = None

    def leave(self, block):
        self.rejected.pop(block, None)
        self.admitted.pop(block, None)

    def choose(self):
        return (self.rejected or self.admitted).popitem(last=False)[0]


class TailFirst(Plain):
    def __init__(self, num_blocks):
        super().__init__(num_blocks)
        self.places, self.turn, self.waiting = {}, 0, {}

    def cached_at(self, block, place):
        self.places[block] = place

    def enter(self, block, key):
        self.turn += 1
        self.waiting[block] = -self.places[block].bit_length(), self.turn

    def leave(self, block):
        self.waiting.pop(block, None)

    def choose(self):
        block = min(self.waiting, key=self.waiting.get)
        del self.waiting[block]
        return block


class Cost(Lfu):
    """GreedyDual: a block costs 8, and one more for each 256 blocks before it; what is evicted lends its rank."""

    def __init__(self, num_blocks):
        super().__init__(num_blocks)
        self.costs = {}

    def cached_at(self, block, place):
        self.costs[block] = min(8 + place // 256, 127)

    def enter(self, block, key):
        self.turn += 1
        self.ranks[block] = self.age + self.costs[block], self.turn


class QueueAware(Plain):
    def __init__(self, num_blocks):
        super().__init__(num_blocks)
        self.recent, self.expected = OrderedDict(), set()

    def enter(self, block, key):
        self.recent[block] = None

    def leave(self, block):
        self.recent.pop(block, None)

    def choose(self):
        others = [block for block in self.recent if self.keys[block] not in self.expected]
        block = (others or list(self.recent))[0]
        del self.recent[block]
        return block


POLICIES = {
    "slru": Slru,
    "lfu": Lfu,
    "s3fifo": S3Fifo,
    "arc": Arc,
    "tinylfu": TinyLfu,
    "tail-first": TailFirst,
    "queue-aware": QueueAware,
    "cost": Cost,
}
