"""`BlockHashes`: block hashes of one request, stored as key words."""

import copy

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvgpu.errors import ArgumentError
from kvgpu.hashing import functions as hashing
from kvgpu.hashing.block_hashes import BlockHashes

widths = pytest.mark.parametrize("width", [16, 32])


def some_hashes(count, width=32):
    return [hashing.BlockHash(bytes([n + 1]) * width) for n in range(count)]


@widths
def test_hashes_come_out_as_they_went_in(width):
    given_hashes = some_hashes(5, width)
    assert list(BlockHashes(given_hashes)) == given_hashes


@widths
def test_keys_are_the_bytes_of_the_hashes_padded_with_zeros(width):
    keys = BlockHashes(some_hashes(3, width)).keys
    expected = b"".join(h + bytes(32 - width) for h in some_hashes(3, width))
    assert (keys.dtype, keys.shape, keys.tobytes()) == (np.int64, (3, 4), expected)


@widths
def test_the_width_is_that_of_the_first_hash(width):
    assert BlockHashes(some_hashes(1, width)).width == width


def test_an_empty_sequence_has_no_width_and_no_keys():
    hashes = BlockHashes()
    hashes.extend([])
    assert (len(hashes), hashes.width, hashes.keys.shape) == (0, 0, (0, 4))


@settings(max_examples=50, deadline=None)
@given(parts=st.lists(st.lists(st.binary(min_size=16, max_size=16), max_size=9), max_size=9))
def test_extending_in_parts_equals_extending_at_once(parts):
    hashes = BlockHashes()
    for part in parts:
        hashes.extend(part)
    assert list(hashes) == [block_hash for part in parts for block_hash in part]


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param([b"h" * 32, b"h" * 16], id="mixed widths"),
        pytest.param([b"h" * 20], id="neither 16 nor 32"),
        pytest.param([b"h" * 32, b""], id="an empty one"),
        pytest.param([bytearray(32)], id="bytearray"),
        pytest.param(["h" * 32], id="text"),
        pytest.param([b"h" * 32, 7], id="a number"),
        pytest.param([None], id="None"),
    ],
)
@pytest.mark.parametrize("count", [0, 3])
def test_what_are_no_hashes_of_one_width_is_refused_and_changes_nothing(bad, count):
    hashes = BlockHashes(some_hashes(count))
    with pytest.raises(ArgumentError):
        hashes.extend(bad)
    assert (list(hashes), hashes.width) == (some_hashes(count), 32 if count else 0)


def test_hashes_of_another_width_are_refused_and_change_nothing():
    hashes = BlockHashes(some_hashes(3))
    with pytest.raises(ArgumentError):
        hashes.extend([hashing.BlockHash(b"h" * 16)])
    assert (list(hashes), hashes.width) == (some_hashes(3), 32)


@pytest.mark.parametrize(
    ("held", "offered", "accepted"), [(0, 16, True), (0, 32, True), (0, 20, False), (32, 32, True), (32, 16, False)]
)
def test_it_can_be_asked_what_it_accepts(held, offered, accepted):
    hashes = BlockHashes(some_hashes(2, held) if held else [])
    assert hashes.accepts([b"h" * offered]) is accepted


@widths
@pytest.mark.parametrize("part", [slice(None), slice(1, 3), slice(-2, None), slice(None, None, -2), slice(4, 1)])
def test_slices_are_lists_like_those_of_a_list(width, part):
    plain = some_hashes(5, width)
    assert BlockHashes(plain)[part] == plain[part]


@widths
@pytest.mark.parametrize("index", [0, 4, -1, -5])
def test_indices_count_like_those_of_a_list(width, index):
    plain = some_hashes(5, width)
    assert BlockHashes(plain)[index] == plain[index]


@pytest.mark.parametrize("index", [5, -6])
def test_an_index_outside_is_an_index_error(index):
    with pytest.raises(IndexError):
        BlockHashes(some_hashes(5))[index]


def test_an_index_does_not_reach_into_the_spare_room():
    hashes = BlockHashes()
    for block_hash in some_hashes(20):
        hashes.extend([block_hash])
    with pytest.raises(IndexError):
        hashes[20]


@pytest.mark.parametrize(
    ("other", "equal"),
    [
        (BlockHashes(some_hashes(3)), True),
        (some_hashes(3), True),
        (BlockHashes(some_hashes(2)), False),
        (some_hashes(2), False),
        (BlockHashes(some_hashes(3, 16)), False),
        (tuple(some_hashes(3)), False),
        (None, False),
    ],
)
def test_it_equals_lists_and_its_like_of_the_same_hashes(other, equal):
    assert (BlockHashes(some_hashes(3)) == other) is equal


def test_hashes_of_another_width_differ_even_where_their_rows_are_equal():
    padded = [b"h" * 16 + bytes(16)]
    assert BlockHashes(padded) != BlockHashes([b"h" * 16])


def test_it_has_no_hash_of_its_own():
    with pytest.raises(TypeError):
        hash(BlockHashes())


def test_a_shallow_copy_grows_by_itself():
    hashes = BlockHashes([bytes([i]) * 16 for i in range(9)])
    hashes.extend([b"a" * 16])
    other = copy.copy(hashes)
    other.extend([b"o" * 16])
    hashes.extend([b"h" * 16])
    assert (hashes[-1], other[-1]) == (b"h" * 16, b"o" * 16)
    assert hashes[:-1] == other[:-1]
