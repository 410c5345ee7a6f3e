"""`Handle`: many arrays in the place of one argument of a compiled function.

Numba takes 50 to 200 ns for each array that Python passes, and longer for a tuple of them; a call that gives one block
works for less than that. A handle is an array of words with the address and the length of each array, from which
compiled code makes the arrays again, at no cost.
"""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from kvgpu.compiled.addresses import address_of
from kvgpu.compiled.jit import carray, inline, pointer
from kvgpu.errors import ArgumentTypeError

WORDS: npt.NDArray[np.int64] = np.empty(0, np.int64)
IDS: npt.NDArray[np.int32] = np.empty(0, np.int32)
"""Arrays that stand for the type of others."""


@inline
def array_at(handle: Any, place: int, like: Any) -> Any:
    """Return the array at a place of a handle: one-dimensional, with the dtype of `like`."""
    return carray(pointer(handle[place], like), (handle[place + 1],))


@inline
def lines_at(handle: Any, place: int, like: Any, width: int) -> Any:
    """Return the array at a place of a handle: [any, width], with the dtype of `like`."""
    return carray(pointer(handle[place], like), (handle[place + 1], np.int64(width)))


@inline
def handle_at(address: int, num_words: int) -> Any:
    """Return the handle whose words are at an address."""
    return carray(pointer(address, WORDS), (np.int64(num_words),))


class Handle:
    """Addresses and lengths of arrays for compiled code.

    Args:
        arrays: Contiguous arrays; each takes two words, in this order.
        more: Number of further words, for numbers.

    Attributes:
        words: int64, what compiled code is given, and calls a handle.
        address: Where the words are.
    """

    __slots__ = ("_arrays", "address", "words")

    def __init__(self, arrays: Sequence[npt.NDArray[Any]], more: int = 0) -> None:
        self._arrays = list(arrays)
        self.words: npt.NDArray[np.int64] = np.zeros(2 * len(self._arrays) + more, np.int64)
        self.address = self.words.ctypes.data
        for place, array in enumerate(self._arrays):
            self.point(place, array)

    def point(self, place: int, array: npt.NDArray[Any]) -> None:
        """Have array number `place` be this one from now on. O(1).

        The old array lives until the words name the new one, whenever this is interrupted.
        """
        self.words[2 * place : 2 * place + 2] = address_of(array), len(array)
        self._arrays[place] = array

    def array(self, place: int) -> npt.NDArray[Any]:
        """Return array number `place`. O(1)."""
        return self._arrays[place]

    def __deepcopy__(self, memo: dict[int, Any]) -> "Handle":
        """Return a handle of the copies of its arrays."""
        made = Handle.__new__(Handle)
        memo[id(self)] = made
        # Another handle may name these words, so whoever comes second takes the copy that there is.
        made.words, made._arrays = deepcopy(self.words, memo), deepcopy(self._arrays, memo)
        made.address = made.words.ctypes.data
        for place, array in enumerate(made._arrays):
            made.point(place, array)
        return made

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled.

        Raises:
            ArgumentTypeError: Always: the addresses mean nothing elsewhere.
        """
        raise ArgumentTypeError("what compiled code works on cannot be pickled: it holds addresses of this process")
