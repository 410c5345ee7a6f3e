"""The journal: net changes since the last flush, good to keep a copy of an index up to date."""

import numpy as np
import pytest
from support.indexes import chain, erase, ids_of, insert, make_index, random_rows, replay
from support.managers import per_backend

from kvgpu.index.journal import Journal
from kvgpu.layout import KEY_WORDS


@pytest.fixture
def journal():
    return Journal()


@pytest.fixture
def index(backend, journal):
    return make_index(backend, 64, journal)


def changes(flush):
    """(group, old, new) of each change."""
    return list(zip(flush.group.tolist(), flush.old.tolist(), flush.new.tolist(), strict=True))


def firsts(index, rows, groups):
    """Who is first under each key, by asking the index."""
    found = {(row.tobytes(), group): index.first(row, group) for row in rows for group in groups}
    return {key: block for key, block in found.items() if block >= 0}


def test_a_new_journal_is_empty(journal):
    flush = journal.take()
    assert len(journal) == 0
    assert flush.keys.shape == (0, KEY_WORDS)
    assert changes(flush) == []


@per_backend
class TestJournal:
    def test_a_new_key_is_a_change_from_none(self, index, journal):
        row = random_rows(1)
        insert(index, [5], row, 7)
        flush = journal.take()
        assert flush.keys.tolist() == row.tolist()
        assert changes(flush) == [(7, -1, 5)]

    def test_a_lost_key_is_a_change_to_none(self, index, journal):
        insert(index, [5], random_rows(1))
        journal.take()
        erase(index, 5)
        assert changes(journal.take()) == [(0, 5, -1)]

    def test_a_promotion_is_a_change(self, index, journal):
        insert(index, [5, 6], random_rows(1)[[0, 0]])
        journal.take()
        erase(index, 5)
        assert changes(journal.take()) == [(0, 5, 6)]

    def test_a_duplicate_that_comes_or_goes_is_none(self, index, journal):
        insert(index, [5, 6], random_rows(1)[[0, 0]])
        journal.take()
        insert(index, [7], random_rows(1))
        erase(index, 6)
        assert len(journal) == 0

    def test_a_flush_leaves_the_journal_empty(self, index, journal):
        insert(index, [5], random_rows(1))
        journal.take()
        assert len(journal) == 0
        assert changes(journal.take()) == []

    def test_a_key_that_came_and_left_is_no_change(self, index, journal):
        insert(index, [5], random_rows(1))
        erase(index, 5)
        assert changes(journal.take()) == []

    def test_a_block_that_left_and_came_back_is_no_change(self, index, journal):
        insert(index, [5], random_rows(1))
        journal.take()
        erase(index, 5)
        insert(index, [5], random_rows(1))
        assert changes(journal.take()) == []

    def test_several_changes_of_a_key_are_one(self, index, journal):
        insert(index, [5, 6, 7], random_rows(1)[[0] * 3])
        journal.take()
        erase(index, 5, 6)
        assert changes(journal.take()) == [(0, 5, 7)]

    def test_a_block_evicted_and_entered_under_another_key_changes_both(self, index, journal):
        rows = random_rows(2)
        insert(index, [5], rows[:1])
        journal.take()
        erase(index, 5)
        insert(index, [5], rows[1:])
        flush = journal.take()
        assert flush.keys.tolist() == rows.tolist()
        assert changes(flush) == [(0, 5, -1), (0, -1, 5)]

    def test_groups_of_one_hash_are_keys_of_their_own(self, index, journal):
        row = random_rows(1)
        insert(index, [5], row, 0)
        insert(index, [6], row, 2**31 - 1)
        assert changes(journal.take()) == [(0, -1, 5), (2**31 - 1, -1, 6)]

    def test_changes_come_in_the_order_in_which_keys_first_changed(self, index, journal):
        rows = random_rows(3)
        insert(index, [1, 2, 3], rows[[2, 0, 1]])
        erase(index, 1)
        insert(index, [4], rows[2])
        assert journal.take().keys.tolist() == rows[[2, 0, 1]].tolist()

    def test_a_block_that_is_entered_alone_is_noted(self, index, journal):
        insert(index, [5], random_rows(1))
        erase(index, 5, forget=False)
        journal.take()
        index.enter(5)
        assert changes(journal.take()) == [(0, -1, 5)]

    def test_clearing_the_index_discards_what_was_noted(self, index, journal):
        insert(index, [5], random_rows(1))
        index.clear()
        assert len(journal) == 0

    def test_more_notes_than_there_was_room_for_are_kept(self, backend, journal):
        index, rows = make_index(backend, 1000, journal), random_rows(1000)
        insert(index, range(600), rows[:600])
        insert(index, range(600, 1000), rows[600:])
        assert changes(journal.take()) == [(0, -1, block) for block in range(1000)]

    @pytest.mark.parametrize("batch", [1, 7, 40])
    def test_a_replayed_copy_equals_the_index_after_every_flush(self, index, journal, batch):
        random = np.random.default_rng(batch)
        rows, groups = random_rows(12), (0, 3)
        copy = {}
        for _ in range(60):
            for _ in range(3):
                inside = {i for g in groups for row in rows for i in chain(index, row, g)}
                outside = random.permutation([i for i in range(64) if i not in inside])[:batch]
                keys = rows[random.integers(len(rows), size=len(outside))]
                insert(index, outside, keys, int(random.choice(groups)))
                index.erase(ids_of(*random.permutation(64)[:batch]))
            replay(copy, journal.take())
            assert copy == firsts(index, rows, groups)
