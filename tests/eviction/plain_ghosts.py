"""What a policy remembers of evicted keys, in a few lines of Python."""

from collections import OrderedDict


class Ghosts:
    """Two lists of keys, first in, first out. If it `crowds`, as a pool does, a key is known by its upper half and its
    line, which has room for eight: forgotten ones leave first, and then the oldest.
    """

    def __init__(self, capacity, crowds=True):
        self.capacity, self.crowds = capacity, crowds
        self.lists = {1: OrderedDict(), 2: OrderedDict()}
        self.lines = [[] for _ in range(1 << (capacity - 1).bit_length())]
        self.span = 1 << (16 * capacity - 1).bit_length()
        self.next = 1

    def short(self, key):
        return (key >> 32, key & (len(self.lines) - 1)) if self.crowds else key

    def list_of(self, key):
        return next((number for number, keys in self.lists.items() if self.short(key) in keys), None)

    def count(self, which):
        return len(self.lists[which])

    def forget(self, key):
        """Whether the key was remembered; it is no more."""
        short, which = self.short(key), self.list_of(key)
        if which is None:
            return False
        number = self.lists[which].pop(short)
        if self.crowds:
            self.lines[short[1]].remove((short, number))
        return True

    def holds(self, short, number):
        return any(keys.get(short) == number for keys in self.lists.values())

    def forget_short(self, short):
        for keys in self.lists.values():
            keys.pop(short, None)

    def forget_oldest(self, which):
        self.lists[which].popitem(last=False)

    def remember(self, which, key):
        self.forget(key)
        if self.count(1) + self.count(2) == self.capacity:
            self.forget_oldest(which if self.count(which) else 3 - which)
        if self.crowds:
            self.crowd(self.short(key))
        self.lists[which][self.short(key)] = self.next
        self.next += 1

    def crowd(self, short):
        """Make room for a key among the numbers and in its line."""
        for keys in self.lists.values():
            if self.next - self.span in list(keys.values())[:1]:
                keys.popitem(last=False)
        line = self.lines[short[1]]
        if len(line) == 8:
            gone, number = line.pop(next((place for place in range(8) if not self.holds(*line[place])), 0))
            if self.holds(gone, number):
                self.forget_short(gone)
        line.append((short, self.next))
