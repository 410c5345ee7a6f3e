"""`BlockHashes`: the block hashes of one request, as one array."""

import reprlib
from collections.abc import Iterable, Iterator, Sequence
from operator import countOf
from typing import overload

import numpy as np
import numpy.typing as npt

from kvgpu.compiled.list_items import LONG, copy_hashes
from kvgpu.errors import ArgumentError, ArgumentTypeError
from kvgpu.hashing.functions import HASH_WIDTHS, BlockHash
from kvgpu.layout import KEY_WORDS

_ROW_BYTES = 8 * KEY_WORDS
_INT64, _WORDS = np.dtype(np.int64), (KEY_WORDS,)


def write_rows(hashes: Sequence[bytes], width: int, rows: npt.NDArray[np.int64]) -> bool:
    """Write hashes of `width` bytes, 16 or 32, to key words int64 [n, KEY_WORDS], zero padded.

    False, and the words are of no use, if one has another width. O(n).
    """
    if not len(hashes):
        return True
    if isinstance(hashes, BlockHashes):
        rows[:] = hashes.rows
        return hashes.width == width
    if type(hashes) is list and len(hashes) >= LONG and copy_hashes(hashes, width, rows):
        return True
    if not all_of_width(hashes, width):
        return False
    rows[:] = rows_from_bytes(hashes, width)
    return True


def rows_if_of_width(hashes: Sequence[bytes], width: int) -> npt.NDArray[np.int64] | None:
    """Hashes of `width` bytes, 16 or 32, as key words int64 [n, KEY_WORDS]; None if one has another width. O(n)."""
    rows = np.empty((len(hashes), KEY_WORDS), np.int64)
    return rows if write_rows(hashes, width, rows) else None


def rows_from_bytes(hashes: Sequence[bytes], width: int) -> npt.NDArray[np.int64]:
    """Hashes of `width` bytes as key words int64 [n, KEY_WORDS], zero padded. O(n)."""
    # Bytes that can be written to: arrays that cannot are a type of their own to compiled code.
    packed = np.frombuffer(bytearray().join(hashes), np.uint8).reshape(-1, width)
    if width == _ROW_BYTES:
        return packed.view("<i8")
    rows = np.zeros((len(packed), _ROW_BYTES), np.uint8)
    rows[:, :width] = packed
    return rows.view("<i8")


def all_of_width(hashes: Sequence[bytes], width: int) -> bool:
    """Whether each has `width` bytes. O(n); half as long as asking each in Python."""
    return countOf(map(len, hashes), width) == len(hashes)


class BlockHashes(Sequence[BlockHash]):
    """Block hashes of one request: a sequence of bytes kept as key words.

    Args:
        hashes: Hashes of 16 or of 32 bytes, all of one width.

    Attributes:
        length: Hashes; `len` in a tenth of the time.
        storage: int64 [>= length, KEY_WORDS], contiguous, on the CPU: the hashes are its front, which never changes,
            so who keeps the array may read them there. A longer one takes its place when it is outgrown.
        width: Bytes per hash; 0 while empty.
        linked: Each is known to say what came before it, so that two of the same follow the same. Hashes that
            are appended without saying so end it.

    Raises:
        ArgumentError: They are not all of 16 or all of 32 bytes.

    Construction is O(hashes).
    """

    __slots__ = ("length", "linked", "storage", "width")
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, hashes: Iterable[BlockHash] = ()) -> None:
        self.width = 0
        self.linked = True
        self.length = 0
        self.storage = np.empty((0, KEY_WORDS), np.int64)
        try:
            listed = list(hashes)
        except TypeError:
            raise ArgumentTypeError(f"hashes are expected, got {hashes!r:.100}") from None
        self.extend(listed)

    @classmethod
    def of_rows(cls, rows: npt.NDArray[np.int64], width: int, linked: bool = False) -> "BlockHashes":
        """Hashes of `width` bytes from key words int64 [n, KEY_WORDS].

        A contiguous array that can be written to is kept, O(1); any other is copied, O(n).

        Raises:
            ArgumentError: Another width than 16 or 32 bytes.
            ArgumentTypeError: Another array.
        """
        if rows.__class__ is not np.ndarray or rows.dtype != _INT64 or rows.shape[1:] != _WORDS:
            raise ArgumentTypeError(f"rows: int64 [n, {KEY_WORDS}] is expected")
        if width not in HASH_WIDTHS and len(rows):
            raise ArgumentError(f"hashes of {HASH_WIDTHS} bytes are expected, got {width!r}")
        made = cls.__new__(cls)
        made.width = width if len(rows) else 0
        made.linked = linked
        made.storage = rows if rows.flags.carray else np.array(rows, order="C")
        made.length = len(rows)
        return made

    def copy(self) -> "BlockHashes":
        """The same hashes in an array of their own. O(n)."""
        return self.of_rows(self.rows.copy(), self.width, self.linked)

    def __copy__(self) -> "BlockHashes":
        return self.copy()

    @property
    def rows(self) -> npt.NDArray[np.int64]:
        """Key words, int64 [len, KEY_WORDS], on the CPU; a live view. O(1)."""
        return self.storage[: self.length]

    def accepts(self, hashes: Sequence[bytes]) -> bool:
        """True if all have the width of those here (or 16 or 32 bytes while this is empty). O(len(hashes))."""
        if not hashes:
            return True
        if set(map(type, hashes)) != {bytes}:
            return False
        width = self.width or len(hashes[0])
        return width in HASH_WIDTHS and all_of_width(hashes, width)

    def extend(self, hashes: Sequence[BlockHash]) -> None:
        """Append hashes. Amortised O(len(hashes)).

        Raises:
            ArgumentError: They are not all of 16 or all of 32 bytes.
            ArgumentTypeError: No list. Nothing is appended.
        """
        if not isinstance(hashes, Sequence):
            raise ArgumentTypeError(f"a list of hashes is expected, got {hashes!r:.100}")
        if not hashes:
            return
        if not self.accepts(hashes):
            raise ArgumentError(f"block hashes must be bytes, all of 16 or all of 32, got {reprlib.repr(hashes)}")
        self.extend_accepted(hashes)

    def extend_accepted(self, hashes: Sequence[BlockHash], linked: bool = False) -> None:
        """`extend` for hashes that it `accepts`, at least one. Amortised O(len(hashes))."""
        width = len(hashes[0])
        self.extend_rows(rows_from_bytes(hashes, width), width, linked)

    def extend_rows(self, rows: npt.NDArray[np.int64], width: int, linked: bool = False) -> None:
        """Append contiguous key words int64 [n, KEY_WORDS] of hashes of `width` bytes; an empty one keeps the array.

        Nothing is checked. Amortised O(n).
        """
        if not len(rows):
            return
        self.width = width
        self.linked = self.linked and linked
        if not self.length:
            self.storage, self.length = rows, len(rows)
            return
        length = self.length + len(rows)
        if length > len(self.storage):
            grown = np.empty((max(length, length + length // 8), KEY_WORDS), np.int64)
            grown[: self.length] = self.rows
            self.storage = grown
        self.storage[self.length : length] = rows
        self.length = length

    def cut(self, length: int, linked: bool) -> None:
        """Take back the hashes from `length` on, which nobody has seen; those before are `linked` or not. O(1)."""
        self.linked = linked
        self.length = length
        if not length:
            self.width = 0
            self.storage = self.storage[:0].copy()

    def __len__(self) -> int:
        return self.length

    @overload
    def __getitem__(self, index: int) -> BlockHash: ...
    @overload
    def __getitem__(self, index: slice) -> list[BlockHash]: ...
    def __getitem__(self, index: int | slice) -> BlockHash | list[BlockHash]:
        if isinstance(index, slice):
            return [BlockHash(row.tobytes()[: self.width]) for row in self.rows[index]]
        return BlockHash(self.rows[index].tobytes()[: self.width])

    def __iter__(self) -> Iterator[BlockHash]:
        return iter(self[:])

    def __eq__(self, other: object) -> bool:
        if isinstance(other, BlockHashes):
            return self.width == other.width and bool(np.array_equal(self.rows, other.rows))
        return self[:] == other if isinstance(other, list) else NotImplemented

    def __repr__(self) -> str:
        return f"BlockHashes({self[:]!r})"
