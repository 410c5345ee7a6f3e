"""`TokenIds` behaves like a list of integers, and refuses anything else."""

import copy

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvgpu.errors import ArgumentError, ArgumentTypeError, KVGPUError
from kvgpu.hashing.inputs.token_ids import TokenIds

EDGES = [0, 1, -1, 2**31 - 1, 2**31, -(2**31), -(2**31) - 1, 2**63 - 1, -(2**63)]

narrow = st.integers(-(2**31), 2**31 - 1)
wide = narrow | st.sampled_from(EDGES) | st.integers(-(2**63), 2**63 - 1)
tokens = st.lists(narrow, max_size=20) | st.lists(wide, max_size=20)
places = st.none() | st.integers(-25, 25)
slices = st.builds(slice, places, places, st.sampled_from([None, 1, 2, -1, -3]))


def ids_of(values, dtype=np.int64):
    return TokenIds(np.array(values, dtype))


# A list of the same integers


@settings(max_examples=50, deadline=None)
@given(values=tokens)
def test_tokens_come_out_as_they_went_in(values):
    assert list(ids_of(values)) == values


@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", ">i4", ">i8"])
def test_tokens_may_come_from_integers_of_any_width(dtype):
    assert list(TokenIds(np.array([0, 7, 127], dtype))) == [0, 7, 127]


@pytest.mark.parametrize("part", [slice(None, None, 2), slice(None, None, -1)])
def test_tokens_may_come_from_an_array_with_gaps(part):
    values = np.arange(20, dtype=np.int32)
    assert list(TokenIds(values[part])) == values.tolist()[part]


def test_the_array_given_is_copied():
    values = np.arange(4, dtype=np.int32)
    ids = TokenIds(values)
    values[0] = 9
    assert ids == [0, 1, 2, 3]


def test_tokens_come_out_as_plain_integers():
    ids = ids_of([1, 2], np.int32)
    assert {type(ids[0]), *map(type, ids[:]), *map(type, ids)} == {int}


@settings(max_examples=60, deadline=None)
@given(
    first=tokens,
    steps=st.lists(
        st.tuples(st.just("append"), wide)
        | st.tuples(st.just("extend"), tokens)
        | st.tuples(st.just("forget"), st.integers(-30, 30)),
        max_size=12,
    ),
)
def test_tokens_grow_and_shrink_like_a_list(first, steps):
    ids, model = (ids_of(first, np.int32 if all(-(2**31) <= t < 2**31 for t in first) else None), [*first])
    for step, value in steps:
        if step == "append":
            ids.append(value)
            model.append(value)
        elif step == "extend":
            ids.extend(value)
            model.extend(value)
        else:
            del ids[value:]
            del model[value:]
        assert (len(ids), ids[:], ids.array.tolist()) == (len(model), model, model)


@settings(max_examples=60, deadline=None)
@given(values=tokens, part=slices)
def test_slices_are_lists_like_those_of_a_list(values, part):
    found = ids_of(values)[part]
    assert (type(found), found) == (list, values[part])


@settings(max_examples=60, deadline=None)
@given(values=tokens, index=st.integers(-25, 25))
def test_an_index_counts_like_that_of_a_list(values, index):
    ids = ids_of(values)
    if -len(values) <= index < len(values):
        assert ids[index] == values[index]
    else:
        with pytest.raises(IndexError):
            ids[index]


def test_an_index_does_not_reach_what_was_forgotten_or_is_spare():
    ids = ids_of(range(40))
    del ids[20:]
    ids.append(7)
    with pytest.raises(IndexError):
        ids[21]


@pytest.mark.parametrize("more", [range(3), (0, 1, 2), np.arange(3), np.arange(3, dtype=np.uint8), TokenIds([0, 1, 2])])
def test_tokens_may_be_extended_by_any_sequence_of_integers(more):
    ids = ids_of([9], np.int32)
    ids.extend(more)
    assert ids == [9, 0, 1, 2]


def test_tokens_may_be_extended_by_themselves():
    ids = ids_of([1, 2], np.int32)
    ids.extend(ids)
    ids.extend(ids.array)
    assert ids == [1, 2] * 4


def test_nothing_may_be_appended():
    ids = ids_of([1])
    ids.extend([])
    ids.extend(np.zeros(0))
    assert ids == [1]


@settings(max_examples=50, deadline=None)
@given(values=tokens, other=tokens)
def test_equality_is_that_of_lists(values, other):
    ids = ids_of(values)
    assert ids == values
    assert (ids == other) is (ids == ids_of(other)) is (values == other)


def test_tokens_of_two_widths_are_equal_where_their_integers_are():
    assert ids_of([1, 2], np.int32) == ids_of([1, 2], np.int64)


@pytest.mark.parametrize("other", [(1, 2), None, "12", 12])
def test_tokens_equal_nothing_else(other):
    assert ids_of([1, 2]) != other


def test_tokens_have_no_hash():
    with pytest.raises(TypeError):
        hash(ids_of([1]))


def test_their_representation_shows_the_tokens():
    assert repr(ids_of([1, 2])) == "TokenIds([1, 2])"


@pytest.mark.parametrize("part", [slice(0, 2), slice(1, 3), slice(None, None, 2), slice(-3, -1)])
def test_only_tokens_at_the_end_can_be_deleted(part):
    ids = ids_of([1, 2, 3, 4])
    with pytest.raises(ArgumentError):
        del ids[part]
    assert ids == [1, 2, 3, 4]


# Widths


@pytest.mark.parametrize("dtype", [np.int8, np.uint16, np.int32])
def test_tokens_of_few_bits_are_kept_in_32(dtype):
    assert TokenIds(np.array([1], dtype)).array.dtype == np.int32


@pytest.mark.parametrize("token", [-(2**31), 2**31 - 1])
def test_tokens_that_fit_do_not_widen_the_array(token):
    ids = ids_of([1, 2], np.int32)
    ids.append(token)
    assert (ids.array.dtype, ids[:]) == (np.int32, [1, 2, token])


@pytest.mark.parametrize("token", [2**31, 2**32, 2**32 + 1, -(2**31) - 1, 2**63 - 1, -(2**63)])
def test_a_wide_token_widens_the_array_and_keeps_the_others(token):
    ids = ids_of([-5, 2], np.int32)
    ids.extend([3, token])
    ids.append(4)
    assert (ids.array.dtype, ids[:]) == (np.int64, [-5, 2, 3, token, 4])


def test_unsigned_numbers_of_32_bits_keep_their_value():
    ids = ids_of([1], np.int32)
    ids.extend(np.array([2**32 - 1], np.uint32))
    assert ids == [1, 2**32 - 1]


# Refusals

BAD = [
    pytest.param([1.0], ArgumentTypeError, id="a float"),
    pytest.param([1, 2.5], ArgumentTypeError, id="a float among integers"),
    pytest.param(np.array([1.0]), ArgumentTypeError, id="array of floats"),
    pytest.param([True], ArgumentTypeError, id="a truth value"),
    pytest.param([1, True], ArgumentTypeError, id="a truth value among integers"),
    pytest.param(np.array([True]), ArgumentTypeError, id="array of truth values"),
    pytest.param(["a"], ArgumentTypeError, id="text"),
    pytest.param([None], ArgumentTypeError, id="None"),
    pytest.param([[1, 2]], ArgumentTypeError, id="two axes"),
    pytest.param(np.zeros((2, 2), np.int32), ArgumentTypeError, id="array of two axes"),
    pytest.param([[1], [2, 3]], ArgumentTypeError, id="ragged"),
    pytest.param(np.int64(3), ArgumentTypeError, id="no axis"),
]
TOO_BIG = [[2**63], [1, 2**63], [2**64], [2**70], [-(2**63) - 1]]


@pytest.mark.parametrize(("bad", "error"), BAD)
@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_what_are_no_integers_is_refused_and_changes_nothing(bad, error, dtype):
    ids = ids_of([1, 2], dtype)
    with pytest.raises(error):
        ids.extend(bad)
    assert (ids.array.dtype, ids[:]) == (dtype, [1, 2])


@pytest.mark.parametrize("bad", TOO_BIG)
@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_integers_beyond_64_bits_are_refused_and_change_nothing(bad, dtype):
    ids = ids_of([1, 2], dtype)
    with pytest.raises(ArgumentError):
        ids.extend(bad)
    assert (ids.array.dtype, ids[:]) == (dtype, [1, 2])


@pytest.mark.parametrize("bad", [1.5, True, None, "a", [1], 2**63])
def test_one_bad_token_is_refused_and_changes_nothing(bad):
    ids = ids_of([1, 2], np.int32)
    with pytest.raises(ArgumentError):
        ids.append(bad)
    assert (ids.array.dtype, ids[:]) == (np.int32, [1, 2])


@pytest.mark.parametrize(("bad", "error"), BAD)
def test_no_tokens_are_made_of_what_are_no_integers(bad, error):
    with pytest.raises(error):
        TokenIds(bad)


@pytest.mark.parametrize("bad", TOO_BIG)
def test_no_tokens_are_made_of_integers_beyond_64_bits(bad):
    with pytest.raises(KVGPUError):
        TokenIds(bad)


def test_a_shallow_copy_grows_by_itself():
    tokens = TokenIds([1, 2, 3])
    tokens.append(4)
    other = copy.copy(tokens)
    other.append(6)
    tokens.append(5)
    assert (tokens, other) == ([1, 2, 3, 4, 5], [1, 2, 3, 4, 6])


@pytest.mark.parametrize("dtype", [None, np.int32, np.int64, np.float64])
def test_numpy_takes_them_for_an_array(dtype):
    made = np.array(ids_of([1, 2], np.int32), dtype)
    assert (made.dtype, made.tolist()) == (np.int32 if dtype is None else dtype, [1, 2])
