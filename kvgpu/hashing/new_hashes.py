"""`NewHashes`: hashes that were made for requests, and that these have not got yet."""

from collections.abc import MutableSequence, Sequence
from typing import Any

from kvgpu.errors import ArgumentTypeError
from kvgpu.hashing.block_hashes import BlockHashes
from kvgpu.hashing.bulk.chains import Rows
from kvgpu.hashing.functions import BlockHash
from kvgpu.integers import shown


class NewHashes:
    """New hashes of requests, made without a change to any of them.

    Args:
        requests: None twice.
        firsts: Hashes that each has.
        counts: Hashes that each is to get.
        made: Key words of all of them, request by request, or the hashes of each.
        width: Bytes of a hash, where these are key words.
        linked: As in `BlockHashes`.
    """

    __slots__ = ("_firsts", "_linked", "_made", "_width", "counts", "requests")

    def __init__(
        self,
        requests: Sequence[Any],
        firsts: list[int],
        counts: list[int],
        made: "Rows | list[BlockHashes | list[BlockHash]]",
        width: int,
        linked: bool,
    ) -> None:
        self.requests, self.counts = requests, counts
        self._firsts, self._made, self._width, self._linked = firsts, made, width, linked

    @property
    def widths(self) -> set[int]:
        """Bytes of the new hashes."""
        if isinstance(self._made, list):
            return {len(each) for new in self._made for each in new}
        return {self._width} if any(self.counts) else set()

    def of(self, place: int) -> BlockHashes | list[BlockHash]:
        """Those of the request at a place."""
        if isinstance(self._made, list):
            return self._made[place]
        begin = sum(self.counts[:place])
        rows = self._made[begin : begin + self.counts[place]]
        return BlockHashes.of_rows(rows, self._width, self._linked)

    def append(self) -> None:
        """Append them to `block_hashes` of their requests: to all, or to none where one does not take them.

        Those of another width turn the array of a request into a list. O(new hashes).
        """
        helds = [request.block_hashes for request in self.requests]
        # What cannot be told from what was appended.
        linked = None if self._linked else [getattr(held, "linked", False) for held in helds]
        try:
            if isinstance(self._made, list):
                for request, new in zip(self.requests, self._made, strict=True):
                    append_hashes(request, new, self._linked)
                return
            begin = 0
            for request, held, count in zip(self.requests, helds, self.counts, strict=True):
                rows = self._made[begin : begin + count]
                if type(held) is BlockHashes and held.width in (0, self._width):
                    held.extend_rows(rows, self._width, self._linked)
                elif count:
                    append_hashes(request, BlockHashes.of_rows(rows, self._width), self._linked)
                begin += count
        except BaseException:
            for place, (request, held, first) in enumerate(zip(self.requests, helds, self._firsts, strict=True)):
                if request.block_hashes is not held:
                    request.block_hashes = held
                was = getattr(held, "linked", False) if linked is None else linked[place]
                cut_hashes(held, first, was)
            raise


def append_hashes(request: Any, new: BlockHashes | list[BlockHash], linked: bool = False) -> None:
    """Append hashes to a request; those of another width turn its array into a list.

    `linked`: as in `BlockHashes`, to those that the request has.

    Raises:
        ArgumentTypeError: Its hashes are nothing that grows.
    """
    held = request.block_hashes
    if not len(new):
        return
    if isinstance(held, BlockHashes) and isinstance(new, BlockHashes):
        if held.width in (0, new.width):
            held.extend_rows(new.rows, new.width, linked)
            return
    elif isinstance(held, BlockHashes) and held.accepts(new):
        held.extend_accepted(new, linked)
        return
    if isinstance(held, BlockHashes):
        # A hash function of another width: served, without the speed of arrays.
        held = request.block_hashes = list(held)
    if not isinstance(held, MutableSequence):
        raise ArgumentTypeError(f"hashes are appended to block_hashes: give the request a list, not {shown(held)}")
    held.extend(new)


def cut_hashes(held: Any, length: int, linked: bool) -> None:
    """Take back what was appended to the hashes of a request behind so many, which were `linked` or not."""
    if isinstance(held, BlockHashes):
        held.cut(length, linked)
    elif len(held) > length:
        del held[length:]
