"""`BlockTableStore`: the block tables of all requests of a pool, as ids in one array."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from kvgpu.blocks.record import Ids
from kvgpu.compiled.handle import IDS, WORDS, Handle, array_at, lines_at
from kvgpu.compiled.jit import inline, jit, leaf

BEGIN, LENGTH, LIMIT, NUM_CACHED, COVERED, SERIAL, JUNCTION, TABLE_WORDS = 0, 1, 2, 3, 4, 5, 6, 8
"""Words of a block table.

BEGIN, LENGTH: its ids. LIMIT: relative to BEGIN, there is room for ids up to here.
NUM_CACHED: blocks that caching has handled; -1 while the request does not run.
COVERED: number of tokens up to which the request needs nothing of any group; kept in its table of the first group.
SERIAL: differs between all block tables that ever had this id; 0 while there is none.
JUNCTION: up to where some groups had cached a longer prefix, in tokens; 0 if there is none. In the table of the first
group.
"""

TOP = 0
"""Place in `free_segments` that holds the end of the memory that was ever used. Place i holds the first free segment of
2**i ids, whose first id is the next one."""
SMALLEST_CLASS = 3


class StoreArrays(NamedTuple):
    """The arrays of a `BlockTableStore` for compiled code; Python passes them as a plain tuple (see `PoolArrays`)."""

    tables: Any
    """int64 [tables, TABLE_WORDS]."""
    ids: Any
    """int32, the memory of all block tables."""
    free_segments: Any
    """int64, see TOP."""


TABLES, ID_MEMORY, _FREE_SEGMENTS = 0, 1, 2
"""Arrays of a store's handle, in order."""
STORE_WORDS = 6
"""Words of the handle."""


@inline
def store_at(handle: Any) -> StoreArrays:
    """Return the arrays that the handle of a store stands for."""
    return StoreArrays(
        lines_at(handle, 2 * TABLES, WORDS, TABLE_WORDS),
        array_at(handle, 2 * ID_MEMORY, IDS),
        array_at(handle, 2 * _FREE_SEGMENTS, WORDS),
    )


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

    The caller has made sure that the memory is long enough (`BlockTableStore.reserve`).
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


class BlockTableStore:
    """Block tables that grow, all in one array: compiled code appends to many of them in one call.

    A block table takes a segment of 2**i ids, and a segment twice as long when it is outgrown; segments that are
    given back are used again. Appending is amortised O(1) per id.

    Attributes:
        tables: int64 [tables, TABLE_WORDS].
        ids: int32, the memory of all block tables.
        free_segments: int64, end of the used part and free segments by size.
        num_closed: Block tables that were closed: whoever keeps ids of some looks whether they are among them.
        mirrors: Block tables that are written back to lists of others after every change.
        has_odd_names: Whether a request ever had a name that is neither a str nor an int, and so may run any code when
            it is compared.
        handle: Of the three arrays, for compiled code.
    """

    def __init__(self) -> None:
        self.tables: npt.NDArray[np.int64] = np.zeros((8, TABLE_WORDS), np.int64)
        self.ids: Ids = np.empty(64, np.int32)
        self.free_segments: npt.NDArray[np.int64] = np.full(32, -1, np.int64)
        self.free_segments[TOP] = 0
        self.handle = Handle(self.arrays())
        self.mirrors = 0
        self.has_odd_names = False
        self.num_closed = 0
        self._idle = list(range(len(self.tables) - 1, -1, -1))
        self._serial = 0

    def arrays(self) -> tuple[Any, Any, Any]:
        """Return the fields of `StoreArrays`. O(1)."""
        return self.tables, self.ids, self.free_segments

    def open(self) -> int:
        """Open a new, empty block table and return its id. Amortised O(1)."""
        if not self._idle:
            return int(self.open_many(1)[0])
        table_id = self._idle.pop()
        self._serial += 1
        self.tables[table_id, NUM_CACHED] = -1
        self.tables[table_id, SERIAL] = self._serial
        return table_id

    def open_many(self, count: int) -> npt.NDArray[np.int64]:
        """Open `count` empty block tables and return their ids, int64 [count]. Amortised O(count)."""
        while len(self._idle) < count:
            length = len(self.tables)
            self.tables = np.concatenate([self.tables, np.zeros_like(self.tables)])
            self.handle.point(TABLES, self.tables)
            self._idle[:0] = range(2 * length - 1, length - 1, -1)
        opened = np.array(self._idle[len(self._idle) - count :], np.int64)
        del self._idle[len(self._idle) - count :]
        serial, self._serial = self._serial, self._serial + count
        _open(self.tables, opened, serial)
        return opened

    def close(self, table_id: int) -> None:
        """Give a block table and its memory back. O(1)."""
        _close(self.arrays(), table_id)
        self.note_closed([table_id])

    def note_closed(self, table_ids: list[int]) -> None:
        """Take note of block tables that compiled code has closed. O(table_ids)."""
        self._idle += table_ids
        self.num_closed += len(table_ids)

    def close_many(self, opened: npt.NDArray[np.int64]) -> None:
        """Give back block tables that hold no memory, int64 [n]. O(n)."""
        self.tables[opened] = 0
        self.note_closed(opened.tolist())

    def close_all_but(self, used: set[int]) -> None:
        """Give back all block tables but those in use, as after a call that was cut short. O(tables)."""
        # The call may have been cut short between an array and its handle.
        self.handle.point(TABLES, self.tables)
        self.handle.point(ID_MEMORY, self.ids)
        unused = set(range(len(self.tables))) - used
        for table_id in unused.difference(self._idle):
            _close(self.arrays(), table_id)
        self.tables[:, COVERED] = 0
        self._idle = sorted(unused, reverse=True)
        self.num_closed += 1

    def num_used(self) -> int:
        """Count the open block tables."""
        return len(self.tables) - len(self._idle)

    def reserve(self, count: int) -> None:
        """Make room for segments of `count` ids together. Amortised O(count)."""
        needed = int(self.free_segments[TOP]) + count
        if needed > len(self.ids):
            grown = np.empty(max(needed, 2 * len(self.ids)), np.int32)
            grown[: len(self.ids)] = self.ids
            self.ids = grown
            self.handle.point(ID_MEMORY, self.ids)

    def of(self, table_id: int) -> Ids:
        """Return the ids of a block table, int32 [length]: a live view until anything is appended to any of them."""
        begin = self.tables.item(table_id, BEGIN)
        return self.ids[begin : begin + self.tables.item(table_id, LENGTH)]

    def append(self, table_id: int, new: Ids) -> None:
        """Append ids to a block table. Amortised O(len(new))."""
        self.reserve(2 * (int(self.tables[table_id, LENGTH]) + len(new)) + (1 << SMALLEST_CLASS))
        _append(self.arrays(), table_id, np.asarray(new, np.int32))
