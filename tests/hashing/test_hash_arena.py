"""Pieces of the hash arena never overlap, are reused, and keep their hashes when they are packed."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvgpu.hashing.hash_arena import MAX_PIECES, MIN_PIECE, HashArena


def fill(arena, begin, end, value):
    arena.words[begin:end] = value
    arena.wrote(begin, end)


def copied(capacity):
    """An arena with a copy."""
    arena = HashArena(capacity)
    arena.copy = arena.words.copy()
    return arena


@pytest.mark.parametrize(("count", "room"), [(1, 8), (8, 8), (9, 16), (16, 16), (17, 32)])
def test_a_piece_has_room_to_grow_up_to_a_power_of_two(count, room):
    assert HashArena(100).take(count) == (0, max(MIN_PIECE, room))


def test_the_last_piece_is_cut_to_what_is_left():
    arena = HashArena(20)
    assert [arena.take(9), arena.take(4)] == [(0, 16), (16, 20)]


def test_there_is_no_piece_when_too_little_is_left():
    arena = HashArena(20)
    arena.take(16)
    assert arena.take(5) is None


def test_the_piece_that_was_given_back_last_is_handed_out_first():
    arena = HashArena(100)
    first, second, _ = arena.take(8), arena.take(8), arena.take(8)
    arena.give(*first)
    arena.give(*second)
    assert [arena.take(8), arena.take(8)] == [second, first]


def test_a_piece_at_the_end_goes_back_to_what_is_left():
    arena = HashArena(100)
    arena.give(*arena.take(30))
    assert arena.take(60) == (0, 64)


def test_a_piece_of_an_odd_size_is_handed_out_again_after_packing_only():
    arena = HashArena(28)
    odd = arena.take(20)[0], 20
    arena.take(8)
    arena.give(*odd)
    assert arena.take(8) is None
    assert arena.pack([(20, 28)], [0]) == [0]
    assert arena.take(20) == (8, 28)


def test_an_empty_piece_can_be_given_back():
    arena = HashArena(20)
    arena.give(0, 0)
    assert arena.take(16) == (0, 16)


def test_packing_keeps_hashes_and_leaves_gaps_behind_them():
    arena = HashArena(40)
    for begin, end in ((4, 7), (12, 20), (30, 34)):
        fill(arena, begin, end, begin)
    begins = arena.pack([(4, 7), (12, 20), (30, 34)], [5, 5, 5])
    assert begins == [0, 8, 21]
    values = [arena.words[b : b + n, 0].tolist() for b, n in zip(begins, (3, 8, 4), strict=True)]
    assert values == [[4] * 3, [12] * 8, [30] * 4]


def test_packing_counts_all_that_is_held_as_changed():
    arena = copied(40)
    arena.take_written()
    arena.pack([(4, 7), (12, 20)], [0, 0])
    assert arena.take_written() == [(0, 11)]


def test_a_larger_arena_has_the_same_hashes_and_pieces():
    arena = copied(20)
    first, second = arena.take(8), arena.take(8)
    fill(arena, *second, 7)
    arena.give(*first)
    larger = arena.grown(50)
    assert (larger.words[second[0] : second[1]] == 7).all()
    assert [larger.take(8), larger.take(16)] == [first, (16, 32)]


def test_a_larger_arena_counts_all_that_is_held_as_changed():
    arena = copied(20)
    arena.take(9)
    arena.take_written()
    assert arena.grown(50).take_written() == [(0, 16)]


def test_neighbouring_changes_are_one():
    arena = copied(40)
    for begin, end in ((0, 4), (4, 8), (2, 6), (20, 22)):
        arena.wrote(begin, end)
    assert arena.take_written() == [(0, 8), (20, 22)]


def test_changes_that_nobody_copies_are_not_noted():
    arena = HashArena(40)
    arena.wrote(0, 4)
    arena.wrote_all(np.array([[10, 20], [12, 22]]))
    assert arena.take_written() == []


def test_changes_are_told_once():
    arena = copied(40)
    arena.wrote(0, 4)
    arena.take_written()
    assert arena.take_written() == []


def test_changes_of_many_pieces_are_told_together():
    arena = copied(40)
    arena.wrote(0, 4)
    arena.wrote_all(np.array([[10, 20], [12, 22]]))
    assert arena.take_written() == [(0, 4), (10, 12), (20, 22)]


def test_too_many_pieces_become_one():
    arena = copied(4 * MAX_PIECES)
    arena.wrote(0, 1)
    begins = np.arange(3, 4 * MAX_PIECES, 4)
    arena.wrote_all(np.stack([begins, begins + 1]))
    assert arena.take_written() == [(0, 1), (3, 4 * MAX_PIECES)]


def test_too_many_changes_become_one():
    arena = copied(4 * MAX_PIECES)
    for begin in range(0, 4 * MAX_PIECES, 3):
        arena.wrote(begin, begin + 1)
    pieces = arena.take_written()
    assert len(pieces) <= MAX_PIECES
    assert (pieces[0][0], max(end for _, end in pieces)) == (0, 4 * MAX_PIECES)


@settings(max_examples=200, deadline=None)
@given(
    calls=st.lists(
        st.tuples(st.sampled_from(["take", "take", "give", "pack", "grow"]), st.integers(1, 40), st.integers(0, 3)),
        max_size=40,
    )
)
def test_pieces_never_overlap_and_never_lose_hashes(calls):
    """Pieces are (begin, end, limit); all hashes of a piece are the same number, different for each piece."""
    arena, held, made = HashArena(100), {}, 0
    for what, number, gap in calls:
        if what == "take":
            piece = arena.take(number)
            if piece is not None:
                made += 1
                begin, limit = piece
                assert begin + number <= limit <= len(arena)
                fill(arena, begin, begin + number, made)
                held[made] = (begin, begin + number, limit)
        elif what == "give" and held:
            begin, _, limit = held.pop(sorted(held)[number % len(held)])
            arena.give(begin, limit)
        elif what == "pack":
            order = sorted(held, key=lambda name: held[name][0])
            sizes = [held[name][1] - held[name][0] for name in order]
            gap = min(gap, (len(arena) - sum(sizes)) // max(1, len(order)))
            begins = arena.pack([held[name][:2] for name in order], [gap] * len(order))
            for name, begin, size in zip(order, begins, sizes, strict=True):
                held[name] = (begin, begin + size, begin + size + gap)
        elif what == "grow":
            arena = arena.grown(len(arena) + number)
        pieces = sorted(held.values())
        assert all(a[2] <= b[0] for a, b in pairwise(pieces))
        for name, (begin, end, _) in held.items():
            assert (arena.words[begin:end] == name).all()
