"""`RowHashes`: the hashes of rows, in one arena."""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from kvgpu.batch.rows.hash_moves import count_hashes, last_words, move_hashes, without_room, write_hashes
from kvgpu.batch.rows.record import RowIds, longer
from kvgpu.errors import ArgumentError
from kvgpu.hashing.block_hashes import BlockHashes, write_keys
from kvgpu.hashing.functions import BlockHash
from kvgpu.hashing.hash_arena import HashArena
from kvgpu.integers import as_size
from kvgpu.layout import KEY_WORDS


class RowHashes:
    """Hashes of rows: each row's lie in one piece of an arena.

    A row that outgrows its piece moves, and the arena is packed if no free piece is long enough. A request that keeps
    its hashes in an array may lend them: the row reads them there until it is given more than the request has.

    Args:
        records: REQUEST_RECORD [rows]: `begin`, `end` and `borrowed` say where the hashes of a row lie.
        max_hashes: Hashes of all rows together, 32 bytes each; borrowed ones count, since they may have to move here.
        lends: Only the CPU reads hashes, so that requests may lend theirs.

    Attributes:
        arena: The memory of the hashes.
        limits: int32 [rows]: how far a row may grow in the arena.
        width: Bytes of a hash; 0 while there is none.
        linked: All of them are known to be `BlockHashes.linked`.
        epoch: How often the arena was packed or replaced: places in the arena are valid within one epoch.

    Raises:
        ConfigError: A capacity below 1.
    """

    def __init__(self, records: npt.NDArray[Any], max_hashes: int, lends: bool = False) -> None:
        self.arena = HashArena(as_size("max_hashes", max_hashes))
        self.limits: npt.NDArray[np.int32] = np.zeros(len(records), np.int32)
        self.width = 0
        self.linked = True
        self.epoch = 0
        self._records = records
        self._lends = lends
        self._borrowed: list[npt.NDArray[np.int64] | None] = [None] * len(records)

    def __len__(self) -> int:
        """Number of hashes of all rows. O(rows)."""
        return int(count_hashes(self._records))

    def grown(self, records: npt.NDArray[Any], max_hashes: int) -> "RowHashes":
        """Make the same hashes with more room, for a longer copy of the records; count an epoch. O(capacity).

        Raises:
            MemoryError: There is no room for them. Nothing is changed.
        """
        larger = object.__new__(RowHashes)
        larger.arena = self.arena.grown(max_hashes)
        larger.limits = longer(self.limits, len(records))
        larger.width, larger.linked, larger.epoch = self.width, self.linked, self.epoch + 1
        larger._records, larger._lends = records, self._lends
        larger._borrowed = [*self._borrowed, *[None] * (len(records) - len(self._borrowed))]
        return larger

    def append(
        self, rows: RowIds, counts: npt.NDArray[np.int64], words: npt.NDArray[np.int64], ahead: bool = False
    ) -> None:
        """Append hashes that are known to fit into the arena; rows that outgrow their pieces move.

        Args:
            rows: int64 [n], valid ones.
            counts: int64 [n], hashes for each, at least one.
            words: int64 [sum(counts), KEY_WORDS], row by row.
            ahead: The request objects do not have them.

        O(hashes), including those of rows that move; amortised O(new hashes).
        """
        self._make_room(rows, counts)
        self.arena.wrote_all(write_hashes(self._records, rows, counts, words, self.arena.words, ahead))

    def last(self, rows: RowIds) -> list[BlockHash | None]:
        """Return the last hash of each row; None if it has none. O(n)."""
        words, has = last_words(self._records, rows, self.arena.words)
        data, size, width = words.tobytes(), 8 * KEY_WORDS, self.width
        found = [
            data[begin : begin + width] if any_hash else None
            for begin, any_hash in zip(range(0, len(data), size), has.tolist(), strict=True)
        ]
        return cast("list[BlockHash | None]", found)

    def of(self, row: int, start: int = 0) -> BlockHashes:
        """Return the hashes of a row from place `start` on, as a view that is valid until the next change. O(1)."""
        record = self._records[row]
        borrowed = self._borrowed[row]
        words = self.arena.words if borrowed is None else borrowed
        return BlockHashes.of_keys(words[record["begin"] + start : record["end"]], self.width, self.linked)

    def fit(self, width: int | None) -> bool:
        """Return whether records with hashes of `width` bytes (None: not known yet) can hold all of these. O(1)."""
        return width is None or self.width in (0, width)

    def common_width(self, hashes: Sequence[Any]) -> int:
        """Return the width of these hashes, which must be that of the hashes here, in bytes; 0 if there are none.

        Raises:
            ArgumentError: The widths differ.
        """
        widths = {h.width if isinstance(h, BlockHashes) else len(h[0]) if len(h) else 0 for h in hashes}
        widths.add(self.width)
        widths.discard(0)
        if len(widths) > 1:
            raise ArgumentError(f"hashes of different widths cannot be tracked together: {widths}")
        return widths.pop() if widths else 0

    def refuse_too_many(self, needed: int) -> None:
        """Check that there is room for `needed` more hashes.

        Raises:
            ArgumentError: There is not.
        """
        count = len(self)
        if count + needed > len(self.arena):
            raise ArgumentError(
                f"{needed} more hashes do not fit into an arena of {len(self.arena)} that holds {count}: grow() first"
            )

    def refuse_tokens(self, rows: RowIds, starts: npt.NDArray[np.int64], block_size: int) -> None:
        """Check that there is room for the hashes of starts[i + 1] - starts[i] more tokens of rows[i]. O(rows).

        Raises:
            ArgumentError: There is not.
        """
        if len(self) + len(rows) + int(starts[-1]) // block_size <= len(self.arena):
            return
        records = self._records[rows]
        needed = (records["num_tokens"] + np.diff(starts)) // block_size
        held = records["end"] - records["begin"]
        self.refuse_too_many(int(np.maximum(needed - held, 0).sum()))

    def storage_of(self, hashes: Sequence[Any]) -> npt.NDArray[np.int64] | None:
        """Return the array from which a row can read a request's hashes; None if it has to copy them. O(1)."""
        return hashes.storage if self._lends and isinstance(hashes, BlockHashes) else None

    def lend(self, rows: list[int], storages: Sequence[npt.NDArray[np.int64] | None]) -> bool:
        """Hold on to the arrays that rows read their hashes from; None for a row that reads the arena. O(rows).

        Returns:
            Whether one of them is another array than before.
        """
        borrowed, changed = self._borrowed, False
        for row, storage in zip(rows, storages, strict=True):
            changed = changed or storage is not borrowed[row]
            borrowed[row] = storage
        return changed

    def put(self, hashes: list[Sequence[BlockHash]], width: int) -> npt.NDArray[np.int64] | int:
        """Copy hashes of requests, which are known to fit, into the arena.

        Returns:
            Begin, end and limit of each piece, int64 [n, 3]. Or the place of the first request with hashes that are
            not `width` bytes long, 16 or 32; the arena then holds what it held before.
        """
        if not any(map(len, hashes)):
            return np.zeros((len(hashes), 3), np.int64)
        pieces = self._pieces([len(part) for part in hashes])
        written = 0
        try:
            for part, (begin, end, _) in zip(hashes, pieces, strict=True):
                if not write_keys(part, width, self.arena.words[begin:end]):
                    return written
                self.arena.wrote(begin, end)
                written += 1
        finally:
            if written < len(hashes):
                for begin, _, limit in reversed(pieces):
                    self.arena.give(begin, limit)
        return np.array(pieces, np.int64).reshape(-1, 3)

    def release(self, rows: list[int], begins: list[int], limits: list[int]) -> None:
        """Take back the pieces of rows, and let go of the arrays that they read. O(rows)."""
        for row, begin, limit in zip(rows, begins, limits, strict=True):
            self._borrowed[row] = None
            if limit:
                self.arena.give(begin, limit)

    def _pieces(self, counts: list[int]) -> list[tuple[int, int, int]]:
        """Return begin, end and limit of a piece for each count of hashes, all of which are known to fit."""
        arena = self.arena
        pieces: list[tuple[int, int, int]] = []
        for count in counts:
            piece = arena.take(count) if count else (0, 0)
            if piece is None:
                # Packing forgets the pieces that were just taken.
                self._pack(sum(counts))
                piece = arena.take(sum(counts))
                assert piece is not None
                ends = [piece[0] + end for end in accumulate(counts)]
                return [(end - count, end, end) for end, count in zip(ends, counts, strict=True)]
            pieces.append((piece[0], piece[0] + count, piece[1]))
        return pieces

    def _make_room(self, rows: RowIds, counts: npt.NDArray[np.int64]) -> None:
        """Move rows whose pieces have no room for `counts` more hashes, which are known to fit."""
        outgrown = without_room(self._records, self.limits, rows, counts)
        if not len(outgrown):
            return
        borrowed = outgrown[self._records["borrowed"][rows[outgrown]] != 0]
        if len(borrowed):
            self._take_over(rows[borrowed], counts[borrowed])
            outgrown = without_room(self._records, self.limits, rows, counts)
        arena, moved = self.arena, rows[outgrown]
        records, limits = self._records[moved], self.limits[moved]
        pieces: list[tuple[int, int]] = []
        for size in (records["end"] - records["begin"] + counts[outgrown]).tolist():
            piece = arena.take(size)
            if piece is None:
                # Packing forgets the pieces that were just taken, and also moves the rows that had room.
                self._pack(int(counts.sum()), rows, counts)
                return
            pieces.append(piece)
        if pieces:
            self._move_to(moved, np.array(pieces, np.int64))
        for begin, limit in zip(records["begin"].tolist(), limits.tolist(), strict=True):
            arena.give(begin, limit)

    def _move_to(self, rows: RowIds, pieces: npt.NDArray[np.int64]) -> None:
        """Move rows to pieces (begin, limit), int64 [n, 2]."""
        words = self.arena.words
        self.arena.wrote_all(move_hashes(self._records, self.limits, rows, pieces, words))

    def _take_over(self, rows: RowIds, counts: npt.NDArray[np.int64]) -> None:
        """Copy borrowed hashes to pieces that have room for `counts` more, which are known to fit."""
        records = self._records[rows]
        pieces = self._pieces((records["end"] - records["begin"] + counts).tolist())
        self._move_to(rows, np.array(pieces, np.int64)[:, [0, 2]])
        for row in rows.tolist():
            self._borrowed[row] = None

    def _pack(self, needed: int, rows: RowIds | None = None, counts: npt.NDArray[np.int64] | None = None) -> None:
        """Move all hashes together, so that there is room for `needed` more.

        The room is one piece at the end; if `rows` are given, it lies after the hashes of each, for its `counts`.
        """
        more = np.zeros(len(self._records), np.int64)
        begins, ends = self._records["begin"], self._records["end"]
        has_piece = self.limits > begins
        if rows is not None and counts is not None:
            more[rows] = counts
            has_piece[rows] = True
        packed = np.flatnonzero(has_piece)
        packed = packed[np.argsort(begins[packed])]
        sizes = ends[packed] - begins[packed]
        # Half of the free room goes to the rows: the next ones to grow need not move.
        gap = (len(self.arena) - int(sizes.sum()) - needed) // (2 * max(1, len(packed)))
        gaps = more[packed] + gap
        pieces = list(zip(begins[packed].tolist(), ends[packed].tolist(), strict=True))
        tops = np.array(self.arena.pack(pieces, gaps.tolist()), np.int64)
        begins[packed] = tops
        ends[packed] = tops + sizes
        self.limits[packed] = tops + sizes + gaps
        self.epoch += 1
