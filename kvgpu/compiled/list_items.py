"""Lists of hashes and of token ids, read directly from the memory of CPython's objects.

Reading an object through Python costs more than the cache miss of reaching it. Compiled code prefetches the next
objects before it needs them.
"""

import sys
import sysconfig
from typing import Any

import numpy as np
import numpy.typing as npt

from kvgpu.compiled.jit import jit, leaf, prefetch_at, word_from
from kvgpu.layout import LOW_32

TYPE, SIZE, ITEMS, BYTES, DIGIT = 8, 16, 24, 32, 24
"""Offsets in bytes, from the address of an object, of its type, of its size (for an int, with its sign), of the
pointer to the items of a list, of the data of bytes, and of the lowest digit of an int: PyVarObject,
PyListObject, PyBytesObject and PyLongObject of CPython's Include/."""

AHEAD = 16
"""Number of items between prefetching one and reading it: items come from memory, not from a cache."""

LONG = 16
"""Number of items from which on a call of compiled code pays off."""

_SIZES = (object.__basicsize__, list.__basicsize__, bytes.__basicsize__, int.__basicsize__)
KNOWN_LAYOUT = (
    sys.implementation.name == "cpython"
    and sys.byteorder == "little"
    and sys.maxsize > 1 << 32
    and (*_SIZES, sys.int_info.bits_per_digit) == (16, ITEMS + 16, BYTES + 1, DIGIT, 30)
    and not sysconfig.get_config_var("Py_GIL_DISABLED")
)
"""Whether objects have this layout. The sizes reveal debug builds; without a GIL a list may change at any time."""


@leaf
def copy_bytes(listed: int, first: int, count: int, kind: int, words: int, out: Any) -> int:
    """Copy items of the list at an address, from `first` on, until one is not of a type or has not so many words.

    Args:
        listed: Address of a list with at least `first + count` items: it cannot change while this function runs.
        kind: Address of the type.
        out: int64 [>= count, >= words]; words beyond those of an item stay as they are.

    Returns:
        The number of copied items.
    """
    items = word_from(listed + ITEMS) + 8 * first
    for i in range(-AHEAD, count):
        if i + AHEAD < count:
            ahead = word_from(items + 8 * (i + AHEAD))
            prefetch_at(ahead)
            prefetch_at(ahead + BYTES + 8 * words - 1)
        if i < 0:
            continue
        item = word_from(items + 8 * i)
        if word_from(item + TYPE) != kind or word_from(item + SIZE) != 8 * words:
            return i
        for word in range(words):
            out[i, word] = word_from(item + BYTES + 8 * word)
    return count


@leaf
def length_of(listed: int) -> int:
    """Return the number of items of the list at an address: it may have changed since Python read it."""
    return word_from(listed + SIZE)


@jit
def _copy_bytes(listed: int, count: int, kind: int, words: int, out: Any) -> bool:
    """Copy all items of the list at an address; False if it has not `count` items, or one does not fit."""
    return length_of(listed) == count and copy_bytes(listed, 0, count, kind, words, out) == count


@jit
def _copy_digits(listed: int, count: int, one: int, large: int, zero: int, out: Any) -> int:
    """Copy items of the list at an address until one is neither 0 nor a positive int of one digit.

    Such an int has the size field of 1 or of a large number of one digit, because CPython may mark small ones there.
    Returns the number of copied items, or -1 if the list does not have `count` items, as `_copy_bytes` does.
    """
    if word_from(listed + SIZE) != count:
        return -1
    items = word_from(listed + ITEMS)
    kind, size, small_size = word_from(one + TYPE), word_from(large + SIZE), word_from(one + SIZE)
    for i in range(-AHEAD, count):
        if i + AHEAD < count:
            prefetch_at(word_from(items + 8 * (i + AHEAD)))
        if i < 0:
            continue
        item = word_from(items + 8 * i)
        if word_from(item + TYPE) != kind:
            return i
        if word_from(item + SIZE) == size or word_from(item + SIZE) == small_size:
            out[i] = word_from(item + DIGIT) & LOW_32
        elif item == zero:
            out[i] = 0
        else:
            return i
    return count


def copy_hashes(listed: list[Any], width: int, rows: npt.NDArray[np.int64]) -> bool:
    """Write hashes of `width` bytes, 16 or 32, to key words int64 [n, KEY_WORDS], padded with zeros.

    Returns False, and leaves useless words, if an item is not exactly of type `bytes` and of that width, or if objects
    may have another layout. O(n).
    """
    if not KNOWN_LAYOUT:
        return False
    rows[:, width // 8 :] = 0
    copied: bool = _copy_bytes(id(listed), len(rows), id(bytes), width // 8, rows)
    return copied


def integers_of_list(listed: list[Any]) -> npt.NDArray[np.int32] | None:
    """Return the integers of a list as int32 [n].

    Returns None if an item is not exactly of type `int` and from 0 to 2**30 - 1, or if objects may have another
    layout. O(n).
    """
    if not KNOWN_LAYOUT:
        return None
    out = np.empty(len(listed), np.int32)
    one, large, zero = 1, 1 << 29, 0
    copied = _copy_digits(id(listed), len(out), id(one), id(large), id(zero), out)
    return out if copied == len(out) else None
