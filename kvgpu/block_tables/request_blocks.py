"""`RequestBlocks`: the blocks of one request in one group."""

from kvgpu.block_tables.store import JUNCTION, LENGTH, NUM_CACHED, BlockTableStore
from kvgpu.blocks.block_list import BlockList
from kvgpu.blocks.record import NO_IDS, Ids
from kvgpu.blocks.state import BlockState, KVCacheBlock


class RequestBlocks(BlockList):
    """The blocks of one request in one group: a block table of the pool's `BlockTableStore` while it is held.

    After `detach` it goes on as a list of its own, so that whoever has it can still read it.

    Args:
        state: Records of the pool.
        store: Where the ids lie.
        table_id: Block table that is taken over; a new one if None.

    Attributes:
        table_id: Its place in the store; -1 after `detach`.
        covered_until: Tokens up to which the request needs nothing of any group (see
            `SingleTypeKVCacheManager.covered_until`); 0 where that is not known. It lives and dies with the
            blocks that it is about.
    """

    __slots__ = ("_mirror", "_store", "covered_until", "table_id")

    def __init__(self, state: BlockState, store: BlockTableStore, table_id: int | None = None) -> None:
        super().__init__(state)
        self._store = store
        self._mirror: list[KVCacheBlock] | None = None
        self.table_id: int = store.open() if table_id is None else table_id
        self.covered_until = 0

    @property
    def ids(self) -> Ids:
        """The ids, int32 [len]; a live view until something is appended to any request's blocks."""
        return self._ids if self.table_id < 0 else self._store.of(self.table_id)

    @property
    def num_cached(self) -> int:
        """Blocks that caching has handled; -1 for a request that does not run (fact 21)."""
        return -1 if self.table_id < 0 else self._store.tables.item(self.table_id, NUM_CACHED)

    @num_cached.setter
    def num_cached(self, count: int) -> None:
        self._store.tables[self.table_id, NUM_CACHED] = count

    @property
    def junction(self) -> int:
        """Up to where some groups had cached a longer prefix, in tokens; 0 if none had."""
        return 0 if self.table_id < 0 else self._store.tables.item(self.table_id, JUNCTION)

    @junction.setter
    def junction(self, num_tokens: int) -> None:
        self._store.tables[self.table_id, JUNCTION] = num_tokens

    def mirror(self, blocks: list[KVCacheBlock]) -> None:
        """Take over the blocks of a plain list, and write every change back to it."""
        self.extend_ids(self.state.ids_of(blocks))
        self._mirror = blocks
        self._store.mirrors += 1

    def extend_ids(self, ids: Ids) -> None:
        """Append blocks by id. Amortised O(len(ids))."""
        self._store.append(self.table_id, ids)
        self.changed()

    def changed(self) -> None:
        """To be called after writing through `ids`."""
        if self._mirror is not None:
            self._mirror[:] = list(self)

    def detach(self) -> int:
        """Keep a copy of the ids, if there is memory for it, and let go of the block table; the caller closes it."""
        try:
            self._ids = self.ids.copy()
        except MemoryError:
            self._ids = NO_IDS  # who still looks at them sees none; giving them back goes on
        self._forget_mirror()
        table_id, self.table_id = self.table_id, -1
        return table_id

    def _forget_mirror(self) -> None:
        if self._mirror is not None:
            self._mirror = None
            self._store.mirrors -= 1

    def __len__(self) -> int:
        return len(self._ids) if self.table_id < 0 else self._store.tables.item(self.table_id, LENGTH)
