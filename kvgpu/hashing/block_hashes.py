"""`BlockHashes`: the block hashes of one request, in one array of key words."""

import reprlib
from collections.abc import Iterable, Iterator, Sequence
from operator import countOf
from typing import cast, overload

import numpy as np

from kvgpu.compiled.list_items import LONG, copy_hashes
from kvgpu.errors import ArgumentError, ArgumentTypeError
from kvgpu.hashing.bulk.chains import Keys
from kvgpu.hashing.functions import HASH_WIDTHS, BlockHash
from kvgpu.layout import KEY_WORDS

_KEY_BYTES = 8 * KEY_WORDS
_INT64, _WORDS = np.dtype(np.int64), (KEY_WORDS,)


def write_keys(hashes: Sequence[bytes], width: int, keys: Keys) -> bool:
    """Write hashes as key words.

    Args:
        hashes: Bytes objects.
        width: Bytes that each is expected to have, 16 or 32.
        keys: int64 [n, KEY_WORDS], the output, zero padded.

    Returns:
        False if a hash has another width; then the contents of `keys` are undefined.

    O(n).
    """
    if not len(hashes):
        return True
    if isinstance(hashes, BlockHashes):
        keys[:] = hashes.keys
        return hashes.width == width
    if type(hashes) is list and len(hashes) >= LONG and copy_hashes(hashes, width, keys):
        return True
    if not all_of_width(hashes, width):
        return False
    keys[:] = keys_from_bytes(hashes, width)
    return True


def keys_if_of_width(hashes: Sequence[bytes], width: int) -> Keys | None:
    """Convert hashes of `width` bytes, 16 or 32, to key words; None if a hash has another width. O(n)."""
    keys = np.empty((len(hashes), KEY_WORDS), np.int64)
    return keys if write_keys(hashes, width, keys) else None


def keys_from_bytes(hashes: Sequence[bytes], width: int) -> Keys:
    """Convert hashes of `width` bytes to key words, zero padded. O(n)."""
    # Joined into a bytearray, since a read-only array has another type for compiled code.
    packed = np.frombuffer(bytearray().join(hashes), np.uint8).reshape(-1, width)
    if width == _KEY_BYTES:
        return packed.view("<i8")
    padded = np.zeros((len(packed), _KEY_BYTES), np.uint8)
    padded[:, :width] = packed
    return padded.view("<i8")


def all_of_width(hashes: Sequence[bytes], width: int) -> bool:
    """Whether every hash has `width` bytes. O(n), in half the time of a loop in Python."""
    return countOf(map(len, hashes), width) == len(hashes)


class BlockHashes(Sequence[BlockHash]):
    """Block hashes of one request: a sequence of bytes, stored as key words.

    Args:
        hashes: Hashes of 16 or of 32 bytes, all of one width.

    Attributes:
        length: Number of hashes; reading it takes a tenth of the time of `len`.
        storage: int64 [>= length, KEY_WORDS], contiguous, on the CPU. It begins with the hashes, which never change,
            so they can be read from it for as long as it is kept. When it is full, a longer array replaces it.
        width: Bytes per hash; 0 while there are none.
        linked: True while every hash is known to depend on all blocks before it, so that equal hashes have equal
            predecessors. Appending hashes without `linked` ends this.

    Raises:
        ArgumentError: The hashes are not all of 16 or all of 32 bytes.

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
    def of_keys(cls, keys: Keys, width: int, linked: bool = False) -> "BlockHashes":
        """Make hashes from key words.

        Args:
            keys: int64 [n, KEY_WORDS]; becomes the storage if it is contiguous and writable, else it is copied.
            width: Bytes per hash.
            linked: As the attribute.

        Raises:
            ArgumentError: The width is neither 16 nor 32.
            ArgumentTypeError: `keys` is anything else.

        O(1); O(n) if the keys are copied.
        """
        if keys.__class__ is not np.ndarray or keys.dtype != _INT64 or keys.shape[1:] != _WORDS:
            raise ArgumentTypeError(f"keys: int64 [n, {KEY_WORDS}] is expected")
        if width not in HASH_WIDTHS and len(keys):
            raise ArgumentError(f"hashes of {HASH_WIDTHS} bytes are expected, got {width!r}")
        made = cls.__new__(cls)
        made.width = width if len(keys) else 0
        made.linked = linked
        made.storage = keys if keys.flags.carray else np.array(keys, order="C")
        made.length = len(keys)
        return made

    def copy(self) -> "BlockHashes":
        """Copy the hashes to a new array. O(n)."""
        return self.of_keys(self.keys.copy(), self.width, self.linked)

    def __copy__(self) -> "BlockHashes":
        return self.copy()

    @property
    def keys(self) -> Keys:
        """The hashes as key words, int64 [len, KEY_WORDS], on the CPU; a view of the storage. O(1)."""
        return self.storage[: self.length]

    def accepts(self, hashes: Sequence[bytes]) -> bool:
        """Whether `extend` takes these hashes: bytes objects as wide as those here, or, while there are none, all of
        16 or all of 32 bytes. O(len(hashes))."""
        if not hashes:
            return True
        if set(map(type, hashes)) != {bytes}:
            return False
        width = self.width or len(hashes[0])
        return width in HASH_WIDTHS and all_of_width(hashes, width)

    def extend(self, hashes: Sequence[BlockHash]) -> None:
        """Append hashes. Amortised O(len(hashes)).

        Raises:
            ArgumentError: The hashes are not all of 16 or all of 32 bytes, or not as wide as these.
            ArgumentTypeError: `hashes` is not a sequence. Nothing is appended.
        """
        if not isinstance(hashes, Sequence):
            raise ArgumentTypeError(f"a list of hashes is expected, got {hashes!r:.100}")
        if not hashes:
            return
        if not self.accepts(hashes):
            raise ArgumentError(f"block hashes must be bytes, all of 16 or all of 32, got {reprlib.repr(hashes)}")
        self.extend_accepted(hashes)

    def extend_accepted(self, hashes: Sequence[BlockHash], linked: bool = False) -> None:
        """Append at least one hash, all of which it `accepts`. Amortised O(len(hashes))."""
        width = len(hashes[0])
        self.extend_keys(keys_from_bytes(hashes, width), width, linked)

    def extend_keys(self, keys: Keys, width: int, linked: bool = False) -> None:
        """Append key words without any check.

        Args:
            keys: int64 [n, KEY_WORDS], contiguous; becomes the storage if there are no hashes yet.
            width: Bytes per hash.
            linked: True if the new hashes are `linked` to those here.

        Amortised O(n).
        """
        if not len(keys):
            return
        self.width = width
        self.linked = self.linked and linked
        if not self.length:
            self.storage, self.length = keys, len(keys)
            return
        length = self.length + len(keys)
        if length > len(self.storage):
            grown = np.empty((max(length, length + length // 8), KEY_WORDS), np.int64)
            grown[: self.length] = self.keys
            self.storage = grown
        self.storage[self.length : length] = keys
        self.length = length

    def cut(self, length: int, linked: bool) -> None:
        """Remove the hashes from `length` on, which nobody has read, and restore `linked`. O(1)."""
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
            # One copy of all: a call of NumPy for each hash takes several times as long as a slice of bytes.
            data, width = self.keys[index].tobytes(), self.width
            return cast(list[BlockHash], [data[at : at + width] for at in range(0, len(data), _KEY_BYTES)])
        return BlockHash(self.keys[index].tobytes()[: self.width])

    def __iter__(self) -> Iterator[BlockHash]:
        return iter(self[:])

    def __eq__(self, other: object) -> bool:
        if isinstance(other, BlockHashes):
            return self.width == other.width and bool(np.array_equal(self.keys, other.keys))
        return self[:] == other if isinstance(other, list) else NotImplemented

    def __repr__(self) -> str:
        return f"BlockHashes({self[:]!r})"
