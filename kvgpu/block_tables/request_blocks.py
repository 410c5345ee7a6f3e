"""`RequestBlocks`: the blocks of one request in one group."""

from kvgpu.block_tables.store import LENGTH, NUM_CACHED, TableStore
from kvgpu.blocks.block_list import BlockList
from kvgpu.blocks.record import NO_IDS, Ids
from kvgpu.blocks.state import BlockState, KVCacheBlock


class RequestBlocks(BlockList):
    """The blocks of one request in one group: a row of the pool's `TableStore` while it is held.

    After `detach` it goes on as a list of its own, so that whoever has it can still read it.

    Args:
        state: Records of the pool.
        store: Where the ids lie.
        row: Row of the store that is taken over; a new one if None.

    Attributes:
        row: Row of the store; -1 after `detach`.
        quiet_until: Tokens up to which the request needs nothing of any group (see
            `SingleTypeKVCacheManager.quiet_until`); 0 where that is not known. It lives and dies with the
            blocks that it is about.
    """

    __slots__ = ("_mirror", "_store", "quiet_until", "row")

    def __init__(self, state: BlockState, store: TableStore, row: int | None = None) -> None:
        super().__init__(state)
        self._store = store
        self._mirror: list[KVCacheBlock] | None = None
        self.row: int = store.open() if row is None else row
        self.quiet_until = 0

    @property
    def ids(self) -> Ids:
        """The ids, int32 [len]; a live view until something is appended to any request's blocks."""
        return self._ids if self.row < 0 else self._store.of(self.row)

    @property
    def num_cached(self) -> int:
        """Blocks that caching has handled; -1 for a request that does not run (fact 21)."""
        return -1 if self.row < 0 else int(self._store.rows[self.row, NUM_CACHED])

    @num_cached.setter
    def num_cached(self, count: int) -> None:
        self._store.rows[self.row, NUM_CACHED] = count

    def mirror(self, blocks: list[KVCacheBlock]) -> None:
        """Take over the blocks of a plain list, and write every change back to it."""
        self.extend_ids(self.state.ids_of(blocks))
        self._mirror = blocks
        self._store.mirrors += 1

    def extend_ids(self, ids: Ids) -> None:
        """Append blocks by id. Amortised O(len(ids))."""
        self._store.append(self.row, ids)
        self.changed()

    def changed(self) -> None:
        """To be called after writing through `ids`."""
        if self._mirror is not None:
            self._mirror[:] = list(self)

    def detach(self) -> int:
        """Keep a copy of the ids, if there is memory for it, and let go of the row, which the caller has to close."""
        try:
            self._ids = self.ids.copy()
        except MemoryError:
            self._ids = NO_IDS  # who still looks at them sees none; giving them back goes on
        self._forget_mirror()
        row, self.row = self.row, -1
        return row

    def _forget_mirror(self) -> None:
        if self._mirror is not None:
            self._mirror = None
            self._store.mirrors -= 1

    def __len__(self) -> int:
        return len(self._ids) if self.row < 0 else int(self._store.rows[self.row, LENGTH])
