"""Rows of block ids in one array: a model of lists, and memory that is used again."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvgpu.block_tables.store import (
    BEGIN,
    LENGTH,
    LIMIT,
    NUM_CACHED,
    SERIAL,
    SMALLEST_CLASS,
    TOP,
    BlockTableStore,
    segment_class,
)
from kvgpu.compiled.jit import jit, python_of


def ids(*values):
    return np.array(values, np.int32)


def segments(store):
    """Memory of all rows, sorted."""
    used = store.tables[store.tables[:, LIMIT] > 0]
    return sorted(zip(used[:, BEGIN].tolist(), used[:, LIMIT].tolist(), strict=True))


def test_a_new_row_is_empty_and_handled_by_nobody():
    store = BlockTableStore()
    row = store.open()
    assert (store.of(row).tolist(), store.tables[row, NUM_CACHED]) == ([], -1)


def test_ids_are_appended_in_order():
    store = BlockTableStore()
    row = store.open()
    store.append(row, ids(1, 2))
    store.append(row, ids())
    store.append(row, ids(3))
    assert store.of(row).tolist() == [1, 2, 3]


def test_a_row_that_moves_keeps_its_ids():
    store = BlockTableStore()
    first, second = store.open_many(2).tolist()
    for i in range(100):
        store.append(first, ids(i))
        store.append(second, ids(-i))
    assert store.of(first).tolist() == list(range(100))
    assert store.of(second).tolist() == [-i for i in range(100)]


def test_many_rows_can_be_opened_at_once():
    store = BlockTableStore()
    rows = store.open_many(50)
    assert len(set(rows.tolist())) == store.num_used() == 50


def test_opening_more_rows_keeps_what_others_hold():
    store = BlockTableStore()
    row = store.open()
    store.append(row, ids(4, 5))
    store.open_many(100)
    assert store.of(row).tolist() == [4, 5]


def test_no_two_tables_have_one_serial():
    store = BlockTableStore()
    serials = []
    for _ in range(5):
        rows = store.open_many(4)
        serials += store.tables[rows, SERIAL].tolist()
        for row in rows.tolist():
            store.close(row)
    assert len(set(serials)) == 20
    assert 0 not in serials


def test_a_closed_row_has_no_serial_and_is_not_used():
    store = BlockTableStore()
    row = store.open()
    store.append(row, ids(1))
    store.close(row)
    assert (store.tables[row, SERIAL], store.tables[row, LENGTH], store.num_used()) == (0, 0, 0)


def test_memory_that_was_given_back_is_used_again():
    store = BlockTableStore()
    for _ in range(1000):
        row = store.open()
        store.append(row, np.arange(20, dtype=np.int32))
        store.close(row)
    assert (store.free_segments[TOP], len(store.tables)) == (32, 8)


def test_a_row_that_moves_leaves_its_memory_to_others():
    store = BlockTableStore()
    long, short = store.open_many(2).tolist()
    store.append(long, np.arange(8, dtype=np.int32))
    store.append(long, ids(8))
    store.append(short, ids(1))
    assert store.tables[short, BEGIN] == 0


@pytest.mark.parametrize(("length", "expected"), [(0, 8), (1, 8), (8, 8), (9, 16), (16, 16), (17, 32)])
def test_segments_are_powers_of_two(length, expected):
    assert 1 << jit(python_of(segment_class))(length) == expected
    assert expected >= 1 << SMALLEST_CLASS


@pytest.mark.parametrize("count", [0, 64, 65, 1000])
def test_what_is_reserved_can_be_taken(count):
    store = BlockTableStore()
    store.reserve(count)
    assert len(store.ids) >= count


@settings(max_examples=200, deadline=None)
@given(
    calls=st.lists(st.tuples(st.sampled_from(["open", "append", "append", "close"]), st.integers(0, 99)), max_size=60)
)
def test_rows_are_lists_that_never_share_memory(calls):
    store, model, made = BlockTableStore(), {}, 0
    for what, number in calls:
        if what == "open":
            model.update({row: [] for row in store.open_many(number % 4).tolist()})
        elif model:
            row = sorted(model)[number % len(model)]
            if what == "close":
                store.close(row)
                del model[row]
            else:
                new = list(range(made, made + number % 20))
                made += len(new)
                store.append(row, ids(*new))
                model[row] += new
        assert {row: store.of(row).tolist() for row in model} == model
        assert store.num_used() == len(model)
        held = segments(store)
        assert all(a + n <= b for (a, n), (b, _) in pairwise(held))
        assert sum(n for _, n in held) <= store.free_segments[TOP] <= len(store.ids)
