"""Keys of blocks that were evicted, in the order in which they were: what a policy remembers of them.

There are two lists, each first in, first out. They share a log: a key has a number, and in the place of its number the
log says which key it is, and in which list. One cache line, which the key chooses, holds the numbers of some keys, with
a few bits of each. So to remember a key, or to find that one is not there, takes this cache line,
which callers load ahead; the log is written one place after the other, and read at random only where the bits agree.

A key is known by its line and its highest 30 bits: of 2**28 keys that were never there one is taken for another.
"""

from typing import Any, NamedTuple

import numpy as np

from kvgpu.compiled.cache_lines import make_lines
from kvgpu.compiled.jit import lanes_equal, leaf, lowest_bit, prefetch, push_word
from kvgpu.layout import HASH_MULTIPLIER

NO_LIST, FIRST_LIST, SECOND_LIST = range(3)
LIST_BITS, LIST_MASK = 2, 3
NONE = -1
"""No place."""

LINE = 16
"""Words of a line."""
SLOTS_PER_KEY = 4
"""At least, so that one key in 200,000 finds its line full of others and drives out one of them. A hit needs all blocks
of a prefix: where one key in 800 was driven out, S3-FIFO hit 6.1 % and not 7.1."""
NUMBERS_PER_KEY = 8
"""A key is forgotten after so many times the capacity of later ones, or up to twice as many: a log has 2**n places."""
MOST_NUMBER_BITS = 28
"""The longest log has two to this power of places, since a word of a line needs room for some bits of a key. So where a
memory is of more than 30 million keys, they are forgotten sooner."""

NEXT, HEADS, COUNTS, CAPACITY, GHOST_WORDS = 0, 0, 2, 5, 6
"""Words. NEXT: the next number. HEADS, COUNTS: with the number of a list, a number that none of its keys is before, and
how many keys it has. CAPACITY: of both lists."""

HALF = 32
LOW_HALF = (1 << HALF) - 1
FIRST_NUMBER = 1


class Ghosts(NamedTuple):
    """Arrays of a memory of keys."""

    lines: Any
    """int32 [any, LINE], the newest first: the highest bits of a key, and below them its number and list."""
    log: Any
    """int32 [a power of two], by number modulo the length: 30 bits of a key and its list, or NO_LIST if it left it."""
    words: Any
    """int64 [GHOST_WORDS]."""


def make_ghosts(capacity: int) -> Ghosts:
    """Make an empty memory of so many keys. O(capacity)."""
    lines = make_lines(-(-SLOTS_PER_KEY * capacity // LINE)).view(np.int32)
    words = np.zeros(GHOST_WORDS, np.int64)
    words[NEXT] = words[HEADS + FIRST_LIST] = words[HEADS + SECOND_LIST] = FIRST_NUMBER
    words[CAPACITY] = capacity
    length = 1 << min((NUMBERS_PER_KEY * capacity - 1).bit_length(), MOST_NUMBER_BITS)
    return Ghosts(lines, np.full(length, NO_LIST, np.int32), words)


def counts_agree(ghosts: Ghosts) -> bool:
    """Return whether the words say what the lists are. Compiled code relies on nothing else. O(capacity)."""
    words, lists = ghosts.words, ghosts.log & LIST_MASK
    end, total = int(words[NEXT]), 0
    if lists.max() > SECOND_LIST:
        return False
    for each in (FIRST_LIST, SECOND_LIST):
        head = int(words[HEADS + each])
        if not 0 < head <= end:
            return False
        numbers = np.arange(max(head, end - len(lists)), end)
        found = [int((some == each).sum()) for some in (lists, lists[numbers & (len(lists) - 1)])]
        if found != [words[COUNTS + each]] * 2:
            return False
        total += found[0]
    return bool(total <= words[CAPACITY])


@leaf
def _mixed(key: int) -> int:
    """Return a word for a key, of which both halves depend on its lowest bits: in these keys of two groups differ."""
    return int(key * HASH_MULTIPLIER)


@leaf
def _line_of(ghosts: Any, mixed: int) -> int:
    """Return the line that the lower half of a mixed key chooses."""
    return int(((mixed & LOW_HALF) * len(ghosts.lines)) >> HALF)


@leaf
def load_ghost(ghosts: Any, key: int) -> None:
    """Start loading what is known of a key."""
    prefetch(ghosts.lines, _line_of(ghosts, _mixed(key)))


@leaf
def _high(mixed: int) -> int:
    """Return the upper half of a mixed key."""
    return int((mixed >> HALF) & LOW_HALF)


@leaf
def _shift_of(ghosts: Any) -> int:
    """Return how many bits of a word of a line are the number and the list; above them are some of the key."""
    return int(lowest_bit(len(ghosts.log)) + 1)


@leaf
def _at(ghosts: Any, number: int) -> Any:
    """Return the place of a number in the log."""
    return np.uint64(number & (len(ghosts.log) - 1))


@leaf
def list_of(ghosts: Any, place: int) -> int:
    """Return the list of the key at a place of the log, or NO_LIST."""
    return int(ghosts.log[np.uint64(place)] & LIST_MASK)


@leaf
def _is_before(ghosts: Any, word: int) -> bool:
    """Return whether a word of a line has a number from before all that its list holds."""
    words, mask = ghosts.words, len(ghosts.log) - 1
    age = (words[NEXT] - (word >> 1)) & mask
    return bool(words[NEXT] - age < words[HEADS + FIRST_LIST + (word & 1)])


@leaf
def _is_held(ghosts: Any, place: Any, bits: int, lowest: int) -> bool:
    """Return whether a key is in a list, and in this place of the log, that has these bits from `lowest` on."""
    entry = ghosts.log[place]
    return bool(entry & LIST_MASK != NO_LIST and ((entry ^ bits) & LOW_HALF) >> lowest == 0)


@leaf
def find_ghost(ghosts: Any, key: int) -> int:
    """Return the place of a key in the log, the last one, or NONE. O(1)."""
    mixed, shift = _mixed(key), _shift_of(ghosts)
    line, high = _line_of(ghosts, mixed), _high(mixed)
    found = lanes_equal(ghosts.lines, line, high >> shift, shift)
    while found != 0:
        word = ghosts.lines[np.uint64(line), np.uint64(lowest_bit(found))]
        # Most words whose bits agree by chance are of keys that are forgotten: these cost no look into the log.
        if not _is_before(ghosts, word) and _is_held(ghosts, _at(ghosts, word >> 1), high, LIST_BITS):
            return int(_at(ghosts, word >> 1))
        found &= found - 1
    return NONE


@leaf
def _forget_place(ghosts: Any, place: int) -> None:
    """Forget the key at a place of the log, which is in a list."""
    ghosts.words[COUNTS + list_of(ghosts, place)] -= 1
    ghosts.log[np.uint64(place)] = NO_LIST


@leaf
def forget_ghost(ghosts: Any, key: int) -> None:
    """Forget a key, however often it was remembered. O(1) for each time."""
    place = find_ghost(ghosts, key)
    while place != NONE:
        _forget_place(ghosts, place)
        place = find_ghost(ghosts, key)


@leaf
def _slot_to_leave(ghosts: Any, line: Any, which: int) -> int:
    """Return the slot of a line whose word leaves if a key of a list comes; its key is forgotten.

    It is one whose key is in no list, or else the last one of this list, so that keys of a list which gets no new ones
    are not driven out one by one; or else the last one.
    """
    lines, shift = ghosts.lines, _shift_of(ghosts)
    for slot in range(LINE - 1, -1, -1):  # mostly there is one that needs no look into the log
        if _is_before(ghosts, lines[line, np.uint64(slot)]):
            return slot
    oldest = LINE
    for slot in range(LINE - 1, -1, -1):
        word = lines[line, np.uint64(slot)]
        if not _is_held(ghosts, _at(ghosts, word >> 1), word, shift):
            return slot
        if oldest == LINE and word & 1 == which - FIRST_LIST:
            oldest = slot
    oldest = min(oldest, LINE - 1)
    _forget_place(ghosts, _at(ghosts, lines[line, np.uint64(oldest)] >> 1))
    return oldest


@leaf
def _put(ghosts: Any, row: int, which: int, word: int) -> None:
    """Put the word of a key of a list in front of a line."""
    lines, line = ghosts.lines, np.uint64(row)
    if _is_before(ghosts, lines[line, np.uint64(LINE - 1)]):
        push_word(lines, row, word)
        return
    for slot in range(_slot_to_leave(ghosts, line, which), 0, -1):
        lines[line, np.uint64(slot)] = lines[line, np.uint64(slot - 1)]
    lines[line, np.uint64(0)] = word


@leaf
def forget_oldest(ghosts: Any, which: int) -> None:
    """Forget the oldest key of a list, which is not empty. Amortised O(1)."""
    head = max(ghosts.words[HEADS + which], ghosts.words[NEXT] - len(ghosts.log))
    while list_of(ghosts, _at(ghosts, head)) != which:
        head += 1
    ghosts.words[HEADS + which] = head + 1
    _forget_place(ghosts, _at(ghosts, head))


@leaf
def remember_ghost(ghosts: Any, which: int, key: int) -> None:
    """Put a key at the end of a list. Amortised O(1).

    If the memory is full, the oldest of the list is forgotten, or of the other one. A key that is there already is
    there twice then: callers know when that may be, and forget it first.
    """
    words, mixed = ghosts.words, _mixed(key)
    high = _high(mixed)
    if words[COUNTS + FIRST_LIST] + words[COUNTS + SECOND_LIST] == words[CAPACITY]:
        forget_oldest(ghosts, which if words[COUNTS + which] > 0 else FIRST_LIST + SECOND_LIST - which)
    place, shift = _at(ghosts, words[NEXT]), _shift_of(ghosts)
    if list_of(ghosts, place) != NO_LIST:
        _forget_place(ghosts, place)
    _put(ghosts, _line_of(ghosts, mixed), which, (high >> shift << shift) | (int(place) << 1) | (which - FIRST_LIST))
    ghosts.log[place] = (high & ~LIST_MASK) | which
    words[NEXT] += 1
    words[COUNTS + which] += 1
