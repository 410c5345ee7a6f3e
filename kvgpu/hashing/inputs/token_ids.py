"""`TokenIds`: the token ids of a request in one array; and `own_tokens`, which copies what a request is given."""

import reprlib
from collections.abc import Iterator, Sequence
from operator import countOf
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from kvgpu.compiled.list_items import LONG, integers_of_list
from kvgpu.errors import ArgumentError, ArgumentTypeError
from kvgpu.hashing.inputs.token_arrays import Tokens, as_array, listed_tokens, not_integers, of_integers, token_array


def _integers(tokens: Any) -> npt.NDArray[Any]:
    """Convert integers [n] to an array.

    Raises:
        ArgumentError: An integer does not fit into 64 bits.
        ArgumentTypeError: The tokens are not integers, or have another shape.
    """
    given = as_array(tokens)
    if given is None:
        listed = listed_tokens(tokens)
        known = token_array(listed)
        if known is not None:
            return known
        listed = of_integers(listed)
        if bool in set(map(type, listed)):
            raise not_integers(tokens)
        try:
            given = np.array(listed, np.int64)
        except OverflowError:
            raise ArgumentError(f"token ids: integers of 64 bits are expected, got {reprlib.repr(tokens)}") from None
    if given.dtype == np.uint64 and given.size and given.max() >= 1 << 63:
        raise ArgumentError("token ids: integers below 2**63 are expected")
    return given


class TokenIds(Sequence[int]):
    """A growing sequence of token ids in one array, from which blocks are hashed directly.

    Args:
        tokens: Integers [n] that fit into 64 bits; copied.

    Attributes:
        storage: int32 or int64 [>= length], begins with the tokens. When it is full, a longer array replaces it.
        length: Number of tokens; reading it takes a tenth of the time of `len`.

    Raises:
        ArgumentError: An integer does not fit into 64 bits.
        ArgumentTypeError: The tokens are not integers [n].

    Construction is O(n).
    """

    __slots__ = ("length", "storage")
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, tokens: Sequence[int] | npt.NDArray[Any]) -> None:
        given = _integers(tokens)
        fits_32_bits = np.can_cast(given.dtype, np.int32) or not given.size
        self.storage: Tokens = given.astype(np.int32) if fits_32_bits else given.astype(np.int64)
        self.length = len(given)

    def __copy__(self) -> "TokenIds":
        return TokenIds(self.array)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        array: npt.NDArray[Any] = self.array
        if dtype is not None and dtype != array.dtype:
            return array.astype(dtype)
        return array.copy() if copy else array

    @property
    def array(self) -> Tokens:
        """The tokens, int32 or int64 [len]; a view of the storage, valid until more are appended. O(1)."""
        return self.storage[: self.length]

    def part(self, start: int, stop: int) -> Tokens:
        """Return a view of array[start:stop], for 0 <= start <= stop <= len. O(1)."""
        return self.storage[start:stop]

    def append(self, token: int) -> None:
        """Append one token. Amortised O(1).

        Raises:
            ArgumentError, ArgumentTypeError: As in `extend`.
        """
        ids, length = self.storage, self.length
        if length < len(ids) and type(token) is int and -(1 << 31) <= token < 1 << 31:
            ids[length] = token
            self.length = length + 1
        else:
            self.extend((token,))

    def extend(self, tokens: Sequence[int] | npt.NDArray[Any]) -> None:
        """Append many tokens, or none if one cannot be appended. Amortised O(len(tokens)).

        Raises:
            ArgumentError: A token does not fit into 64 bits.
            ArgumentTypeError: The tokens are not integers [n].
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
        """Remove the tokens from place n on: ``del ids[n:]``. O(1).

        Raises:
            ArgumentTypeError: The index is anything but a slice without an end and a step.
        """
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


def own_tokens(tokens: Any) -> tuple["list[int] | TokenIds", Tokens | None]:
    """Copy the token ids that a request is given, so that it owns them.

    Returns:
        `TokenIds` for an array, or for an object with a buffer or `__array__`; a list like that of `plain_tokens` for
        anything else. And `token_array` of the tokens, if it costs nothing here; else None.

    Raises:
        ArgumentError: A number in an array does not fit into 64 bits.
        ArgumentTypeError: The tokens are not integers [n].

    O(n).
    """
    if type(tokens) is not list:
        if type(tokens) is np.ndarray or as_array(tokens) is not None:
            owned = TokenIds(tokens)
            return owned, owned.storage
        tokens = listed_tokens(tokens)
    listed = tokens.copy()
    known: Tokens | None = integers_of_list(listed) if len(listed) >= LONG else None
    if known is None and countOf(map(type, listed), int) != len(listed):
        listed = of_integers(listed)
    return listed, known
