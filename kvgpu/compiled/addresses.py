"""Addresses of the data of NumPy arrays, for compiled code that reads many arrays in one call, and of compiled code."""

import ctypes
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from numba.core import types

from kvgpu.compiled.jit import jit, word_from

DATA = 16
"""Offset in bytes of the data pointer in an array object: PyArrayObject of NumPy's C interface."""


def _is_there(array: npt.NDArray[Any]) -> bool:
    """Return whether the data pointer of an array is at the expected offset."""
    return ctypes.c_int64.from_address(id(array) + DATA).value == array.ctypes.data


KNOWN_LAYOUT = all(_is_there(np.empty(size, np.int8)) for size in (1, 1000))


def address_of(array: npt.NDArray[Any]) -> int:
    """Return the address of an array's first item, which must live as long as this is used. O(1).

    It takes an eighth of the time that NumPy takes.
    """
    if not KNOWN_LAYOUT:
        return int(array.ctypes.data)
    return ctypes.c_int64.from_address(id(array) + DATA).value


@jit
def _read(objects: Any) -> Any:
    """Read the data pointers of the array objects at these addresses."""
    data = np.empty(len(objects), np.int64)
    for i in range(len(objects)):
        data[i] = word_from(objects[i] + DATA)
    return data


def addresses_of(arrays: Sequence[npt.NDArray[Any]]) -> npt.NDArray[np.int64]:
    """Return the addresses of the arrays' first items, int64 [n]; the arrays must live as long as these are used.

    O(n), in a tenth of the time that NumPy takes.
    """
    if not KNOWN_LAYOUT:
        return np.array([array.ctypes.data for array in arrays], np.int64)
    found: npt.NDArray[np.int64] = _read(np.fromiter(map(id, arrays), np.int64, len(arrays)))
    return found


def address_of_code(function: Any, num_words: int) -> int:
    """Compile an entry point that takes so many int64 and returns one; return the address of its machine code.

    In C its type is ``int32_t (*)(int64_t *result, void **error, int64_t ...)``: it returns 0, or something else if it
    has raised, as it does when there is no memory (Numba's CPUCallConv). The code lives as long as the entry point.
    """
    signature = (cast(Any, types).int64,) * num_words
    function.compile(signature)
    result = function.overloads[signature]._asdict()
    return int(result["library"].get_pointer_to_function(result["fndesc"].llvm_func_name))
