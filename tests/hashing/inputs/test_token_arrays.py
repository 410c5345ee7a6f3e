"""Token ids are the same numbers in any container, and anything but integers [n] is refused."""

import importlib.util
import sys
import threading
from array import array as packed
from enum import IntEnum

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvgpu.errors import ArgumentError, ArgumentTypeError
from kvgpu.hashing.inputs.token_arrays import fit_32_bits, plain_tokens, token_array
from kvgpu.hashing.inputs.token_ids import TokenIds, own_tokens

EDGES = [0, 1, -1, 2**31 - 1, 2**31, -(2**31), -(2**31) - 1, 2**63 - 1, -(2**63)]

narrow = st.integers(-(2**31), 2**31 - 1)
wide = narrow | st.sampled_from(EDGES) | st.integers(-(2**63), 2**63 - 1)

by_place = pytest.mark.parametrize("place", [0, 2, 4])
by_length = pytest.mark.parametrize("length", [4, 30], ids=["short", "long"])
by_use = pytest.mark.parametrize("use", [token_array, plain_tokens, own_tokens])


class Color(IntEnum):
    RED = 3


def with_one(odd, place, length):
    values = list(range(1, length + 1))
    values.insert(place, odd)
    return values


@settings(max_examples=60, deadline=None)
@given(values=st.lists(narrow, max_size=40))
def test_plain_integers_of_32_bits_become_int32(values):
    found = token_array(values)
    assert (found.dtype, found.tolist()) == (np.int32, values)


@settings(max_examples=60, deadline=None)
@given(values=st.lists(wide, max_size=40))
def test_plain_integers_of_64_bits_become_an_array_of_them(values):
    assert token_array(values).tolist() == values


@pytest.mark.parametrize("token", EDGES)
def test_the_array_is_wide_only_where_a_token_is(token):
    expected = np.int32 if -(2**31) <= token < 2**31 else np.int64
    assert token_array([1, token, 2]).dtype == expected


@pytest.mark.parametrize("make", [list, tuple, iter, TokenIds])
def test_any_row_of_integers_will_do(make):
    assert token_array(make([1, 2, 3])).tolist() == [1, 2, 3]


@pytest.mark.parametrize("empty", [[], (), TokenIds([])])
def test_no_tokens_are_an_empty_array(empty):
    found = token_array(empty)
    assert (found.shape, found.dtype.kind) == ((0,), "i")


def test_the_array_of_token_ids_is_not_copied():
    ids = TokenIds([1, 2, 3])
    assert np.shares_memory(token_array(ids), ids.array)


@pytest.mark.parametrize("odd", [True, False, Color.RED, 2**63, -(2**63) - 1, 2**70, np.uint64(2**63)], ids=repr)
@by_place
@by_length
def test_integers_that_no_array_tells_from_others_make_none(odd, place, length):
    values = with_one(odd, place, length)
    assert token_array(values) is None
    assert plain_tokens(values) == values


@pytest.mark.parametrize("odd", [*map(np.dtype, "bBhHiIlLqQ")], ids=str)
@by_place
@by_length
def test_integers_of_numpy_count_as_their_numbers(odd, place, length):
    values = with_one(odd.type(100), place, length)
    expected = with_one(100, place, length)
    assert token_array(values).tolist() == expected
    plain = plain_tokens(values)
    assert (plain, {*map(type, plain)}) == (expected, {int})


NO_INTEGERS = [
    1.0,
    1j,
    None,
    "a",
    b"abc",
    [1],
    (),
    object(),
    np.float32(1),
    np.bool_(True),
    np.timedelta64(3, "s"),
    np.array(3),
    np.array([3]),
]


@pytest.mark.parametrize("odd", NO_INTEGERS, ids=lambda odd: f"{type(odd).__name__} {odd!r:.9}")
@by_place
@by_length
@by_use
def test_anything_else_among_the_integers_is_refused(use, odd, place, length):
    with pytest.raises(ArgumentTypeError, match="integers"):
        use(with_one(odd, place, length))


@pytest.mark.parametrize("values", [[True, 1.5], [1.5, True, b""], [Ellipsis] * 20])
def test_what_is_as_long_as_integers_when_written_is_still_told_from_them(values):
    with pytest.raises(ArgumentTypeError):
        token_array(values)


# Arrays of other libraries

NUMBERS = [5, 0, 127, 3, *range(40)]
torch = pytest.importorskip("torch") if importlib.util.find_spec("torch") else None
ARRAYS = {
    **{f"NumPy {kind}": np.array(NUMBERS, kind) for kind in "bBhHiIlLqQ"},
    "big-endian": np.array(NUMBERS, ">i4"),
    "every second": np.repeat(NUMBERS, 2)[::2],
    "backwards": np.array(NUMBERS[::-1], np.int32)[::-1],
    "only to be read": np.frombuffer(np.array(NUMBERS, np.int32).tobytes(), np.int32),
    "not aligned": np.frombuffer(b"." + np.array(NUMBERS, np.int32).tobytes(), np.uint8)[1:].view("<i4"),
    "a subclass": np.array(NUMBERS, np.int64).view(np.recarray),
    **{f"array {kind}": packed(kind, NUMBERS) for kind in "bBhHiIlLqQ"},
    "memoryview": memoryview(packed("q", NUMBERS)),
    "bytes": bytes(NUMBERS),
    "bytearray": bytearray(NUMBERS),
    "TokenIds": TokenIds(NUMBERS),
    "tuple": tuple(NUMBERS),
    **(
        {}
        if torch is None
        else {"torch": torch.tensor(NUMBERS), "torch int32": torch.tensor(NUMBERS, dtype=torch.int32)}
    ),
}


@pytest.mark.parametrize("kind", ARRAYS)
def test_arrays_of_any_library_are_the_numbers_that_they_hold(kind):
    array = token_array(ARRAYS[kind])
    assert (array.tolist(), array.dtype.kind, array.flags.carray) == (NUMBERS, "i", True)
    plain = plain_tokens(ARRAYS[kind])
    assert (plain, {*map(type, plain)}) == (NUMBERS, {int})
    held, known = own_tokens(ARRAYS[kind])
    assert (held, {*map(type, held)}) == (NUMBERS, {int})
    assert known is None or known.tolist() == NUMBERS


@pytest.mark.parametrize("array", [np.arange(50), np.arange(50, dtype=np.int32)], ids=str)
def test_an_array_of_32_or_64_bits_is_not_copied(array):
    assert token_array(array) is array


def test_a_buffer_is_not_held_so_that_it_can_grow():
    numbers = packed("i", NUMBERS)
    array = token_array(numbers)
    numbers.append(7)
    assert array.tolist() == NUMBERS


def test_numbers_of_an_array_beyond_64_bits_make_none():
    numbers = np.array([1, 2**63, 2**64 - 1], np.uint64)
    assert token_array(numbers) is None
    assert plain_tokens(numbers) == [1, 2**63, 2**64 - 1]
    with pytest.raises(ArgumentError, match="below 2"):
        own_tokens(numbers)


class OfTheDevice:
    def __array__(self, dtype=None, copy=None):
        raise TypeError("can't convert a tensor of device cuda:0")


WRONG = {
    "floats": np.zeros(20),
    "truth values": np.zeros(20, bool),
    "objects": np.array([1, 2], object),
    "text": np.array(["1"]),
    "two axes": np.zeros((4, 5), int),
    "no axis": np.array(3),
    "a number": 7,
    "NumPy's number": np.int64(7),
    "None": None,
    "str": "123",
    "array d": packed("d", [1.0]),
    "of the device": OfTheDevice(),
    "times": np.zeros(3, "m8[s]"),
    **({} if torch is None else {"torch floats": torch.zeros(3), "torch axes": torch.zeros((2, 2), dtype=torch.int64)}),
}


@pytest.mark.parametrize("kind", WRONG)
@by_use
def test_what_is_no_row_of_integers_is_refused(use, kind):
    with pytest.raises(ArgumentTypeError, match="token ids"):
        use(WRONG[kind])


def test_a_list_that_is_kept_is_a_copy():
    values = [1, 2, 3]
    held, _ = own_tokens(values)
    values.append(4)
    assert held == [1, 2, 3]


def test_a_list_cut_by_another_thread_never_gives_other_tokens():
    """Readers see a consistent list: all 7, with one of the lengths."""
    values, done = [7] * 5000, threading.Event()

    def cut():
        while not done.is_set():
            del values[100:]
            values.extend([7] * 4900)

    thread = threading.Thread(target=cut)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread.start()
    try:
        for _ in range(3000):
            for array in (token_array(values), np.array(plain_tokens(values))):
                assert (array == 7).all()
                assert len(array) in (100, 5000)
    finally:
        done.set()
        thread.join()
        sys.setswitchinterval(interval)


@pytest.mark.parametrize(
    ("tokens", "fit"),
    [
        ([], True),
        ([0, 2**31 - 1, -(2**31)], True),
        ([2**31], False),
        ([-(2**31) - 1], False),
        ([True], False),
        ([1.0], False),
        ([np.int32(1)], False),
    ],
)
def test_plain_integers_of_32_bits_are_told_from_all_else(tokens, fit):
    assert fit_32_bits(tokens) is fit
