"""Lists read from where their objects lie, beside what Python says that they hold."""

import sys
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvgpu.compiled import list_items
from kvgpu.compiled.list_items import LONG, copy_hashes, integers_of_list
from kvgpu.hashing.block_hashes import BlockHashes, keys_if_of_width
from kvgpu.hashing.inputs.token_arrays import token_array
from kvgpu.hashing.inputs.token_ids import TokenIds
from kvgpu.layout import KEY_WORDS


def hashes_of_list(listed, width):
    rows = np.full((len(listed), KEY_WORDS), -1, np.int64)
    return rows if copy_hashes(listed, width, rows) else None


class Bytes(bytes):
    pass


class Integer(int):
    pass


pytestmark = pytest.mark.skipif(not list_items.KNOWN_LAYOUT, reason="another layout of objects")


@settings(deadline=None)
@given(st.lists(st.integers(0, (1 << 30) - 1), max_size=100))
def test_integers_are_those_of_the_list(listed):
    found = integers_of_list(listed)
    assert found.dtype == np.int32
    assert found.tolist() == listed


@settings(deadline=None)
@given(st.lists(st.integers(-(1 << 70), 1 << 70), min_size=1, max_size=40))
def test_integers_are_right_or_refused(listed):
    fit = all(0 <= number < 1 << 30 for number in listed)
    found = integers_of_list(listed)
    assert (found is not None) == fit
    if found is not None:
        assert found.tolist() == listed


@pytest.mark.parametrize("place", [0, 1, 7, 8, 9, 49])
@pytest.mark.parametrize(
    "odd",
    [True, False, -1, -5, 1 << 30, -(1 << 30), 1 << 60, 1.0, None, "1", b"1", np.int32(3), Integer(3), Fraction(3), []],
    ids=repr,
)
def test_one_odd_item_among_integers_refuses_the_list(odd, place):
    listed = list(range(1000, 1050))
    listed[place] = odd
    assert integers_of_list(listed) is None


@pytest.mark.parametrize("width", [16, 32])
@settings(deadline=None)
@given(data=st.data())
def test_hashes_are_those_of_the_list(width, data):
    listed = data.draw(st.lists(st.binary(min_size=width, max_size=width), max_size=50))
    rows = hashes_of_list(listed, width)
    assert [row.tobytes() for row in rows] == [item.ljust(32, b"\0") for item in listed]


@pytest.mark.parametrize("place", [0, 1, 7, 8, 9, 49])
@pytest.mark.parametrize(
    "odd",
    [
        b"",
        bytes(31),
        bytes(33),
        bytes(16),
        bytearray(32),
        Bytes(32),
        memoryview(bytes(32)),
        "h" * 32,
        None,
        5,
        (1,) * 32,
    ],
    ids=lambda odd: f"{type(odd).__name__}-{(len(odd) if isinstance(odd, memoryview) else odd)!r:.20}",
)
def test_one_odd_item_among_hashes_refuses_the_list(odd, place):
    listed = [bytes([i]) * 32 for i in range(50)]
    listed[place] = odd
    assert hashes_of_list(listed, 32) is None


@pytest.mark.parametrize("known", [True, False])
def test_arrays_are_the_same_where_the_layout_is_not_known(monkeypatch, known):
    monkeypatch.setattr(list_items, "KNOWN_LAYOUT", known)
    tokens = [0, 7, (1 << 30) - 1, *range(300, 300 + LONG)]
    hashes = [bytes([i]) * 16 for i in range(2 * LONG)]
    assert token_array(tokens).tolist() == tokens
    assert token_array(tokens).dtype == np.int32
    assert TokenIds(tokens) == tokens
    assert TokenIds([*tokens, 1 << 40])[:] == [*tokens, 1 << 40]
    assert BlockHashes.of_keys(keys_if_of_width(hashes, 16), 16) == hashes
    assert keys_if_of_width(hashes, 32) is None


@pytest.mark.parametrize("length", [0, 10, 19, 21, 40])
def test_a_list_that_has_changed_since_its_length_was_taken_is_refused(length):
    listed = [bytes([i]) * 32 for i in range(length)]
    rows = np.zeros((40, KEY_WORDS), np.int64)
    assert not copy_hashes(listed, 32, rows[:20])
    assert not rows.any()


def test_subclasses_of_bytes_are_taken_all_the_same():
    hashes = [Bytes([i]) * 32 for i in range(2 * LONG)]
    hashes[3] = Bytes(hashes[3])
    assert BlockHashes.of_keys(keys_if_of_width(hashes, 32), 32)[:] == hashes


def test_reference_counts_stay():
    number, data = int("1000003"), bytes([7]) * 32
    integers, hashes = [number] * 50, [data] * 50
    before = [sys.getrefcount(number), sys.getrefcount(data)]
    assert integers_of_list(integers) is not None
    assert hashes_of_list(hashes, 32) is not None
    after = [sys.getrefcount(number), sys.getrefcount(data)]
    assert after == before
