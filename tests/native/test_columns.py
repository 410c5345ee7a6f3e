"""One attribute of many objects, read and counted up by the extension in C."""

from types import SimpleNamespace

import numpy as np
import pytest

from kvgpu import native

pytestmark = pytest.mark.skipif(native.Calls is None, reason="the extension was not built, or is switched off")


def objects(*counts):
    return [SimpleNamespace(count=count) for count in counts]


def test_ints_are_read_in_order_and_no_more_than_there_is_room_for():
    out = np.full(4, -1, np.int64)
    native.read_ints(objects(3, -5, 2**62), "count", out)
    assert out.tolist() == [3, -5, 2**62, -1]
    native.read_ints(objects(*range(9)), "count", out)
    assert out.tolist() == [0, 1, 2, 3]


def test_ints_are_counted_up():
    counted = objects(3, -1, 2**63 - 1, 2**80)
    native.add_to_ints(counted, "count", 1)
    assert [each.count for each in counted] == [4, 0, 2**63, 2**80 + 1]


def test_lengths_are_those_of_the_lists():
    out = np.full(4, -1, np.int64)
    native.read_lengths([[], [1], [1] * 1000], out)
    assert out.tolist() == [0, 1, 1000, -1]
    native.read_lengths([[1]] * 9, out)
    assert out.tolist() == [1] * 4
    for odd in ((None, out), ([None], out), ([[1]], [0]), ([[1]], out[::2]), ()):
        with pytest.raises(TypeError):
            native.read_lengths(*odd)


@pytest.mark.parametrize("odd", [1.5, None, 2**63, "1", np.int64(1)])
def test_what_is_no_int_of_64_bits_is_refused(odd):
    with pytest.raises(TypeError, match="not an int"):
        native.read_ints(objects(1, odd), "count", np.zeros(2, np.int64))


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        (None, "count", np.zeros(1, np.int64)),
        (objects(1), b"count", np.zeros(1, np.int64)),
        (objects(1), "count", np.zeros(1, np.int32)),
        (objects(1), "count", np.zeros((1, 1), np.int64)),
        (objects(1), "count", np.zeros(4, np.int64)[::2]),
        (objects(1), "count", [0]),
    ],
)
def test_odd_arguments_are_refused(arguments):
    with pytest.raises(TypeError):
        native.read_ints(*arguments)


def test_what_an_attribute_raises_comes_out():
    with pytest.raises(AttributeError):
        native.read_ints(objects(1), "missing", np.zeros(1, np.int64))
    with pytest.raises(TypeError):
        native.add_to_ints(objects("text"), "count", 1)


def test_a_list_that_shrinks_while_it_is_read_ends_the_reading():
    class Shrinking:
        @property
        def count(self):
            listed.clear()
            return 7

    listed, out = [Shrinking(), Shrinking()], np.zeros(2, np.int64)
    native.read_ints(listed, "count", out)
    assert out.tolist() == [7, 0]
