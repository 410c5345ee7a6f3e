"""What a policy remembers of evicted keys, in a few lines of Python."""

from collections import OrderedDict


class Ghosts:
    """Two lists of keys, first in, first out. If it `crowds`, as a pool does, a key is known by 30 bits and its line,
    which has room for sixteen, and all are forgotten after eight times as many numbers as it has room for keys.
    """

    ROOM = 16

    def __init__(self, capacity, crowds=True):
        self.capacity, self.crowds = capacity, crowds
        self.lists = {1: OrderedDict(), 2: OrderedDict()}
        self.lines = [[] for _ in range(-(-4 * capacity // self.ROOM))]
        self.span = 1 << (8 * capacity - 1).bit_length()
        self.next = 1

    def short(self, key):
        return (key >> 34, key % (1 << 32) * len(self.lines) >> 32) if self.crowds else key

    def list_of(self, key):
        return next((number for number, keys in self.lists.items() if self.short(key) in keys), None)

    def count(self, which):
        return len(self.lists[which])

    def forget(self, key):
        """Whether the key was remembered; it is no more."""
        return self.forget_short(self.short(key))

    def forget_short(self, short):
        return any(keys.pop(short, None) is not None for keys in self.lists.values())

    def holds(self, short):
        return any(short in keys for keys in self.lists.values())

    def forget_oldest(self, which):
        self.lists[which].popitem(last=False)

    def remember(self, which, key):
        self.forget(key)
        if self.count(1) + self.count(2) == self.capacity:
            self.forget_oldest(which if self.count(which) else 3 - which)
        if self.crowds:
            self.crowd(which, self.short(key))
        self.lists[which][self.short(key)] = self.next
        self.next += 1

    def crowd(self, which, short):
        """Make room for a key among the numbers and in its line: the oldest of its list leaves, or of the other."""
        for keys in self.lists.values():
            if self.next - self.span in list(keys.values())[:1]:
                keys.popitem(last=False)
        line = [each for each in self.lines[short[1]] if self.holds(each)]
        if len(line) == self.ROOM:
            leaves = next((each for each in line if each in self.lists[which]), line[0])
            line.remove(leaves)
            self.forget_short(leaves)
        self.lines[short[1]] = [*line, short]
