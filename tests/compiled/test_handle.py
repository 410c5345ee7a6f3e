"""A handle stands for arrays: compiled code reads and writes through it, and it never names memory given back."""

import copy
import gc
import pickle

import numpy as np
import pytest
from support.managers import admit, decode, full, make_manager, make_request, snapshot, window

from kvgpu.compiled.handle import IDS, WORDS, Handle, array_at, lines_at
from kvgpu.compiled.jit import jit
from kvgpu.errors import ArgumentTypeError


@jit
def sums(words):
    """Sums of the three arrays of a handle, of which the second has lines of four."""
    total = np.zeros(3, np.int64)
    total[0] = array_at(words, 0, IDS).sum()
    total[1] = lines_at(words, 2, WORDS, 4).sum()
    total[2] = array_at(words, 4, WORDS).sum()
    return total


@jit
def shape_and_change(words):
    """Shape of the second array; writes to the first."""
    array_at(words, 0, IDS)[1] = 9
    return lines_at(words, 2, WORDS, 4).shape


def made():
    return Handle((np.arange(5, dtype=np.int32), np.ones((3, 4), np.int64), np.empty(0, np.int64)), more=2)


def test_compiled_code_sees_the_arrays():
    assert sums(made().words).tolist() == [10, 12, 0]


def test_compiled_code_changes_them():
    array = np.zeros(3, np.int32)
    handle = Handle((array, np.ones((3, 4), np.int64)))
    assert shape_and_change(handle.words) == (3, 4)
    assert array.tolist() == [0, 9, 0]


def test_further_words_are_numbers_of_the_caller():
    handle = made()
    handle.words[6:] = 7, 8
    assert (len(handle.words), sums(handle.words)[0]) == (8, 10)


def test_it_keeps_its_arrays_and_lets_go_of_those_it_had():
    handle, freed = made(), []

    class Owned(np.ndarray):
        def __del__(self):
            freed.append(len(self))

    handle.point(0, np.arange(7, dtype=np.int32).view(Owned))
    gc.collect()
    assert (sums(handle.words)[0], freed) == (21, [])
    handle.point(0, np.arange(3, dtype=np.int32))
    gc.collect()
    assert (sums(handle.words)[0], freed) == (3, [7])


@pytest.mark.parametrize("order", ["first", "second"])
def test_a_deep_copy_names_the_copies_of_its_arrays(order):
    inner = made()
    outer = Handle((inner.words, np.zeros(2, np.int64)))
    both = copy.deepcopy([inner, outer] if order == "first" else [outer, inner])
    again, around = both if order == "first" else both[::-1]
    assert around._arrays[0] is again.words
    again._arrays[0][:] = 1
    assert (sums(again.words)[0], sums(inner.words)[0]) == (5, 10)


def test_a_deep_copy_of_a_manager_is_on_its_own():
    manager = make_manager(full(4), window(4, 8))
    admit(manager, make_request("a", 30, 4))
    again, before = copy.deepcopy(manager), snapshot(manager)
    for turn in range(20):
        request = make_request(f"b{turn}", 30 + turn, 4)
        assert admit(again, request) is not None
        decode(again, request, 9)
        again.free(request)
    assert snapshot(manager) == before
    manager.check()
    del manager
    gc.collect()
    assert admit(again, make_request("c", 50, 4)) is not None
    again.check()


def test_it_cannot_be_pickled():
    with pytest.raises(ArgumentTypeError, match="addresses"):
        pickle.dumps(made())
