"""Overflow counters of the host's table: each counts entries of its own tags, and one that is full stays full."""

import numpy as np
import pytest
from support.indexes import erase, insert, make_index, random_rows
from support.slot_hashes import crowd, key_of_hash

from kvgpu.index.host.table import counters
from kvgpu.layout import OVERFLOW_COUNTERS, OVERFLOW_FULL, OVERFLOW_SHIFT, OVERFLOW_WORD, SLOTS_PER_BUCKET

SEED = 12345
CROWD = 330
"""More than a counter can count, and the seven that fit into the first bucket."""

every_counter = pytest.mark.parametrize("counter", range(OVERFLOW_COUNTERS))


def hash_in(bucket, num_buckets, counter):
    """A slot hash that leads to a bucket and is counted in a counter."""
    return (((bucket << 32) + (1 << 31)) // num_buckets << 32) | counter << OVERFLOW_SHIFT | 1


def counted(index):
    return counters(index.table[:, OVERFLOW_WORD])


def empty_index(num_blocks):
    index = make_index("host", num_blocks)
    index.seed = SEED
    return index


def expect_exactly(index, rows, entered):
    """Keys that were entered are found, the others are not, and everything agrees."""
    assert [index.first(row, 0) for row in rows] == [i if i in entered else -1 for i in range(len(rows))]
    index.check()


@pytest.mark.parametrize("dice", range(3))
def test_a_crowd_of_one_slot_hash_is_told_apart_and_found_while_it_comes_and_goes(dice):
    index, rng = empty_index(CROWD + 40), np.random.default_rng(dice)
    rows = np.concatenate([crowd(SEED, hash_in(5, len(index.table), 3), CROWD), random_rows(40)])
    entered = set()
    for share in (1, 0.5, 0.9, 0):
        for block in rng.permutation(len(rows)).tolist():
            wanted = rng.random() < share
            if wanted and block not in entered:
                insert(index, [block], rows[block])
                entered.add(block)
            elif not wanted and block in entered:
                erase(index, block)
                entered.remove(block)
        expect_exactly(index, rows, entered)
        if share == 1:
            assert (counted(index) == OVERFLOW_FULL).any()
    assert set(np.unique(counted(index))) == {0, OVERFLOW_FULL}


def test_a_full_counter_stays_full_until_the_table_is_made_anew():
    index = empty_index(CROWD)
    rows = crowd(SEED, hash_in(5, len(index.table), 3), CROWD)
    insert(index, range(CROWD), rows)
    full = counted(index) == OVERFLOW_FULL
    assert full[5].tolist() == [counter == 3 for counter in range(OVERFLOW_COUNTERS)]
    erase(index, *range(10, CROWD))
    assert (counted(index) == np.where(full, OVERFLOW_FULL, 0)).all()
    index.rebuild()
    assert counted(index).sum() == counted(index)[5, 3] == 10 - SLOTS_PER_BUCKET
    index.check()


@every_counter
def test_no_change_touches_a_header_in_which_all_counters_are_full(counter):
    index = empty_index(40)
    rows = crowd(SEED, hash_in(2, len(index.table), counter), 40)
    index.table[2, OVERFLOW_WORD] = -1
    insert(index, range(40), rows)
    expect_exactly(index, rows, set(range(40)))
    erase(index, *range(40))
    expect_exactly(index, rows, set())
    assert index.table[2, OVERFLOW_WORD] == -1
    index.clear()
    assert not index.table.any()


@every_counter
def test_a_search_goes_on_only_if_an_entry_of_its_own_counter_went_past(counter):
    """The word lies one bucket further than the counters say: who looks there finds it."""
    index = empty_index(40)
    num_buckets = len(index.table)
    row = key_of_hash(SEED, hash_in(num_buckets - 1, num_buckets, counter), [0, 0, 0, 0])
    insert(index, [0], row)
    table = index.table
    table[0, :SLOTS_PER_BUCKET], table[-1, :SLOTS_PER_BUCKET] = table[-1, :SLOTS_PER_BUCKET].copy(), 0
    assert index.first(row, 0) == -1
    table.view(np.uint8)[-1, -OVERFLOW_COUNTERS:] = [255 * (other != counter) for other in range(OVERFLOW_COUNTERS)]
    assert index.first(row, 0) == -1
    table.view(np.uint8)[-1, -OVERFLOW_COUNTERS:] = [other == counter for other in range(OVERFLOW_COUNTERS)]
    assert index.first(row, 0) == 0
    index.check()


def test_a_counter_that_is_neither_right_nor_full_is_found():
    index = empty_index(40)
    insert(index, range(20), crowd(SEED, hash_in(2, len(index.table), 6), 20))
    index.check()
    index.table[2, OVERFLOW_WORD] += 1 << 8 * 5
    assert index._table_violations() == ["counter 5 of bucket 2 counts 1 overflows, has 0"]
