"""`FurtherKeys`: keys of blocks from inside them, and what else a block may be found under."""

from collections.abc import Iterable

import numpy as np

from kvgpu.blocks.record import MEASURED, Ids
from kvgpu.blocks.state import BlockState, KVCacheBlock
from kvgpu.hashing.map_keys import BlockHashWithGroupId
from kvgpu.index.block_map import BlockHashToBlockMap


class FurtherKeys:
    """Blocks that are found under several keys, or under a key for only a part of their tokens (facts B20 and B21).

    A block has one key of its own, `block_hash`, and any number of aliases.

    Args:
        state: Records of the pool.
        found: What finds blocks by their keys.

    Attributes:
        aliases: Further keys by block, in the order in which the block got them.
        is_measured: Whether the record of any block may say how many tokens its own key covers.
    """

    def __init__(self, state: BlockState, found: BlockHashToBlockMap) -> None:
        self._state, self._map = state, found
        self.aliases: dict[int, list[BlockHashWithGroupId]] = {}
        self.is_measured = False

    def covers_less(self, block_id: int, num_tokens: int) -> bool:
        """Whether the own key of a block of the pool is known to cover fewer tokens of a prefix. O(1)."""
        if not self.is_measured or block_id < 0:
            return False
        record = self._state.records[block_id]
        return bool(record["flags"] & MEASURED and record["num_tokens"] < num_tokens)

    def insert(self, key: BlockHashWithGroupId, block: KVCacheBlock, num_tokens: int) -> bool:
        """Have a block found under a key as well; return whether it was not found under it before. Expected O(1).

        Args:
            key: Becomes its own key if it has none.
            block: Of the pool.
            num_tokens: Tokens of the prefix that the key covers.
        """
        if block.block_hash == key or self._map.contain(key, block.block_id):
            return False
        if block.block_hash is None:
            block.block_hash = key
            self._state.measure(block.block_id, num_tokens)
            self.is_measured = True
        else:
            self.aliases.setdefault(block.block_id, []).append(key)
        self._map.insert(key, block)
        return True

    def remove(self, block: KVCacheBlock) -> list[BlockHashWithGroupId]:
        """Forget all keys of a block; return those under which it was found, its own first. O(keys of the block)."""
        block_id = block.block_id
        own = block.block_hash
        keys = ([] if own is None else [own]) + self.aliases.pop(block_id, [])
        removed = [key for key in keys if self._map.pop(key, block_id) is not None]
        block.reset_hash()
        return removed

    def move(self, source: KVCacheBlock, target: KVCacheBlock) -> None:
        """Have a block without keys found under those of another one, which loses them (B27). O(keys of the block)."""
        num_tokens = source.block_hash_num_tokens or 0
        for key in self.remove(source):
            self.insert(key, target, num_tokens)

    def measure(self, ids: Ids, ends: Iterable[int]) -> None:
        """Note how many tokens of a prefix the new keys of blocks cover, where a pool has rows for aliases. O(n)."""
        if len(self._state.aliases.owners):
            self.is_measured = True
            for block_id, end in zip(ids.tolist(), ends, strict=True):
                if block_id >= 0:
                    self._state.measure(block_id, end)

    def is_aliased(self, ids: Ids) -> bool:
        """Whether one of some blocks, int32 [n], is found under aliases. O(n), O(1) while no block is."""
        if not self.aliases:
            return False
        return any(map(self.aliases.__contains__, ids.tolist()))

    def clear(self) -> None:
        """Forget everything; the caller forgets the keys themselves. O(keys)."""
        self.aliases.clear()
        self.is_measured = False

    def restore(self) -> None:
        """Forget what the map does not know, after a call that was interrupted. O(keys)."""
        for block_id, keys in list(self.aliases.items()):
            kept = [key for key in keys if self._map.contain(key, block_id)]
            if kept:
                self.aliases[block_id] = kept
            else:
                del self.aliases[block_id]

    def violations(self) -> list[str]:
        """Describe aliases under which their blocks are not found, and rows of aliases without a block. O(keys)."""
        found = [
            f"block {block_id} is not found under one of its aliases"
            for block_id, keys in self.aliases.items()
            for key in keys
            if not self._map.contain(key, block_id)
        ]
        rows = self._state.aliases.counts
        known = {block_id: len(keys) for block_id, keys in self.aliases.items()}
        found += [
            f"block {block_id} has {rows[block_id]} rows for {known.get(block_id, 0)} aliases"
            for block_id in np.flatnonzero(rows).tolist()
            if rows[block_id] > known.get(block_id, 0)
        ]
        return found
