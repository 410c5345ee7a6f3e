"""`NewHashes`: new hashes of requests, computed and not appended yet."""

from collections.abc import MutableSequence, Sequence
from typing import Any

from kvgpu.errors import ArgumentTypeError
from kvgpu.hashing.block_hashes import BlockHashes
from kvgpu.hashing.bulk.chains import Keys
from kvgpu.hashing.functions import BlockHash
from kvgpu.integers import shown


class NewHashes:
    """New hashes of requests, which `append` gives to them.

    Args:
        requests: Distinct requests.
        firsts: Number of hashes that each request has.
        counts: Number of new hashes of each request.
        made: The new hashes: key words of all of them, request by request, or a sequence for each request.
        width: Bytes of a hash, if they are key words.
        linked: As in `BlockHashes`.
    """

    __slots__ = ("_firsts", "_linked", "_made", "_width", "counts", "requests")

    def __init__(
        self,
        requests: Sequence[Any],
        firsts: list[int],
        counts: list[int],
        made: "Keys | list[BlockHashes | list[BlockHash]]",
        width: int,
        linked: bool,
    ) -> None:
        self.requests, self.counts = requests, counts
        self._firsts, self._made, self._width, self._linked = firsts, made, width, linked

    @property
    def widths(self) -> set[int]:
        """The different widths of the new hashes, in bytes."""
        if isinstance(self._made, list):
            return {len(each) for new in self._made for each in new}
        return {self._width} if any(self.counts) else set()

    def of(self, place: int) -> BlockHashes | list[BlockHash]:
        """Return the new hashes of the request at a place."""
        if isinstance(self._made, list):
            return self._made[place]
        begin = sum(self.counts[:place])
        keys = self._made[begin : begin + self.counts[place]]
        return BlockHashes.of_keys(keys, self._width, self._linked)

    def append(self) -> None:
        """Append the new hashes to `block_hashes` of each request, or to none if one cannot take them.

        Hashes of another width turn the array of a request into a list.

        Raises:
            ArgumentTypeError: The hashes of a request cannot be appended to.

        O(new hashes).
        """
        before = [request.block_hashes for request in self.requests]
        # Appending linked hashes does not change `linked`, so only other hashes need the old values for an undo.
        linked = None if self._linked else [getattr(hashes, "linked", False) for hashes in before]
        try:
            if isinstance(self._made, list):
                for request, new in zip(self.requests, self._made, strict=True):
                    append_hashes(request, new, self._linked)
                return
            begin = 0
            for request, hashes, count in zip(self.requests, before, self.counts, strict=True):
                keys = self._made[begin : begin + count]
                if type(hashes) is BlockHashes and hashes.width in (0, self._width):
                    hashes.extend_keys(keys, self._width, self._linked)
                elif count:
                    append_hashes(request, BlockHashes.of_keys(keys, self._width), self._linked)
                begin += count
        except BaseException:
            for place, (request, hashes, first) in enumerate(zip(self.requests, before, self._firsts, strict=True)):
                if request.block_hashes is not hashes:
                    request.block_hashes = hashes
                was_linked = getattr(hashes, "linked", False) if linked is None else linked[place]
                cut_hashes(hashes, first, was_linked)
            raise


def append_hashes(request: Any, new: BlockHashes | list[BlockHash], linked: bool = False) -> None:
    """Append hashes to a request; hashes of another width turn its array into a list.

    Args:
        request: Has `block_hashes`.
        new: The hashes.
        linked: True if they are `linked` to those of the request, as in `BlockHashes`.

    Raises:
        ArgumentTypeError: The hashes of the request cannot be appended to.

    O(new hashes).
    """
    hashes = request.block_hashes
    if not len(new):
        return
    if isinstance(hashes, BlockHashes) and isinstance(new, BlockHashes):
        if hashes.width in (0, new.width):
            hashes.extend_keys(new.keys, new.width, linked)
            return
    elif isinstance(hashes, BlockHashes) and hashes.accepts(new):
        hashes.extend_accepted(new, linked)
        return
    if isinstance(hashes, BlockHashes):
        # The width has changed with the hash function: a list serves any widths, without the speed of an array.
        hashes = request.block_hashes = list(hashes)
    if not isinstance(hashes, MutableSequence):
        raise ArgumentTypeError(f"hashes are appended to block_hashes: give the request a list, not {shown(hashes)}")
    hashes.extend(new)


def cut_hashes(hashes: Any, length: int, linked: bool) -> None:
    """Remove the hashes of a request from `length` on; `linked` restores the attribute of `BlockHashes`."""
    if isinstance(hashes, BlockHashes):
        hashes.cut(length, linked)
    elif len(hashes) > length:
        del hashes[length:]
