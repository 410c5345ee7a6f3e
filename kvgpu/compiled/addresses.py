"""Where the data of NumPy arrays lie, for compiled code that reads many of them in one call."""

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from kvgpu.compiled.jit import jit, word_from

DATA = 16
"""Bytes from the address of an array to the pointer to its data: PyArrayObject of NumPy's C interface."""


def _is_there(array: npt.NDArray[Any]) -> bool:
    """Whether the pointer to the data of an array is where it is looked for."""
    return ctypes.c_int64.from_address(id(array) + DATA).value == array.ctypes.data


KNOWN_LAYOUT = all(_is_there(np.empty(size, np.int8)) for size in (1, 1000))


@jit
def _read(objects: Any) -> Any:
    """Pointers to the data of array objects at these addresses."""
    data = np.empty(len(objects), np.int64)
    for i in range(len(objects)):
        data[i] = word_from(objects[i] + DATA)
    return data


def addresses_of(arrays: Sequence[npt.NDArray[Any]]) -> npt.NDArray[np.int64]:
    """Addresses of the first items, int64 [n]; keep the arrays while they are used.

    O(n): a tenth of the time that NumPy takes to say it.
    """
    if not KNOWN_LAYOUT:
        return np.array([array.ctypes.data for array in arrays], np.int64)
    found: npt.NDArray[np.int64] = _read(np.fromiter(map(id, arrays), np.int64, len(arrays)))
    return found
