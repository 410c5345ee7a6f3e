"""Keys of blocks that were evicted, in the order in which they were: what a policy remembers of them.

There are two lists, each first in, first out. As in the ghost table of S3-FIFO, a key has a number instead of a place
in a list, and one whose number is too old is forgotten without being touched. So to remember, find or forget a key
takes the cache line that its hash chooses, and callers load it ahead. A key is the upper half of a word of 64 bits, in
the line that the lower half chooses: of 2**29 keys that were never there one is taken for another.
"""

from typing import Any, NamedTuple

import numpy as np

from kvgpu.compiled.cache_lines import make_lines
from kvgpu.compiled.jit import lanes_equal, leaf, lowest_bit, prefetch

NO_LIST, FIRST_LIST, SECOND_LIST = range(3)
NONE = -1
"""No place."""

LINE = 8
"""Keys of a line."""
SLOTS_PER_KEY = 8
"""At least, so that of 100,000 keys hardly one finds its line full of others and drives out the oldest of them. A hit
needs all blocks of a prefix: with 2 a key, where one in 800 was driven out, S3-FIFO hit 6.1 % and not 7.1."""
NUMBERS_PER_KEY = 16
"""At least: a key is forgotten after so many times the capacity of later ones, at the latest."""

NEXT, HEADS, COUNTS, CAPACITY, GHOST_WORDS = 0, 0, 2, 5, 6
"""Words. NEXT: the next number. HEADS, COUNTS: with the number of a list, the number of its oldest key, or one before
it, and how many keys it has. CAPACITY: of both lists."""

HALF = 32
LOW_HALF = (1 << HALF) - 1
AGES = 1 << HALF - 1
"""A line knows numbers modulo this."""
FIRST_NUMBER = 1
"""So that no word of a key is EMPTY, but for one in very many."""
EMPTY = 0
"""A slot without a key. Those of a line are behind its keys."""


class Ghosts(NamedTuple):
    """Arrays of a memory of keys."""

    lines: Any
    """int64 [a power of two, LINE], the newest first: the upper half of a key, and below it its number and list."""
    lists: Any
    """uint8 [a power of two], by number modulo the length: the list of the key, or NO_LIST if it left it early."""
    words: Any
    """int64 [GHOST_WORDS]."""


def make_ghosts(capacity: int) -> Ghosts:
    """Make an empty memory of so many keys. O(capacity)."""
    lines = make_lines(1 << (SLOTS_PER_KEY * capacity // LINE - 1).bit_length())
    words = np.zeros(GHOST_WORDS, np.int64)
    words[NEXT] = words[HEADS + FIRST_LIST] = words[HEADS + SECOND_LIST] = FIRST_NUMBER
    words[CAPACITY] = capacity
    return Ghosts(lines, np.zeros(1 << (NUMBERS_PER_KEY * capacity - 1).bit_length(), np.uint8), words)


def counts_agree(ghosts: Ghosts) -> bool:
    """Return whether the words say what the lists are. Compiled code relies on nothing else. O(capacity)."""
    lists, words, total = ghosts.lists, ghosts.words, 0
    for each in (FIRST_LIST, SECOND_LIST):
        numbers = range(int(words[HEADS + each]), int(words[NEXT]))
        if not 0 < numbers.start <= numbers.stop or len(numbers) > len(lists):
            return False
        count = int((lists[np.arange(numbers.start, numbers.stop) & (len(lists) - 1)] == each).sum())
        if count != words[COUNTS + each]:
            return False
        total += count
    return bool(total <= words[CAPACITY])


@leaf
def _line_of(ghosts: Any, key: int) -> int:
    """Return the line of a key, which is random enough already: it is a part of a hash."""
    return int(key & (len(ghosts.lines) - 1))


@leaf
def load_ghost(ghosts: Any, key: int) -> None:
    """Start loading what is known of a key."""
    prefetch(ghosts.lines, _line_of(ghosts, key))


@leaf
def _word(key: int, number: int, which: int) -> int:
    """Return what a line holds of a key."""
    return int((key & ~LOW_HALF) | ((2 * number + which - FIRST_LIST) & LOW_HALF))


@leaf
def _age(ghosts: Any, word: int) -> int:
    """Return how many numbers were given since that of a word of a line."""
    return int((ghosts.words[NEXT] - (word >> 1)) & (AGES - 1))


@leaf
def _word_at(ghosts: Any, place: int) -> int:
    return int(ghosts.lines[np.uint64(place // LINE), np.uint64(place % LINE)])


@leaf
def _at(ghosts: Any, number: int) -> Any:
    """Return the place of a number among the lists."""
    return np.uint64(number & (len(ghosts.lists) - 1))


@leaf
def list_of(ghosts: Any, place: int) -> int:
    """Return the list that the key at a place is in, or NO_LIST."""
    word = _word_at(ghosts, place)
    age, which = _age(ghosts, word), FIRST_LIST + (word & 1)
    number = ghosts.words[NEXT] - age
    if word == EMPTY or age == 0 or number < ghosts.words[HEADS + which]:
        return NO_LIST
    # Here a key was forgotten early, or a word is so old that its number is in use again.
    return which if ghosts.lists[_at(ghosts, number)] == which else NO_LIST


@leaf
def find_ghost(ghosts: Any, key: int) -> int:
    """Return the place of a key, or NONE. O(1)."""
    line = _line_of(ghosts, key)
    found = lanes_equal(ghosts.lines, line, (key >> HALF) & LOW_HALF, HALF)
    while found != 0:
        place = line * LINE + lowest_bit(found)
        if list_of(ghosts, place) != NO_LIST:
            return int(place)
        found &= found - 1
    return NONE


@leaf
def _uncount(ghosts: Any, place: int) -> None:
    """Take the key at a place out of the list that it is in."""
    words = ghosts.words
    words[COUNTS + list_of(ghosts, place)] -= 1
    ghosts.lists[_at(ghosts, words[NEXT] - _age(ghosts, _word_at(ghosts, place)))] = NO_LIST


@leaf
def forget_ghost(ghosts: Any, place: int) -> None:
    """Forget the key at a place, which is in a list. O(1)."""
    _uncount(ghosts, place)
    line = np.uint64(place // LINE)
    for slot in range(place % LINE, LINE - 1):
        ghosts.lines[line, np.uint64(slot)] = ghosts.lines[line, np.uint64(slot + 1)]
    ghosts.lines[line, np.uint64(LINE - 1)] = EMPTY


@leaf
def _put(ghosts: Any, line: int, word: int) -> None:
    """Put a word in front of a line; the last one leaves, or if its key is in a list, the last one whose key is not."""
    last, at = line * LINE + LINE - 1, np.uint64(line)
    if list_of(ghosts, last) == NO_LIST:
        for slot in range(LINE - 1, 0, -1):
            ghosts.lines[at, np.uint64(slot)] = ghosts.lines[at, np.uint64(slot - 1)]
    else:
        leaves = LINE - 2
        while leaves >= 0 and list_of(ghosts, line * LINE + leaves) != NO_LIST:
            leaves -= 1
        if leaves < 0:
            leaves = LINE - 1
            _uncount(ghosts, last)
        for slot in range(leaves, 0, -1):
            ghosts.lines[at, np.uint64(slot)] = ghosts.lines[at, np.uint64(slot - 1)]
    ghosts.lines[at, np.uint64(0)] = word


@leaf
def forget_oldest(ghosts: Any, which: int) -> None:
    """Forget the oldest key of a list, which is not empty. Amortised O(1)."""
    head = ghosts.words[HEADS + which]
    while ghosts.lists[_at(ghosts, head)] != which:
        head += 1
    ghosts.words[HEADS + which] = head + 1
    ghosts.words[COUNTS + which] -= 1


@leaf
def _take_number(ghosts: Any, which: int) -> int:
    """Return the next number, for a key of a list; the key that has its place among the lists is forgotten."""
    words, number = ghosts.words, ghosts.words[NEXT]
    last = number - len(ghosts.lists)
    if min(words[HEADS + FIRST_LIST], words[HEADS + SECOND_LIST]) <= last:
        before = ghosts.lists[_at(ghosts, number)]
        if before != NO_LIST and words[HEADS + before] <= last:
            words[COUNTS + before] -= 1
        words[HEADS + FIRST_LIST] = max(words[HEADS + FIRST_LIST], last + 1)
        words[HEADS + SECOND_LIST] = max(words[HEADS + SECOND_LIST], last + 1)
    ghosts.lists[_at(ghosts, number)] = which
    words[NEXT] = number + 1
    words[COUNTS + which] += 1
    return int(number)


@leaf
def remember_ghost(ghosts: Any, which: int, key: int) -> None:
    """Put a key at the end of a list. Amortised O(1).

    If the memory is full, the oldest of the list is forgotten, or of the other one.
    """
    known = find_ghost(ghosts, key)
    if known != NONE:
        forget_ghost(ghosts, known)
    words = ghosts.words
    if words[COUNTS + FIRST_LIST] + words[COUNTS + SECOND_LIST] == words[CAPACITY]:
        forget_oldest(ghosts, which if words[COUNTS + which] > 0 else FIRST_LIST + SECOND_LIST - which)
    _put(ghosts, _line_of(ghosts, key), _word(key, _take_number(ghosts, which), which))
