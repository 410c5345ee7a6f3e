"""`TableStore`: the block tables of all requests of a pool, as ids in one array."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from kvgpu.blocks.record import Ids
from kvgpu.compiled.jit import jit, leaf

BEGIN, LENGTH, LIMIT, NUM_CACHED, QUIET, SERIAL, TABLE_WORDS = 0, 1, 2, 3, 4, 5, 8
"""Words of a block table.

BEGIN, LENGTH: its ids. LIMIT: relative to BEGIN, there is room for ids up to here.
NUM_CACHED: blocks that caching has handled; -1 while the request does not run.
QUIET: the request needs nothing of any group up to so many tokens; kept in its table of the first group.
SERIAL: differs between all block tables that ever had this id; 0 while there is none.
"""

TOP = 0
"""Place in `free_segments` that holds the end of the memory that was ever used. Place i holds the first free segment of
2**i ids, whose first id is the next one."""
SMALLEST_CLASS = 3


class StoreArrays(NamedTuple):
    """The arrays of a `TableStore` for compiled code; Python passes them as a plain tuple (see `PoolArrays`)."""

    tables: Any
    """int64 [tables, TABLE_WORDS]."""
    ids: Any
    """int32, the memory of all block tables."""
    free_segments: Any
    """int64, see TOP."""


@leaf
def segment_class(length: int) -> int:
    """Return the smallest i >= SMALLEST_CLASS so that 2**i ids suffice."""
    size_class = SMALLEST_CLASS
    while (1 << size_class) < length:
        size_class += 1
    return size_class


@leaf
def release_segment(store: Any, table_id: int) -> None:
    """Give back the memory of a block table."""
    table = store.tables[table_id]
    if table[LIMIT] > 0:
        size_class = segment_class(table[LIMIT])
        store.ids[table[BEGIN]] = store.free_segments[size_class]
        store.free_segments[size_class] = table[BEGIN]
    table[BEGIN] = 0
    table[LENGTH] = 0
    table[LIMIT] = 0


@leaf
def make_room(store: Any, table_id: int, length: int) -> None:
    """Make room for `length` ids in a block table, which moves if it must.

    The caller has made sure that the memory is long enough (`TableStore.reserve`).
    """
    table, ids, free_segments = store.tables[table_id], store.ids, store.free_segments
    if length <= table[LIMIT]:
        return
    size_class = segment_class(length)
    begin = free_segments[size_class]
    if begin >= 0:
        free_segments[size_class] = ids[begin]
    else:
        begin = free_segments[TOP]
        free_segments[TOP] += 1 << size_class
    count = table[LENGTH]
    old = table[BEGIN]
    for i in range(count):
        ids[begin + i] = ids[old + i]
    release_segment(store, table_id)
    table[BEGIN] = begin
    table[LENGTH] = count
    table[LIMIT] = 1 << size_class


@jit
def _open(tables: Any, opened: Any, serial: int) -> None:
    for i in range(len(opened)):
        tables[opened[i], NUM_CACHED] = -1
        tables[opened[i], SERIAL] = serial + 1 + i


@jit
def _append(store: Any, table_id: int, new: Any) -> None:
    store = StoreArrays(*store)
    table = store.tables[table_id]
    length = table[LENGTH]
    make_room(store, table_id, length + len(new))
    begin = table[BEGIN] + length
    for i in range(len(new)):
        store.ids[begin + i] = new[i]
    table[LENGTH] = length + len(new)


@jit
def _close(store: Any, table_id: int) -> None:
    """Give the memory of a block table back, and clear its words."""
    store = StoreArrays(*store)
    release_segment(store, table_id)
    store.tables[table_id] = 0


class TableStore:
    """Rows of block ids that grow, in one array: compiled code appends to many of them in one call.

    A row takes a segment of 2**i ids, and a segment twice as long when it is outgrown; segments that are
    given back are used again. Appending is amortised O(1) per id.

    Attributes:
        rows: int64 [rows, TABLE_WORDS].
        ids: int32, the memory of all rows.
        heads: int64, end of the used part and free segments by size.
        num_closed: Rows that were closed: those who keep rows look whether theirs are among them.
        mirrors: Rows that are written back to lists of others after every change.
    """

    def __init__(self) -> None:
        self.rows: npt.NDArray[np.int64] = np.zeros((8, TABLE_WORDS), np.int64)
        self.ids: Ids = np.empty(64, np.int32)
        self.heads: npt.NDArray[np.int64] = np.full(32, -1, np.int64)
        self.heads[TOP] = 0
        self.mirrors = 0
        self.num_closed = 0
        self._idle = list(range(len(self.rows) - 1, -1, -1))
        self._serial = 0

    def arrays(self) -> tuple[Any, Any, Any]:
        """Return the fields of `StoreArrays`. O(1)."""
        return self.rows, self.ids, self.heads

    def open(self) -> int:
        """A new, empty row. Amortised O(1)."""
        if not self._idle:
            return int(self.open_many(1)[0])
        row = self._idle.pop()
        self._serial += 1
        self.rows[row, NUM_CACHED] = -1
        self.rows[row, SERIAL] = self._serial
        return row

    def open_many(self, count: int) -> npt.NDArray[np.int64]:
        """So many new, empty rows, int64 [count]. Amortised O(count)."""
        while len(self._idle) < count:
            length = len(self.rows)
            self.rows = np.concatenate([self.rows, np.zeros_like(self.rows)])
            self._idle[:0] = range(2 * length - 1, length - 1, -1)
        opened = np.array(self._idle[len(self._idle) - count :], np.int64)
        del self._idle[len(self._idle) - count :]
        serial, self._serial = self._serial, self._serial + count
        _open(self.rows, opened, serial)
        return opened

    def close(self, row: int) -> None:
        """Give a row and its memory back. O(1)."""
        _close(self.arrays(), row)
        self.note_closed([row])

    def note_closed(self, rows: list[int]) -> None:
        """Take note of rows that compiled code has closed. O(rows)."""
        self._idle += rows
        self.num_closed += len(rows)

    def close_many(self, opened: npt.NDArray[np.int64]) -> None:
        """Give back rows that hold no memory, int64 [n]. O(n)."""
        self.rows[opened] = 0
        self.note_closed(opened.tolist())

    def close_all_but(self, used: set[int]) -> None:
        """Give back rows that nobody knows any longer, as after a call that was cut short. O(rows)."""
        unused = set(range(len(self.rows))) - used
        for row in unused.difference(self._idle):
            _close(self.arrays(), row)
        self.rows[:, QUIET] = 0
        self._idle = sorted(unused, reverse=True)
        self.num_closed += 1

    def num_used(self) -> int:
        """Rows that are open."""
        return len(self.rows) - len(self._idle)

    def reserve(self, count: int) -> None:
        """See that segments of `count` ids together can be taken. Amortised O(count)."""
        needed = int(self.heads[TOP]) + count
        if needed > len(self.ids):
            grown = np.empty(max(needed, 2 * len(self.ids)), np.int32)
            grown[: len(self.ids)] = self.ids
            self.ids = grown

    def of(self, row: int) -> Ids:
        """Ids of a row, int32 [length]; a live view until anything is appended to any row."""
        begin, length = self.rows[row, :LIMIT].tolist()
        return self.ids[begin : begin + length]

    def append(self, row: int, new: Ids) -> None:
        """Append ids to a row. Amortised O(len(new))."""
        self.reserve(2 * (int(self.rows[row, LENGTH]) + len(new)) + (1 << SMALLEST_CLASS))
        _append(self.arrays(), row, np.asarray(new, np.int32))
