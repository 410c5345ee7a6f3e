"""Conversion of token ids to arrays and lists, from any type that an engine may use."""

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
_MARSHAL_HEADER_BYTES = 5


def fit_32_bits(tokens: Sequence[Any]) -> bool:
    """Whether all tokens are plain `int`s of 32 bits, as they usually are. O(n)."""
    for token in tokens:  # noqa: SIM110 - a generator expression takes twice as long
        if type(token) is not int or not -(1 << 31) <= token < 1 << 31:
            return False
    return True


def token_array(tokens: Any) -> Tokens | None:
    """Convert token ids to a contiguous array.

    Args:
        tokens: A list, an array of integers (anything with a buffer or `__array__`), or any other iterable.

    Returns:
        int32 or int64 [n]. None if an array cannot represent some integer exactly: it does not fit into 64 bits, or
        is a truth value or of another subclass of `int`. NumPy's integers count as `int`.

    Raises:
        ArgumentTypeError: The tokens are not integers [n].

    O(n): about 2 ns per token for a list of plain `int`s of 32 bits, and ten times as long for other lists. O(1) for
    an array of 32 or 64 bits.
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
        # marshal refuses everything but plain ints of 32 bits, or gives it another code, such as truth values and
        # NumPy's numbers. It takes a third of the time of checking types and converting. Version 2 has no references.
        data = marshal.dumps(tokens, 2)
    except ValueError:
        return _checked_array(tokens)
    if len(data) == _MARSHAL_HEADER_BYTES + _MARSHALLED.itemsize * len(tokens):
        records = np.frombuffer(data, _MARSHALLED, offset=_MARSHAL_HEADER_BYTES)
        if (records["kind"] == ord("i")).all():
            return records["value"].astype(np.int32)
    return _checked_array(tokens)


def plain_tokens(tokens: Any) -> list[int]:
    """Copy token ids to a list of `int`s, or instances of its subclasses.

    Args:
        tokens: As in `token_array`.

    Raises:
        ArgumentTypeError: The tokens are not integers [n].

    O(n).
    """
    array = as_array(tokens)
    if array is not None:
        listed: list[int] = array.tolist()
        return listed
    # Copied before the check, so that a list that another thread changes is checked as it is returned.
    return of_integers(listed_tokens(tokens))


def listed_tokens(tokens: Any) -> list[Any]:
    """Copy tokens to a list.

    Raises:
        ArgumentTypeError: They are not iterable.

    O(n).
    """
    try:
        return list(tokens)
    except TypeError:
        raise not_integers(tokens) from None


def of_integers(listed: list[Any]) -> list[int]:
    """Check that a list has nothing but integers, and convert NumPy's to `int`.

    Returns:
        The list itself if nothing had to be converted.

    Raises:
        ArgumentTypeError: An item is not an integer.

    O(n).
    """
    if len(listed) >= LONG and integers_of_list(listed) is not None:
        return listed
    kinds = set(map(type, listed))
    if kinds <= {int}:
        return listed
    if not all(issubclass(kind, int) or is_numpy_integer(kind) for kind in kinds):
        raise not_integers(listed)
    if any(map(is_numpy_integer, kinds)):
        return [int(token) if isinstance(token, np.integer) else token for token in listed]
    return listed


def is_numpy_integer(kind: type) -> bool:
    """Whether a type is one of NumPy's integer types; `timedelta64` is a subclass of them and does not count."""
    return issubclass(kind, np.integer) and not issubclass(kind, np.timedelta64)


def not_integers(tokens: Any) -> ArgumentTypeError:
    """The error for tokens that are not integers."""
    return ArgumentTypeError(
        f"token ids: integers [n] are expected, got {type(tokens).__name__} {reprlib.repr(tokens)}"
    )


def as_array(tokens: Any) -> npt.NDArray[Any] | None:
    """Convert an object with a buffer or `__array__` to a NumPy array of integers [n].

    A buffer is copied, because its owner could not grow while the buffer is in use.

    Returns:
        None for other objects, such as lists.

    Raises:
        ArgumentTypeError: The array does not hold integers, has another shape, or is on another device.

    O(1) for an array; O(n) for a buffer.
    """
    array = tokens if type(tokens) is np.ndarray else _converted(tokens)
    if array is None:
        return None
    if array.ndim != 1 or (array.dtype.kind not in "iu" and array.size):
        raise ArgumentTypeError(f"token ids: integers [n] are expected, got {array.dtype} {list(array.shape)}")
    checked: npt.NDArray[Any] = array if array.size else array.astype(np.int32)
    return checked


def _converted(tokens: Any) -> Any:
    """Convert an object with a buffer or `__array__` to a NumPy array of any dtype; None for other objects."""
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
            f"token ids: {kind.__name__} is not an array of integers [n] in the memory of the CPU: {error}"
        ) from error


def _in_32_or_64_bits(array: npt.NDArray[Any]) -> Tokens | None:
    """Convert an array of integers [n] to int32 or int64, without a copy if possible; None beyond 64 bits."""
    if array.dtype == np.int32 or array.dtype == np.int64:
        # A read-only array is another type to Numba, which would compile the code again for it.
        ready: Tokens = array if array.flags.carray else np.require(array, None, ["C", "A", "W"])
        return ready
    if np.can_cast(array.dtype, np.int32):
        return array.astype(np.int32)
    if array.dtype == np.uint64 and array.size and array.max() >= 1 << 63:
        return None
    return array.astype(np.int64)


def _checked_array(listed: list[Any]) -> Tokens | None:
    """Convert any list as `token_array` does, more slowly.

    Raises:
        ArgumentTypeError: An item is not an integer.
    """
    listed = listed.copy()  # no other thread can change the copy
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
