"""Keys that a policy remembers, beside the same in a few lines of Python."""

import random

import pytest
from eviction.plain_ghosts import MULTIPLIER, Ghosts

from kvgpu.compiled.cache_lines import CACHE_LINE
from kvgpu.compiled.jit import jit
from kvgpu.eviction.state import ghosts
from kvgpu.eviction.state.ghosts import (
    COUNTS,
    FIRST_LIST,
    FIRST_NUMBER,
    HEADS,
    LINE,
    NEXT,
    NONE,
    SECOND_LIST,
    find_ghost,
    forget_ghost,
    forget_oldest,
    list_of,
    make_ghosts,
    remember_ghost,
)

LISTS = (FIRST_LIST, SECOND_LIST)
REMEMBER, FIND, FORGET, FORGET_OLDEST = range(4)


@jit
def compiled_step(memory, what, which, key):
    """Do one thing; returns the list that a key is in before that."""
    place = find_ghost(memory, key)
    found = 0 if place == NONE else list_of(memory, place)
    if what == REMEMBER:
        remember_ghost(memory, which, key)
    elif what == FORGET:
        forget_ghost(memory, key)
    elif what == FORGET_OLDEST and memory.words[COUNTS + which] > 0:
        forget_oldest(memory, which)
    return found


def plain_step(memory, what, which, key):
    found = memory.list_of(key) or 0
    if what == REMEMBER:
        memory.remember(which, key)
    elif what == FORGET:
        memory.forget(key)
    elif what == FORGET_OLDEST and memory.count(which):
        memory.forget_oldest(which)
    return found


def both(capacity, first=FIRST_NUMBER):
    """Memories that give this number first."""
    compiled, plain = make_ghosts(capacity), Ghosts(capacity)
    compiled.words[[NEXT, HEADS + FIRST_LIST, HEADS + SECOND_LIST]] = plain.next = first
    return compiled, plain


def signed(word):
    return (word + (1 << 63)) % (1 << 64) - (1 << 63)


def keys_for(rng, count):
    return [rng.randrange(-(2**63), 2**63) for _ in range(count)]


@pytest.mark.parametrize("first", [FIRST_NUMBER, (1 << 31) - 60, 1 << 50])
@pytest.mark.parametrize("capacity", [1, 3, 20, 100])
@pytest.mark.parametrize("weights", [(8, 4, 1, 0), (8, 2, 6, 2), (20, 1, 1, 1)])
def test_it_remembers_what_plain_lists_remember(capacity, first, weights):
    rng = random.Random(capacity)
    compiled, plain = both(capacity, first)
    keys = keys_for(rng, 3 * capacity + 2)
    for _ in range(3000):
        step = rng.choices(range(4), weights)[0], rng.choice(LISTS), rng.choice(keys)
        assert compiled_step(compiled, *step) == plain_step(plain, *step)
        assert compiled.words[[COUNTS + each for each in LISTS]].tolist() == [plain.count(each) for each in LISTS]


def test_keys_of_one_line_crowd_out_the_oldest_of_them():
    compiled, _ = both(100)
    inverse = pow(MULTIPLIER, -1, 1 << 64)
    keys = [signed((number << 34) * inverse) for number in range(1, LINE + 3)]
    for key in keys:
        compiled_step(compiled, REMEMBER, FIRST_LIST, key)
    found = [compiled_step(compiled, FIND, 0, key) for key in keys]
    assert found == [0, 0] + [FIRST_LIST] * LINE
    assert compiled.words[COUNTS + FIRST_LIST] == LINE


@pytest.mark.parametrize("capacity", [30, 1000, 50_000])
def test_keys_of_groups_are_told_apart(capacity):
    """They differ in their lowest bits."""
    compiled, _ = both(capacity)
    for key in keys_for(random.Random(4), 20):
        compiled_step(compiled, REMEMBER, FIRST_LIST, key)
        assert [compiled_step(compiled, FIND, 0, key ^ group) for group in range(8)] == [FIRST_LIST] + [0] * 7


def test_a_log_may_be_shorter_than_the_memory(monkeypatch):
    """As that of very many keys is."""
    monkeypatch.setattr(ghosts, "MOST_NUMBER_BITS", 6)
    rng = random.Random(8)
    compiled, plain = both(100)
    plain.span = len(compiled.log)
    keys = keys_for(rng, 200)
    for _ in range(3000):
        step = rng.choices(range(4), (20, 4, 1, 1))[0], rng.choice(LISTS), rng.choice(keys)
        assert compiled_step(compiled, *step) == plain_step(plain, *step)
        assert compiled.words[[COUNTS + each for each in LISTS]].tolist() == [plain.count(each) for each in LISTS]
    assert plain.count(1) + plain.count(2) <= plain.span == 64


def test_of_a_full_memory_hardly_any_key_is_crowded_out():
    rng, capacity = random.Random(5), 20_000
    compiled, _ = both(capacity)
    for key in keys_for(rng, 4 * capacity):
        compiled_step(compiled, REMEMBER, FIRST_LIST, key)
    assert capacity - 2 <= compiled.words[COUNTS + FIRST_LIST] <= capacity


def test_keys_of_one_list_stay_while_the_other_churns():
    rng, capacity = random.Random(7), 10_000
    compiled, _ = both(capacity)
    kept = keys_for(rng, capacity // 2)
    for key in kept:
        compiled_step(compiled, REMEMBER, SECOND_LIST, key)
    for key in keys_for(rng, 6 * capacity):
        compiled_step(compiled, REMEMBER, FIRST_LIST, key)
    assert sum(compiled_step(compiled, FIND, 0, key) == SECOND_LIST for key in kept) == len(kept)


def test_a_key_is_forgotten_after_many_others_even_if_its_list_gets_no_more():
    compiled, _ = both(10)
    old, *others = keys_for(random.Random(6), 200)
    compiled_step(compiled, REMEMBER, SECOND_LIST, old)
    for key in others[:70]:
        compiled_step(compiled, REMEMBER, FIRST_LIST, key)
        compiled_step(compiled, FORGET, 0, key)
    assert compiled_step(compiled, FIND, 0, old) == SECOND_LIST
    for key in others[70:]:
        compiled_step(compiled, REMEMBER, FIRST_LIST, key)
        compiled_step(compiled, FORGET, 0, key)
    assert compiled_step(compiled, FIND, 0, old) == 0
    assert compiled.words[COUNTS + SECOND_LIST] == 0


def test_each_line_is_a_cache_line():
    assert [make_ghosts(n).lines.ctypes.data % CACHE_LINE for n in range(1, 20)] == [0] * 19
    assert make_ghosts(20).lines[0].nbytes == CACHE_LINE
