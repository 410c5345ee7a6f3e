"""Block tables of the requests of one group."""

from collections.abc import Iterator, MutableMapping, Sequence
from typing import Any

from kvgpu.block_tables.request_blocks import RequestBlocks
from kvgpu.block_tables.store import BlockTableStore
from kvgpu.blocks.state import BlockState, KVCacheBlock

PLAIN_NAMES: frozenset[type] = frozenset((str, int))
"""Types of names that are compared without code of others."""


class BlockTables(dict[str, Any]):
    """Request id -> its `RequestBlocks`; a missing request gets an empty list, as in a defaultdict.

    Requests that a batch has given blocks are kept as ids of their block tables until somebody asks for them.

    Args:
        state: Records of the pool.
        store: Where the ids lie.
    """

    def __init__(self, state: BlockState, store: BlockTableStore) -> None:
        self._state = state
        self._store = store

    def __getitem__(self, request_id: str) -> RequestBlocks:
        blocks = dict.get(self, request_id)
        if blocks.__class__ is not RequestBlocks:
            if request_id.__class__ not in PLAIN_NAMES:
                self._store.has_odd_names = True
            blocks = RequestBlocks(self._state, self._store, blocks)
            super().__setitem__(request_id, blocks)
        return blocks

    def get(self, request_id: Any, default: Any = None) -> Any:
        """As of a dict."""
        blocks = dict.get(self, request_id, default)
        if blocks.__class__ is RequestBlocks or request_id not in self:
            return blocks
        return self[request_id]

    def __setitem__(self, request_id: str, blocks: Sequence[KVCacheBlock]) -> None:
        self.pop(request_id, None)
        plain = blocks if isinstance(blocks, list) else list(blocks)
        self[request_id].mirror(plain)

    def __delitem__(self, request_id: str) -> None:
        self.pop(request_id)

    def values(self) -> list[RequestBlocks]:  # type: ignore[override]
        """As of a dict."""
        return [self[request_id] for request_id in self]

    def items(self) -> list[tuple[str, RequestBlocks]]:  # type: ignore[override]
        """As of a dict."""
        return [(request_id, self[request_id]) for request_id in self]

    def pop(self, request_id: str, *default: Any) -> Any:
        """As of a dict; the blocks go on as a list of their own."""
        if request_id in self:
            blocks = self[request_id]
            self._store.close(self.leave(request_id))
            return blocks
        return super().pop(request_id, *default)

    def table_id_of(self, request_id: str) -> int:
        """Row of a request in the store."""
        blocks = super().__getitem__(request_id)
        return int(blocks.table_id if type(blocks) is RequestBlocks else blocks)

    def adopt(self, names: Sequence[str], table_ids: Sequence[int]) -> None:
        """Give requests that hold nothing block tables that are filled already."""
        if not self.keys().isdisjoint(names):
            for name in names:
                self.pop(name, None)
        if not PLAIN_NAMES.issuperset(map(type, names)):
            self._store.has_odd_names = True
        self.update(zip(names, table_ids, strict=True))

    def leave(self, request_id: str) -> int:
        """Forget a request; the caller closes its block table."""
        blocks = super().pop(request_id)
        return blocks.detach() if blocks.__class__ is RequestBlocks else int(blocks)

    def leave_all(self, names: Sequence[str]) -> None:
        """`leave` for many."""
        for blocks in list(map(super().pop, names)):
            if type(blocks) is RequestBlocks:
                blocks.detach()

    def table_ids(self) -> list[int]:
        """Return the block tables that requests have."""
        return [blocks.table_id if type(blocks) is RequestBlocks else blocks for blocks in super().values()]


class CachedCounts(MutableMapping[str, int]):
    """Request id -> blocks that caching has handled; a request that is in here is running (fact 21)."""

    def __init__(self, tables: BlockTables) -> None:
        self._tables = tables

    def __getitem__(self, request_id: str) -> int:
        blocks = self._tables.get(request_id)
        if blocks is None or blocks.num_cached < 0:
            raise KeyError(request_id)
        return int(blocks.num_cached)

    def __contains__(self, request_id: object) -> bool:
        # As the mixin would say, which makes an error for it.
        blocks = self._tables.get(request_id)
        return blocks is not None and blocks.num_cached >= 0

    def __setitem__(self, request_id: str, count: int) -> None:
        self._tables[request_id].num_cached = count

    def __delitem__(self, request_id: str) -> None:
        self[request_id]
        self._tables[request_id].num_cached = -1

    def __iter__(self) -> Iterator[str]:
        return (name for name, blocks in self._tables.items() if blocks.num_cached >= 0)

    def __len__(self) -> int:
        return sum(1 for _ in self)
