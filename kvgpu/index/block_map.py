"""`BlockHashToBlockMap`: block lookup by key, for single keys and for inspection.

Regular entries are stored in the index. A small dict beside it stores what no record can hold: keys of odd
width and blocks of other pools. A key is stored in one of the two, never in both.
"""

from collections.abc import Iterator, MutableMapping
from typing import Any

import numpy as np

from kvgpu.blocks.record import FIRST, IN_TABLE, ODD, SHARED
from kvgpu.blocks.state import BlockState, KVCacheBlock
from kvgpu.errors import ArgumentTypeError, BlockIdError
from kvgpu.hashing.map_keys import BlockHashWithGroupId
from kvgpu.index.base import BlockIndex
from kvgpu.integers import shown
from kvgpu.layout import MAX_BLOCK_ID

Entry = KVCacheBlock | dict[int, KVCacheBlock]


def _refuse_other_keys(key: Any) -> None:
    if not isinstance(key, bytes):
        raise ArgumentTypeError(f"a key of a map is bytes, got {shown(key)}")


class BlockHashToBlockMap:
    """Maps a key to its block, or to several blocks with the same key in the order of insertion.

    Args:
        state: Records of the pool; None for a map without a pool.
        index: Index over these records.
    """

    def __init__(self, state: BlockState | None = None, index: BlockIndex | None = None) -> None:
        self._state = state
        self._index = index
        self.extras: dict[bytes, Entry] = {}

    def get_one_block(self, key: BlockHashWithGroupId) -> KVCacheBlock | None:
        """Return the block that was inserted first with this key, or None (fact 12). Expected O(1).

        Raises:
            ArgumentTypeError: The key is not bytes.
        """
        _refuse_other_keys(key)
        if self.extras:
            entry = self.extras.get(key)
            if entry is not None:
                return next(iter(entry.values())) if isinstance(entry, dict) else entry
        first = self._first(key)
        return None if first < 0 or self._state is None else self._state.view(self._state.aliases.owner(first))

    def insert(self, key: BlockHashWithGroupId, block: KVCacheBlock) -> None:
        """Add a block under a key, after the blocks that have this key already (fact 12). Expected O(1).

        O(blocks with this key) if no record can be the entry (the block has another key and there is no row for an
        alias, or it is a block of another pool).

        Raises:
            ArgumentTypeError: The key is not bytes, or the block is not a `KVCacheBlock`.
            BlockIdError: The block's id is outside the pool. Nothing is changed.
        """
        self.refuse_unfit(key, block)
        if key not in self.extras and self._is_regular(key, block):
            assert self._index is not None
            self._index.enter(block._row)
            return
        row = self._row_for_alias(key, block)
        if row >= 0:
            assert self._index is not None
            self._index.enter(row)
            return
        self._move_to_extras(key)
        entry = self.extras.get(key)
        if entry is None:
            self.extras[key] = block
        elif isinstance(entry, dict):
            entry[block.block_id] = block
        else:
            self.extras[key] = {entry.block_id: entry, block.block_id: block}

    def pop(self, key: BlockHashWithGroupId, block_id: int) -> KVCacheBlock | None:
        """Take one block out and return it; return None, and change nothing, if it is not there. Its hash stays.

        Raises:
            ArgumentTypeError: The key is not bytes.
            InvariantError: The records of the blocks with this key are broken.

        Expected O(1), however many blocks have this key.
        """
        _refuse_other_keys(key)
        if not isinstance(block_id, int | np.integer):
            return None  # no block has such an id
        block_id = int(block_id)  # records would take a truth value for a mask
        entry = self.extras.get(key)
        if entry is not None:
            return self._pop_extra(key, entry, block_id)
        row = self._row_of(key, block_id)
        if self._state is None or row < 0:
            return None
        if row == block_id:
            self._state.take_out(row)
        else:
            self._drop_alias(row)
        return self._state.view(block_id)

    def contain(self, key: BlockHashWithGroupId, block_id: int) -> bool:
        """Return whether one block can be found under a key. Expected O(1).

        Raises:
            ArgumentTypeError: The key is not bytes.
        """
        _refuse_other_keys(key)
        entry = self.extras.get(key)
        if isinstance(entry, dict):
            return block_id in entry
        return entry.block_id == block_id if entry is not None else self._row_of(key, block_id) >= 0

    def holds(self, block: KVCacheBlock) -> bool:
        """Return whether a block can be found by its own hash. O(1)."""
        key = block.block_hash
        if key is None:
            return False
        if block._state is self._state and self._row_of(key, block._row) >= 0:
            return True
        entry = self.extras.get(key)
        return block is (entry.get(block.block_id) if isinstance(entry, dict) else entry)

    def clear(self) -> None:
        """Take everything out; blocks keep their hashes, as they would if this were a dict. O(number of blocks)."""
        self.extras.clear()
        if self._index is not None and self._state is not None:
            self._index.clear()
            self._state.forget_entries()

    def __len__(self) -> int:
        return len(self.extras) + (0 if self._index is None else len(self._index))

    @property
    def _cache(self) -> "CacheView":
        """The map in the form of vLLM's own dict, readable and writable."""
        return CacheView(self)

    def entry(self, key: BlockHashWithGroupId) -> Entry | None:
        """Return all blocks with a key: one block or, once the key was shared, a dict of id to block (fact 12).

        The dict is in the order of insertion. Returns None if there is no block. Expected O(blocks with this key).
        """
        if key in self.extras:
            return self.extras[key]
        first = self._first(key)
        if first < 0:
            return None
        assert self._state is not None
        assert self._index is not None
        owner = self._state.aliases.owner
        if self._state.records[first]["flags"] & SHARED:
            return {i: self._state.view(i) for i in map(owner, self._index.chain(first))}
        return self._state.view(owner(first))

    def keys(self) -> Iterator[BlockHashWithGroupId]:
        """Iterate over all keys. O(number of blocks)."""
        yield from map(BlockHashWithGroupId, list(self.extras))
        if self._state is not None:
            for block_id in np.flatnonzero(self._state.records["flags"] & FIRST):
                key = self._state.key_of(int(block_id))
                assert key is not None
                yield key

    def refuse_unfit(self, key: Any, block: Any) -> None:
        """Raise what `insert` would raise for these arguments. O(1)."""
        if not isinstance(key, bytes) or not isinstance(block, KVCacheBlock):
            raise ArgumentTypeError(
                f"a map takes bytes and a KVCacheBlock, got {type(key).__name__} and {type(block).__name__}"
            )
        block_id = block.block_id
        end = MAX_BLOCK_ID + 1 if self._state is None else self._state.num_blocks
        if not 0 <= block_id < end:
            raise BlockIdError(f"block id {block_id} is outside the pool of {end} blocks")

    def _row_of(self, key: bytes, block_id: Any) -> int:
        """Return the row under which the index holds this block of the pool with this key, or -1."""
        state = self._state
        if state is None or not isinstance(block_id, int | np.integer) or not 0 <= block_id < state.num_blocks:
            return -1
        for row in (int(block_id), *state.aliases.of(int(block_id))):
            if state.records[row]["flags"] & IN_TABLE and state.key_of(row) == key:
                return row
        return -1

    def _row_for_alias(self, key: BlockHashWithGroupId, block: KVCacheBlock) -> int:
        """Return a new row that holds a key besides the one of a block of the pool, or -1 if there can be none."""
        state = self._state
        if state is None or key in self.extras or block._state is not state or state.words_of(key) is None:
            return -1
        if state.key_of(block._row) in (None, key):
            return -1
        row = state.aliases.take(block._row)
        if row >= 0:
            state.set_key(row, key)
        return row

    def _drop_alias(self, row: int) -> None:
        """Take a key besides the one of its block out of the index, and forget it."""
        assert self._state is not None
        self._state.reset_key(row)
        self._state.aliases.give(row)

    def _first(self, key: bytes) -> int:
        """Return the id of the first block in the index, after comparing every byte of the key; -1 if there is none."""
        if self._state is None or self._index is None:
            return -1
        found = self._state.words_of(key)
        if found is None:
            return -1
        first = self._index.first(*found)
        return first if first >= 0 and self._state.key_of(first) == key else -1

    def _is_regular(self, key: bytes, block: KVCacheBlock) -> bool:
        """Return whether the block's record can be the entry: it holds this key, and the block is not in the index."""
        state = self._state
        return (
            state is not None
            and block._state is state
            and state.words_of(key) is not None
            and state.key_of(block._row) == key
            and not state.records[block._row]["flags"] & (IN_TABLE | ODD)
        )

    def _move_to_extras(self, key: BlockHashWithGroupId) -> None:
        entry = None if key in self.extras else self.entry(key)
        if entry is None:
            return
        for block_id in list(entry) if isinstance(entry, dict) else [entry.block_id]:
            self.pop(key, block_id)
        self.extras[key] = entry

    def _pop_extra(self, key: bytes, entry: Entry, block_id: int) -> KVCacheBlock | None:
        if isinstance(entry, dict):
            block = entry.pop(block_id, None)
            if not entry:
                del self.extras[key]
            return block
        if entry.block_id != block_id:
            return None
        del self.extras[key]
        return entry


class CacheView(MutableMapping[BlockHashWithGroupId, Entry]):
    """`BlockHashToBlockMap._cache`: the map as a mapping of key to block or dict of blocks."""

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, owner: BlockHashToBlockMap) -> None:
        self._owner = owner

    def __getitem__(self, key: BlockHashWithGroupId) -> Entry:
        entry = self._owner.entry(key)
        if entry is None:
            raise KeyError(key)
        return entry

    def __setitem__(self, key: BlockHashWithGroupId, value: Entry) -> None:
        blocks = list(value.values()) if isinstance(value, dict) else [value]
        for block in blocks:
            self._owner.refuse_unfit(key, block)
        if key in self:
            del self[key]
        if isinstance(value, dict) and len(blocks) == 1:
            # A dict of one block stays a dict (fact 12); the index would show the block without a dict.
            self._owner.extras[key] = {blocks[0].block_id: blocks[0]}
            return
        for block in blocks:
            self._owner.insert(key, block)

    def __delitem__(self, key: BlockHashWithGroupId) -> None:
        entry = self[key]
        for block_id in list(entry) if isinstance(entry, dict) else [entry.block_id]:
            self._owner.pop(key, block_id)

    def clear(self) -> None:
        self._owner.clear()

    def __iter__(self) -> Iterator[BlockHashWithGroupId]:
        return self._owner.keys()

    def __len__(self) -> int:
        return len(self._owner)

    def __copy__(self) -> dict[BlockHashWithGroupId, Entry]:
        return dict(self)

    def __eq__(self, other: Any) -> bool:
        return dict(self) == (dict(other) if isinstance(other, CacheView) else other)

    def __repr__(self) -> str:
        return repr(dict(self))
