"""Arrays and lists of token ids, from whatever engines hold them in."""

import marshal
import reprlib
from array import array as packed
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from kvgpu.compiled.list_items import LONG, integers_of_list
from kvgpu.errors import ArgumentTypeError

Tokens = npt.NDArray[np.int32] | npt.NDArray[np.int64]

_MARSHALLED = np.dtype([("kind", "u1"), ("value", "<i4")])
_MARSHAL_HEAD = 5


def fit_32_bits(tokens: Sequence[Any]) -> bool:
    """Whether all are plain integers within 32 bits, as almost all are; True for none. O(n)."""
    for token in tokens:  # noqa: SIM110 - a generator takes twice as long
        if type(token) is not int or not -(1 << 31) <= token < 1 << 31:
            return False
    return True


def token_array(tokens: Any) -> Tokens | None:
    """Token ids as int32 or int64 [n], contiguous.

    None if some are integers that no such array tells from others: beyond 64 bits, truth values, or of another
    subclass of `int`. NumPy's integers count as `int`.

    Args:
        tokens: A list, an array of integers (anything with a buffer or `__array__`), or anything else
            that can be made a list.

    Raises:
        ArgumentTypeError: Something else than integers [n].

    O(n), some 2 ns a token for a list of usual ones, ten times that for others, and nothing for arrays of 32 or
    64 bits.
    """
    if type(tokens) is not list:
        array = as_array(tokens)
        if array is not None:
            return _in_32_or_64_bits(array)
        tokens = listed_tokens(tokens)
    if len(tokens) < LONG:
        return _checked_array(tokens)
    known = integers_of_list(tokens)
    if known is not None:
        return known
    try:
        # Refuses or marks what is no plain int of 32 bits (numpy's numbers, truth values), in a third of
        # the time of asking for types and converting. Version 2 has no references.
        data = marshal.dumps(tokens, 2)
    except ValueError:
        return _checked_array(tokens)
    if len(data) == _MARSHAL_HEAD + _MARSHALLED.itemsize * len(tokens):
        records = np.frombuffer(data, _MARSHALLED, offset=_MARSHAL_HEAD)
        if (records["kind"] == ord("i")).all():
            return records["value"].astype(np.int32)
    return _checked_array(tokens)


def plain_tokens(tokens: Any) -> list[int]:
    """Token ids as a list of their own, which holds nothing but `int` and what subclasses it.

    Args:
        tokens: As in `token_array`.

    Raises:
        ArgumentTypeError: Something else than integers [n].

    O(n).
    """
    array = as_array(tokens)
    if array is not None:
        listed: list[int] = array.tolist()
        return listed
    # A copy first: what is checked is what is returned, whoever changes the list meanwhile.
    return of_integers(listed_tokens(tokens))


def listed_tokens(tokens: Any) -> list[Any]:
    """
    Raises:
        ArgumentTypeError: It cannot be made a list.
    """
    try:
        return list(tokens)
    except TypeError:
        raise no_integers(tokens) from None


def of_integers(listed: list[Any]) -> list[int]:
    """The list, if it holds integers alone, with `int` for NumPy's.

    Raises:
        ArgumentTypeError: It holds something else.
    """
    if len(listed) >= LONG and integers_of_list(listed) is not None:
        return listed
    kinds = set(map(type, listed))
    if kinds <= {int}:
        return listed
    if not all(issubclass(kind, int) or is_numpy_integer(kind) for kind in kinds):
        raise no_integers(listed)
    if any(map(is_numpy_integer, kinds)):
        return [int(token) if isinstance(token, np.integer) else token for token in listed]
    return listed


def is_numpy_integer(kind: type) -> bool:
    """Whether a type is one of NumPy's integers; a span of time, which subclasses them, is none."""
    return issubclass(kind, np.integer) and not issubclass(kind, np.timedelta64)


def no_integers(tokens: Any) -> ArgumentTypeError:
    return ArgumentTypeError(
        f"token ids: integers [n] are expected, got {type(tokens).__name__} {reprlib.repr(tokens)}"
    )


def as_array(tokens: Any) -> npt.NDArray[Any] | None:
    """What has a buffer or `__array__` as integers [n]; None for all else, as lists.

    What is no NumPy array, and would refuse to grow as long as somebody has its buffer, is copied.

    Raises:
        ArgumentTypeError: An array of something else than integers, of another shape, or on another device.
    """
    array = tokens if type(tokens) is np.ndarray else _converted(tokens)
    if array is None:
        return None
    if array.ndim != 1 or (array.dtype.kind not in "iu" and array.size):
        raise ArgumentTypeError(f"token ids: integers [n] are expected, got {array.dtype} {list(array.shape)}")
    checked: npt.NDArray[Any] = array if array.size else array.astype(np.int32)
    return checked


def _converted(tokens: Any) -> Any:
    """What has a buffer or `__array__` as NumPy's array, of whatever it holds; None for all else."""
    kind = type(tokens)
    if kind is list or kind is tuple or kind is range or kind is str:
        return None
    try:
        if hasattr(kind, "__array__"):
            return np.asarray(tokens)
        try:
            view = memoryview(tokens)
        except TypeError:
            return None
        return np.array(view)
    except Exception as error:
        raise ArgumentTypeError(
            f"token ids: {kind.__name__} is no array of integers [n] in the memory of the CPU: {error}"
        ) from error


def _in_32_or_64_bits(array: npt.NDArray[Any]) -> Tokens | None:
    """Integers [n] as `token_array` returns them: the array itself if it is one."""
    if array.dtype == np.int32 or array.dtype == np.int64:
        # Compiled code takes an array that is only to be read for another type, and is compiled anew for it.
        ready: Tokens = array if array.flags.carray else np.require(array, None, ["C", "A", "W"])
        return ready
    if np.can_cast(array.dtype, np.int32):
        return array.astype(np.int32)
    if array.dtype == np.uint64 and array.size and array.max() >= 1 << 63:
        return None
    return array.astype(np.int64)


def _checked_array(listed: list[Any]) -> Tokens | None:
    """`token_array` of any list, slower for a long one.

    Raises:
        ArgumentTypeError: Not integers alone.
    """
    listed = listed.copy()  # which nobody else changes
    if not set(map(type, listed)) <= {int}:
        listed = of_integers(listed)
        if not set(map(type, listed)) <= {int}:
            return None
    try:
        return np.array(packed("i", listed), np.int32)
    except OverflowError:
        pass
    try:
        return np.array(listed, np.int64)
    except OverflowError:
        return None
