"""State of the blocks of a pool: for each block a packed record of 64 bytes and a use of 8, and views of both.

The two are the state. A `KVCacheBlock` is a view of them, made on demand.
"""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from kvgpu.blocks.free_order import make_queue
from kvgpu.blocks.index_meta import make_meta
from kvgpu.blocks.lru import neighbour
from kvgpu.blocks.record import COARSE, ENTERED, HAS_HASH, IN_TABLE, ODD, Ids, make_records
from kvgpu.errors import BlockIdError, BlockStateError
from kvgpu.hashing.functions import HASH_WIDTHS
from kvgpu.hashing.map_keys import GROUP_ID_BYTES, BlockHashWithGroupId, get_block_hash, get_group_id
from kvgpu.integers import MOST_TOKENS, as_integer, as_switch
from kvgpu.layout import KEY_WORDS, MAX_GROUP_ID

LOWEST, HIGHEST = -(1 << 63), (1 << 63) - 1
"""Range of the ids that a block made by hand may have."""


def _counted(ref_cnt: Any) -> int:
    """Return a number of users, after checking that a record can hold it."""
    return as_integer("ref_cnt", ref_cnt, -MOST_TOKENS, MOST_TOKENS)


def _in_no_index(block_id: int) -> None:
    """Do nothing: the default of `BlockState.take_out`, for a state without an index."""


class BlockState:
    """Records and uses of blocks 0 to num_blocks-1, the queue of the free ones, and the side stores.

    The record and the use after the last block's are those of the placeholders at both ends of the queue.

    The index sets `take_out`, which takes a block out of the index before its hash is changed by hand.
    """

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self.records = make_records(num_blocks + 1)
        self.free = make_queue(num_blocks)
        self.meta = make_meta(num_blocks)
        self.null_id = -1
        self.counts_null_users = True
        self.width: int | None = None
        self.odd_hashes: dict[int, BlockHashWithGroupId] = {}
        self.coarse: dict[int, tuple[bytes, int, int]] = {}
        self.views: dict[int, KVCacheBlock] = {}
        self.foreign: list[KVCacheBlock] = []
        self.queue: Any = None
        self.take_out: Callable[[int], None] = _in_no_index

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

    def adopt_width(self, hash_bytes: int) -> bool:
        """Return whether records hold hashes of this length; the first regular hash decides the width."""
        if self.width is None and hash_bytes in HASH_WIDTHS:
            self.width = hash_bytes
        return hash_bytes == self.width

    def words_of(self, key: bytes) -> tuple[npt.NDArray[np.int64], int] | None:
        """Return (key words int64[4], group) of a regular map key, or None if no record can hold the key."""
        width = self.width
        if width is None or len(key) < width + GROUP_ID_BYTES:
            return None
        group = get_group_id(BlockHashWithGroupId(key))
        if (len(key) - GROUP_ID_BYTES) % width or group > MAX_GROUP_ID:
            return None
        last = key[-GROUP_ID_BYTES - width : -GROUP_ID_BYTES]
        return np.frombuffer(last.ljust(8 * KEY_WORDS, b"\0"), "<i8"), group

    def key_of(self, block_id: int) -> BlockHashWithGroupId | None:
        """Return block hash and group id of a block as the bytes of its map key, or None if it has no hash."""
        record = self.records[block_id]
        flags = int(record["flags"])
        if not flags & HAS_HASH:
            return None
        if flags & ODD:
            return self.odd_hashes[block_id]
        assert self.width is not None
        if flags & COARSE:
            blob, start, stop = self.coarse[block_id]
            block_hash = blob[start:stop]
        else:
            block_hash = record.tobytes()[: self.width]
        return BlockHashWithGroupId(block_hash + int(record["group"]).to_bytes(GROUP_ID_BYTES, "big"))

    def set_key(self, block_id: int, key: BlockHashWithGroupId) -> None:
        """Write the hash of a block that has none; the index is not changed.

        Raises:
            BlockStateError: The block already has a hash.
        """
        record = self.records[block_id]
        if record["flags"] & HAS_HASH:
            raise BlockStateError(f"block {block_id} already has a hash; call reset_hash() before it gets another")
        group = get_group_id(key)
        block_hash = get_block_hash(key)
        if self.adopt_width(len(block_hash)) and group <= MAX_GROUP_ID:
            words = np.frombuffer(block_hash.ljust(8 * KEY_WORDS, b"\0"), "<i8")
            for name, word in zip(("k0", "k1", "k2", "k3"), words, strict=True):
                record[name] = word
            record["group"] = group
            record["flags"] = HAS_HASH
        else:
            self.odd_hashes[block_id] = key
            record["flags"] = HAS_HASH | ODD

    def forget_keys(self) -> None:
        """Forget all hashes and their width; the index is not changed. O(num_blocks)."""
        self.records["flags"][: self.num_blocks] = 0
        self.odd_hashes.clear()
        self.coarse.clear()
        self.width = None

    def forget_entries(self) -> None:
        """Record that the index, which has been emptied, holds no block; the hashes stay. O(num_blocks)."""
        self.records["flags"][: self.num_blocks] &= ~np.int32(ENTERED)

    def reset_key(self, block_id: int) -> None:
        """Forget the hash of a block, after taking the block out of the index."""
        if self.records[block_id]["flags"] & IN_TABLE:
            self.take_out(block_id)
        self.records[block_id]["flags"] = 0
        self.odd_hashes.pop(block_id, None)
        self.coarse.pop(block_id, None)


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
        """Set `block_hash`; the name of its setter since vLLM 0.24. How many tokens it covers is not kept. O(1)."""
        self.block_hash = block_hash

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
