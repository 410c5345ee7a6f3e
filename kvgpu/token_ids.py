"""`TokenIds`: token ids of a request as one array; and arrays of token ids from whatever engines hold."""

import marshal
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from kvgpu.errors import ArgumentError, ArgumentTypeError
from kvgpu.list_items import LONG, integers_of_list

Tokens = npt.NDArray[np.int32] | npt.NDArray[np.int64]

_MARSHALLED = np.dtype([("kind", "u1"), ("value", "<i4")])
_MARSHAL_HEAD = 5


def fit_32_bits(tokens: Sequence[Any]) -> bool:
    """Whether all are plain integers within 32 bits, as almost all are; True for none. O(n)."""
    return all(type(token) is int and -(1 << 31) <= token < 1 << 31 for token in tokens)


def token_array(tokens: Any) -> Tokens | None:
    """Token ids as int32 or int64 [n], or None if they are not all plain integers of 64 bits.

    Args:
        tokens: A list, `TokenIds`, or anything else that can be made a list.

    O(n), some 2 ns a token for a list of usual ones, ten times that for others, and nothing for `TokenIds`.
    """
    if isinstance(tokens, TokenIds):
        return tokens.array
    listed = tokens if type(tokens) is list else list(tokens)
    if len(listed) < LONG:
        return _checked_array(listed)
    known = integers_of_list(listed)
    if known is not None:
        return known
    try:
        # Refuses or marks what is no plain int of 32 bits (numpy's numbers, truth values), in a third of
        # the time of asking for types and converting. Version 2 has no references.
        data = marshal.dumps(listed, 2)
    except ValueError:
        return None
    if len(data) == _MARSHAL_HEAD + _MARSHALLED.itemsize * len(listed):
        records = np.frombuffer(data, _MARSHALLED, offset=_MARSHAL_HEAD)
        if (records["kind"] == ord("i")).all():
            return records["value"].astype(np.int32)
    return _checked_array(listed)


def _checked_array(listed: list[Any]) -> Tokens | None:
    """`token_array` of any list, slower for a long one."""
    if not set(map(type, listed)) <= {int}:
        return None
    try:
        return np.array(array("i", listed), np.int32)
    except OverflowError:
        pass
    try:
        return np.array(listed, np.int64)
    except OverflowError:
        return None


def _integers(tokens: Any) -> npt.NDArray[Any]:
    """Integers [n] as an array.

    Raises:
        ArgumentError: An integer that does not fit into 64 bits.
        ArgumentTypeError: Something else than integers, or another shape.
    """
    if not isinstance(tokens, np.ndarray):
        listed = list(tokens) if isinstance(tokens, Iterable) else None
        known = integers_of_list(listed) if listed is not None and len(listed) >= LONG else None
        if known is not None:
            return known
        if listed is None or any(
            kind is bool or not issubclass(kind, int | np.integer)
            for kind in set(map(type, listed))
        ):
            raise ArgumentTypeError(f"token ids: integers [n] are expected, got {tokens!r:.100}")
        try:
            tokens = np.array(listed, np.int64)
        except OverflowError:
            raise ArgumentError(
                f"token ids: integers of 64 bits are expected, got {tokens!r:.100}"
            ) from None
    if tokens.ndim != 1 or (tokens.dtype.kind not in "iu" and tokens.size):
        raise ArgumentTypeError(
            f"token ids: integers [n] are expected, got {tokens.dtype} {list(tokens.shape)}"
        )
    if tokens.dtype == np.uint64 and tokens.size and tokens.max() >= 1 << 63:
        raise ArgumentError("token ids: integers below 2**63 are expected")
    checked: npt.NDArray[Any] = tokens
    return checked


class TokenIds(Sequence[int]):
    """Token ids that grow, kept as one array: blocks are hashed straight from it.

    Args:
        tokens: Integers [n] that fit into 64 bits; copied.

    Attributes:
        storage: int32 or int64 [>= length]: the tokens are its front. A longer one takes its place when it is
            outgrown.
        length: Tokens; `len` in a tenth of the time.

    Raises:
        ArgumentError, ArgumentTypeError: Larger integers, or something else.
    """

    __slots__ = ("length", "storage")
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, tokens: Sequence[int] | npt.NDArray[Any]) -> None:
        given = _integers(tokens)
        narrow = np.can_cast(given.dtype, np.int32) or not given.size
        self.storage: Tokens = given.astype(np.int32) if narrow else given.astype(np.int64)
        self.length = len(given)

    def __copy__(self) -> "TokenIds":
        return TokenIds(self.array)

    @property
    def array(self) -> Tokens:
        """int32 or int64 [len]; a live view until more are appended. O(1)."""
        return self.storage[: self.length]

    def part(self, start: int, stop: int) -> Tokens:
        """array[start:stop], for 0 <= start <= stop <= len."""
        return self.storage[start:stop]

    def append(self, token: int) -> None:
        """Append one. Amortised O(1).

        Raises:
            ArgumentError, ArgumentTypeError: As in `extend`.
        """
        ids, length = self.storage, self.length
        if length < len(ids) and fit_32_bits((token,)):
            ids[length] = token
            self.length = length + 1
        else:
            self.extend((token,))

    def extend(self, tokens: Sequence[int] | npt.NDArray[Any]) -> None:
        """Append many. Amortised O(len(tokens)).

        Raises:
            ArgumentError: A token that does not fit into 64 bits.
            ArgumentTypeError: Something else than integers. Nothing is appended.
        """
        given = _integers(tokens)
        if given.size == 0:
            return
        if self.storage.itemsize == 4 and (given.astype(np.int32) != given).any():
            self.storage = self.storage.astype(np.int64)
        length = self.length + len(given)
        if length > len(self.storage):
            grown: Any = np.empty(max(length + length // 8, 16), self.storage.dtype)
            grown[: self.length] = self.array
            self.storage = grown
        self.storage[self.length : length] = given
        self.length = length

    def __delitem__(self, index: slice) -> None:
        """``del ids[n:]``: forget the tokens from place n on. O(1)."""
        if not isinstance(index, slice) or index.stop is not None or index.step is not None:
            raise ArgumentTypeError("only the last token ids can be deleted: del ids[n:]")
        start, _, _ = index.indices(self.length)
        self.length = min(start, self.length)

    def __len__(self) -> int:
        return self.length

    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> list[int]: ...
    def __getitem__(self, index: int | slice) -> int | list[int]:
        chosen: int | list[int] = self.array[index].tolist()
        return chosen

    def __iter__(self) -> Iterator[int]:
        return iter(self[:])

    def __eq__(self, other: object) -> bool:
        if isinstance(other, TokenIds):
            return bool(np.array_equal(self.array, other.array))
        return self[:] == other if isinstance(other, list) else NotImplemented

    def __repr__(self) -> str:
        return f"TokenIds({self[:]!r})"
