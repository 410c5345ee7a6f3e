"""`RowHashes`: the hashes of rows, in one arena."""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from kvgpu.batch.rows.record import ROW_RECORD, RowIds
from kvgpu.compiled.jit import jit
from kvgpu.errors import ArgumentError
from kvgpu.hashing.arena import HashArena, hashes_at
from kvgpu.hashing.block_hashes import BlockHashes, write_keys
from kvgpu.hashing.functions import BlockHash
from kvgpu.integers import as_size
from kvgpu.layout import KEY_WORDS


@jit
def count_hashes(table: Any) -> int:
    """Hashes of all rows."""
    count = 0
    for row in range(len(table)):
        count += table[row].end - table[row].begin
    return count


@jit
def last_words(table: Any, rows: Any, arena: Any) -> Any:
    """Last hash of each row, int64 [n, KEY_WORDS], and whether it has one, bool [n]."""
    words = np.zeros((len(rows), arena.shape[1]), np.int64)
    has = np.zeros(len(rows), np.bool_)
    for i in range(len(rows)):
        record = table[rows[i]]
        has[i] = record.end > record.begin
        if has[i]:
            mine = hashes_at(arena, record.lent, record.begin, record.end)
            for word in range(arena.shape[1]):
                words[i, word] = mine[len(mine) - 1, word]
    return words, has


@jit
def without_room(table: Any, limits: Any, rows: Any, counts: Any) -> npt.NDArray[np.int64]:
    """Places of rows whose pieces have no room for so many more hashes."""
    places = np.empty(len(rows), np.int64)
    found = 0
    for i in range(len(rows)):
        if table[rows[i]].end + counts[i] > limits[rows[i]]:
            places[found] = i
            found += 1
    return places[:found]


@jit
def write_hashes(table: Any, rows: Any, counts: Any, words: Any, arena: Any, ahead: bool) -> npt.NDArray[np.int64]:
    """Write words int64 [sum(counts), KEY_WORDS] behind the hashes of rows, and whether these are ahead of their
    requests; begins and ends of what was written, int64 [2, n]."""
    written = np.empty((2, len(rows)), np.int64)
    done = 0
    for i in range(len(rows)):
        record = table[rows[i]]
        begin = record.end
        record.end = begin + counts[i]
        for place in range(counts[i]):
            for word in range(words.shape[1]):
                arena[begin + place, word] = words[done + place, word]
        done += counts[i]
        record.num_ahead += counts[i] if ahead else 0
        written[0, i], written[1, i] = begin, record.end
    return written


@jit
def move_hashes(table: Any, limits: Any, rows: Any, pieces: Any, arena: Any) -> npt.NDArray[np.int64]:
    """Move the hashes of rows to pieces (begin, limit) int64 [n, 2], now theirs; begins and ends of what was
    written, int64 [2, n]."""
    written = np.empty((2, len(rows)), np.int64)
    for i in range(len(rows)):
        record = table[rows[i]]
        to = pieces[i, 0]
        mine = hashes_at(arena, record.lent, record.begin, record.end)
        for place in range(len(mine)):
            for word in range(arena.shape[1]):
                arena[to + place, word] = mine[place, word]
        record.lent = 0
        record.begin, record.end, limits[rows[i]] = to, to + len(mine), pieces[i, 1]
        written[0, i], written[1, i] = to, record.end
    return written


class RowHashes:
    """Hashes of rows: each row's lie in one piece of an arena.

    A piece that is outgrown moves, and the arena is packed when no piece is long enough. Hashes that a request has
    in an array of its own may be lent: they stay there until the row is given more than the request has.

    Args:
        max_requests: Rows.
        max_hashes: Hashes of all rows together, 32 bytes each; lent ones count, since they may have to move here.
        lends: Hashes are read by the CPU alone, so that requests may lend theirs.

    Attributes:
        arena: The hashes.
        limits: int32 [max_requests]: how far a row may grow in the arena.
        width: Bytes of a hash; 0 while there is none.
        linked: All of them are known to be `BlockHashes.linked`.
        epoch: Counts packing, and new arenas: places in the arena are valid within one epoch.

    Raises:
        ConfigError: A capacity below 1.
    """

    def __init__(self, max_requests: int, max_hashes: int, lends: bool = False) -> None:
        max_requests = as_size("max_requests", max_requests)
        max_hashes = as_size("max_hashes", max_hashes)
        self.arena = HashArena(max_hashes)
        self._table = np.zeros(max_requests, ROW_RECORD)
        self.limits: npt.NDArray[np.int32] = np.zeros(max_requests, np.int32)
        self._lends = lends
        self._lent: list[npt.NDArray[np.int64] | None] = [None] * max_requests
        self.width = 0
        self.linked = True
        self.epoch = 0

    @property
    def records(self) -> npt.NDArray[Any]:
        """Of all rows, ROW_RECORD [max_requests]; what the properties show parts of."""
        return self._table

    @property
    def num_hashes(self) -> int:
        """Hashes of all tracked requests."""
        return int(count_hashes(self._table))

    def append_hashes(
        self, rows: RowIds, counts: npt.NDArray[np.int64], words: npt.NDArray[np.int64], ahead: bool = False
    ) -> None:
        """Append hashes that are known to fit into the arena; rows whose pieces they outgrow move.

        Args:
            rows: int64 [n], valid ones.
            counts: int64 [n], hashes for each, at least one.
            words: int64 [sum(counts), KEY_WORDS], row by row.
            ahead: The request objects have not got them.

        O(hashes), those of rows that move counted too; amortised O(new hashes).
        """
        self._make_room(rows, counts)
        self.arena.wrote_all(write_hashes(self._table, rows, counts, words, self.arena.words, ahead))

    def last_hashes(self, rows: RowIds) -> list[BlockHash | None]:
        """Last hash of each row; None where there is none. O(n)."""
        words, has = last_words(self._table, rows, self.arena.words)
        data, size, width = words.tobytes(), 8 * KEY_WORDS, self.width
        found = [
            data[begin : begin + width] if any_hash else None
            for begin, any_hash in zip(range(0, len(data), size), has.tolist(), strict=True)
        ]
        return cast("list[BlockHash | None]", found)

    def hashes(self, row: int, start: int = 0) -> BlockHashes:
        """Hashes of a row from place `start` on, a view that is valid until the next change. O(1)."""
        record = self._table[row]
        lent = self._lent[row]
        words = self.arena.words if lent is None else lent
        part = words[record["begin"] + start : record["end"]]
        return BlockHashes.of_keys(part, self.width, self.linked)

    def common_width(self, hashes: list[Any]) -> int:
        """Bytes of these hashes of requests and of those that are here; 0 for none.

        Raises:
            ArgumentError: They are not all of one width.
        """
        widths = {h.width if isinstance(h, BlockHashes) else len(h[0]) if len(h) else 0 for h in hashes}
        widths.add(self.width)
        widths.discard(0)
        if len(widths) > 1:
            raise ArgumentError(f"hashes of different widths cannot be tracked together: {widths}")
        return widths.pop() if widths else 0

    def refuse_too_many(self, needed: int) -> None:
        """
        Raises:
            ArgumentError: So many hashes more do not fit.
        """
        if self.num_hashes + needed > len(self.arena):
            raise ArgumentError(
                f"{needed} more hashes do not fit into an arena of {len(self.arena)} that holds "
                f"{self.num_hashes}: grow() first"
            )

    def put(self, hashes: list[Sequence[BlockHash]], width: int) -> npt.NDArray[np.int64] | int:
        """Put hashes of requests, which are known to fit, into the arena: begin, end, limit, int64 [n, 3].

        Or the place of the first request with hashes of another width than so many bytes, 16 or 32; the arena
        holds what it held then.
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

    def _pieces(self, counts: list[int]) -> list[tuple[int, int, int]]:
        """Pieces for so many hashes each, which are known to fit: begin, end, limit."""
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
        """Move rows whose pieces have no room for so many more hashes, which are known to fit."""
        outgrown = without_room(self._table, self.limits, rows, counts)
        if not len(outgrown):
            return
        lent = outgrown[self._table["lent"][rows[outgrown]] != 0]
        if len(lent):
            self._take_over(rows[lent], counts[lent])
            outgrown = without_room(self._table, self.limits, rows, counts)
        arena, moved = self.arena, rows[outgrown]
        records, limits = self._table[moved], self.limits[moved]
        pieces: list[tuple[int, int]] = []
        for size in (records["end"] - records["begin"] + counts[outgrown]).tolist():
            piece = arena.take(size)
            if piece is None:
                # Which forgets the pieces that were just taken, and moves those that had room, too.
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
        self.arena.wrote_all(move_hashes(self._table, self.limits, rows, pieces, words))

    def _take_over(self, rows: RowIds, counts: npt.NDArray[np.int64]) -> None:
        """Copy hashes that are lent to pieces with room for so many more, which are known to fit."""
        records = self._table[rows]
        pieces = self._pieces((records["end"] - records["begin"] + counts).tolist())
        self._move_to(rows, np.array(pieces, np.int64)[:, [0, 2]])
        for row in rows.tolist():
            self._lent[row] = None

    def _pack(self, needed: int, rows: RowIds | None = None, counts: npt.NDArray[np.int64] | None = None) -> None:
        """Move all hashes together, so that there is room for `needed` more.

        It is left in one piece, or behind each of `rows` for `counts` hashes.
        """
        more = np.zeros(len(self._table), np.int64)
        begins, ends = self._table["begin"], self._table["end"]
        kept = self.limits > begins
        if rows is not None and counts is not None:
            more[rows] = counts
            kept[rows] = True
        held = np.flatnonzero(kept)
        held = held[np.argsort(begins[held])]
        sizes = ends[held] - begins[held]
        # Half of what is left goes to the rows: the next ones to grow need not move.
        gap = (len(self.arena) - int(sizes.sum()) - needed) // (2 * max(1, len(held)))
        gaps = more[held] + gap
        pieces = list(zip(begins[held].tolist(), ends[held].tolist(), strict=True))
        packed = np.array(self.arena.pack(pieces, gaps.tolist()), np.int64)
        begins[held] = packed
        ends[held] = packed + sizes
        self.limits[held] = packed + sizes + gaps
        self.epoch += 1
