"""State of the blocks of a pool: for each block a packed record of 64 bytes and a use of 8, and views of both.

The two are the state. A `KVCacheBlock` is a view of them, made on demand.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np

from kvgpu.blocks.block_keys import BlockKeys
from kvgpu.blocks.free_order import make_queue
from kvgpu.blocks.index_meta import make_meta
from kvgpu.blocks.lru import neighbour
from kvgpu.blocks.record import MEASURED, Ids
from kvgpu.errors import BlockIdError
from kvgpu.hashing.map_keys import BlockHashWithGroupId
from kvgpu.integers import MOST_TOKENS, as_integer, as_switch

LOWEST, HIGHEST = -(1 << 63), (1 << 63) - 1
"""Range of the ids that a block made by hand may have."""


def _counted(ref_cnt: Any) -> int:
    """Return a number of users, after checking that a record can hold it."""
    return as_integer("ref_cnt", ref_cnt, -MOST_TOKENS, MOST_TOKENS)


class BlockState(BlockKeys):
    """Keys and uses of blocks 0 to num_blocks-1, the queue of the free ones, and the side stores.

    The use after the last block's is that of the placeholders at both ends of the queue. Arguments are those of
    `BlockKeys`.
    """

    def __init__(self, num_blocks: int, num_aliases: int = 0) -> None:
        super().__init__(num_blocks, num_aliases)
        self.free = make_queue(num_blocks)
        self.meta = make_meta(self.num_rows)
        self.null_id = -1
        self.counts_null_users = True
        self.views: dict[int, KVCacheBlock] = {}
        self.foreign: list[KVCacheBlock] = []
        self.queue: Any = None

    def view(self, block_id: int) -> "KVCacheBlock":
        """Return the `KVCacheBlock` with this id, the same object every time. O(1).

        Negative ids stand for blocks of other pools; `id_of` assigns them.

        Raises:
            BlockIdError: No block has this id.
        """
        try:
            return self.views[block_id]
        except KeyError:
            pass
        if not -2 - len(self.foreign) < block_id < self.num_blocks or block_id == -1:
            raise BlockIdError(f"block id {block_id} is outside the pool of {self.num_blocks} blocks")
        if block_id < 0:
            return self.foreign[-2 - block_id]
        block = KVCacheBlock.__new__(KVCacheBlock)
        block._state, block._row = self, int(block_id)
        self.views[block_id] = block
        return block

    def id_of(self, block: "KVCacheBlock") -> int:
        """Return the id of `block`; if it belongs to another state, a negative one that `view` accepts."""
        if block._state is self:
            return block._row
        for index, known in enumerate(self.foreign):
            if known is block:
                return -2 - index
        self.foreign.append(block)
        return -1 - len(self.foreign)

    def ids_of(self, blocks: "Iterable[KVCacheBlock] | Ids") -> Ids:
        """Return the int32 ids of a sequence of blocks; an array of ids is returned as it is. O(n), O(1) for arrays."""
        if isinstance(blocks, np.ndarray):
            return blocks
        if getattr(blocks, "state", None) is self:
            ids: Ids = blocks.ids  # type: ignore[union-attr]
            return ids
        return np.fromiter((self.id_of(block) for block in blocks), np.int32)


class KVCacheBlock:
    """One block of the KV cache: a view of its record.

    Args:
        block_id: Id of the block: its index in the pool.
        ref_cnt: Number of requests that use it.
        is_null: Whether it is a placeholder.

    Raises:
        ArgumentError, ArgumentTypeError: `block_id` is not an integer of 64 bits, or `ref_cnt` not one of 32 bits.
            Setters raise the same for a value that the attribute cannot take. Nothing is changed.

    A block constructed by hand belongs to no pool and owns its record. All methods and properties are O(1).
    """

    __slots__ = ("_row", "_standalone_id", "_state")
    _state: BlockState
    _row: int
    _standalone_id: int

    def __init__(self, block_id: int, ref_cnt: int = 0, *, is_null: bool = False) -> None:
        self._standalone_id = as_integer("block_id", block_id, LOWEST, HIGHEST)
        self._state, self._row = BlockState(1), 0
        self._state.free.uses[0]["ref_cnt"] = _counted(ref_cnt)
        self._state.views[0] = self
        self.is_null = is_null

    @property
    def block_id(self) -> int:
        """Index of the block in the pool, or the id with which it was constructed."""
        try:
            return self._standalone_id
        except AttributeError:
            return self._row

    @property
    def ref_cnt(self) -> int:
        """Number of requests that use the block. Setting it moves nothing into or out of the free queue."""
        state = self._state
        if self._row == state.null_id and not state.counts_null_users:
            return 0
        return int(state.free.uses[self._row]["ref_cnt"])

    @ref_cnt.setter
    def ref_cnt(self, value: int) -> None:
        self._state.free.uses[self._row]["ref_cnt"] = _counted(value)

    def incr_ref(self) -> None:
        """Add one user. The caller is responsible for the free queue; see `BlockPool.touch`. O(1)."""
        self.ref_cnt += 1

    def decr_ref(self) -> None:
        """Remove one user. The caller is responsible for the free queue; see `BlockPool.free_blocks`. O(1)."""
        self.ref_cnt -= 1

    @property
    def block_hash(self) -> BlockHashWithGroupId | None:
        """Hash of a full, cached block with its group id, or None. Setting it twice raises a BlockStateError.

        If the block spans several hash blocks, this is the concatenation of all their hashes (fact 10).
        """
        return self._state.key_of(self._row)

    @block_hash.setter
    def block_hash(self, key: BlockHashWithGroupId) -> None:
        self._state.set_key(self._row, key)

    def set_block_hash(self, block_hash: BlockHashWithGroupId, num_tokens: int | None = None) -> None:
        """Set `block_hash`, and how many tokens of a prefix it covers; the name of the setter since vLLM 0.24. O(1)."""
        covered = None if num_tokens is None else as_integer("num_tokens", num_tokens, 0, MOST_TOKENS)
        self.block_hash = block_hash
        if covered is not None:
            self._state.measure(self._row, covered)

    @property
    def block_hash_num_tokens(self) -> int | None:
        """Tokens of the prefix that `block_hash` covers (B20); None where nothing depends on it, and without a hash."""
        record = self._state.records[self._row]
        return int(record["num_tokens"]) if record["flags"] & MEASURED else None

    @property
    def _block_hash(self) -> BlockHashWithGroupId | None:
        """`block_hash` under a name by which it may be set at any time, also to None, as in vLLM."""
        return self._state.key_of(self._row)

    @_block_hash.setter
    def _block_hash(self, key: BlockHashWithGroupId | None) -> None:
        self._state.reset_key(self._row)
        if key is not None:
            self._state.set_key(self._row, key)

    def reset_hash(self) -> None:
        """Forget the hash, so that no lookup finds the block by it any more. O(1).

        What the map stores outside the index (see `BlockHashToBlockMap`) stays, as it would in a dict.
        """
        self._state.reset_key(self._row)

    @property
    def is_null(self) -> bool:
        """True for the placeholder block, which holds no data and is never freed (fact 11)."""
        return self._row == self._state.null_id

    @is_null.setter
    def is_null(self, value: bool) -> None:
        if as_switch("is_null", value):
            self._state.null_id = self._row
        elif self.is_null:
            self._state.null_id = -1

    @property
    def prev_free_block(self) -> "KVCacheBlock | None":
        """The block before this one in the free queue; for the first, a placeholder; None outside the queue."""
        return self._neighbour(-1)

    @property
    def next_free_block(self) -> "KVCacheBlock | None":
        """The block after this one in the free queue; for the last, a placeholder; None outside the queue."""
        return self._neighbour(1)

    def _neighbour(self, step: int) -> "KVCacheBlock | None":
        state = self._state
        block_id = neighbour(*state.free, self._row, step)
        if block_id < 0:
            return None
        if block_id == state.num_blocks:
            ends: tuple[KVCacheBlock, KVCacheBlock] = state.queue.ends
            return ends[0] if step < 0 else ends[1]
        return state.view(block_id)

    def __repr__(self) -> str:
        return (
            f"KVCacheBlock(block_id={self.block_id}, ref_cnt={self.ref_cnt}, "
            f"block_hash={self.block_hash!r}, is_null={self.is_null})"
        )
