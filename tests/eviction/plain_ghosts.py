"""What a policy remembers of evicted keys, in a few lines of Python."""

from collections import OrderedDict, defaultdict

MULTIPLIER = 0x9E3779B97F4A7C15


class Ghosts:
    """Two lists of keys, first in, first out, with a number each time that one is remembered.

    If it `crowds`, as a pool does, a key is known by 30 bits and its line, which has room for sixteen, and all are
    forgotten after eight times as many numbers as there is room for keys, rounded up to a power of two.
    """

    ROOM = 16

    def __init__(self, capacity, crowds=True):
        self.capacity, self.crowds = capacity, crowds
        self.lists = {1: OrderedDict(), 2: OrderedDict()}
        self.numbers = defaultdict(list)
        self.lines = [[] for _ in range(-(-4 * capacity // self.ROOM))]
        self.span = 1 << (8 * capacity - 1).bit_length()
        self.next = 1

    def short(self, key):
        if not self.crowds:
            return key
        mixed = key * MULTIPLIER % (1 << 64)
        return (mixed >> 34, mixed % (1 << 32) * len(self.lines) >> 32)

    def list_with(self, number):
        return next((which for which, keys in self.lists.items() if number in keys), None)

    def list_of(self, key):
        numbers = self.numbers[self.short(key)]
        return self.list_with(numbers[-1]) if numbers else None

    def count(self, which):
        return len(self.lists[which])

    def forget(self, key):
        """Whether the key was remembered; it is no more."""
        numbers = list(self.numbers[self.short(key)])
        for number in numbers:
            self.forget_number(number)
        return bool(numbers)

    def forget_number(self, number):
        short = self.lists[self.list_with(number)].pop(number)
        self.numbers[short].remove(number)

    def forget_oldest(self, which):
        self.forget_number(next(iter(self.lists[which])))

    def remember(self, which, key):
        short = self.short(key)
        if self.count(1) + self.count(2) == self.capacity:
            self.forget_oldest(which if self.count(which) else 3 - which)
        if self.crowds:
            self.crowd(which, short[1])
        self.lists[which][self.next] = short
        self.numbers[short].append(self.next)
        self.next += 1

    def crowd(self, which, number_of_line):
        """Make room for a key among the numbers and in its line: the oldest of its list leaves, or of the other."""
        if self.list_with(self.next - self.span):
            self.forget_number(self.next - self.span)
        line = [number for number in self.lines[number_of_line] if self.list_with(number)]
        if len(line) == self.ROOM:
            leaves = next((number for number in line if number in self.lists[which]), line[0])
            line.remove(leaves)
            self.forget_number(leaves)
        self.lines[number_of_line] = [*line, self.next]
