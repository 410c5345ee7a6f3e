"""`BlockKeys`: the keys of blocks, in their records and beside them."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from kvgpu.blocks.alias_rows import AliasRows
from kvgpu.blocks.record import COARSE, ENTERED, HAS_HASH, IN_TABLE, MEASURED, ODD, make_records
from kvgpu.errors import BlockStateError
from kvgpu.hashing.functions import HASH_WIDTHS
from kvgpu.hashing.map_keys import GROUP_ID_BYTES, BlockHashWithGroupId, get_block_hash, get_group_id
from kvgpu.layout import KEY_WORDS, MAX_GROUP_ID


def _in_no_index(block_id: int) -> None:
    """Do nothing: the default of `BlockKeys.take_out`, for records without an index."""


class BlockKeys:
    """Records of blocks 0 to num_blocks-1 with their keys, and the side stores for keys that no record holds.

    The record after the last block's is that of the placeholders at both ends of the free queue; rows for aliases
    follow, and one that nobody uses.

    Args:
        num_blocks: Blocks.
        num_aliases: Further keys that blocks can have, all of them together, before lookups become slow.

    The index sets `take_out`, which takes a row out of the index before its hash is changed by hand.
    """

    def __init__(self, num_blocks: int, num_aliases: int) -> None:
        self.num_blocks = num_blocks
        self.aliases = AliasRows(num_blocks, num_aliases)
        self.records = make_records(num_blocks + 1 + (num_aliases + 1 if num_aliases else 0))
        self.width: int | None = None
        self.odd_hashes: dict[int, BlockHashWithGroupId] = {}
        self.coarse: dict[int, tuple[bytes, int, int]] = {}
        self.take_out: Callable[[int], None] = _in_no_index

    @property
    def num_rows(self) -> int:
        """Rows that an index may hold are below this number. O(1)."""
        return len(self.records) - 1

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
        """Return block hash and group id of a row as the bytes of its map key, or None if it has no hash."""
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
        """Write the hash of a row that has none; the index is not changed.

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

    def measure(self, block_id: int, num_tokens: int) -> None:
        """Write how many tokens of a prefix the hash of a block covers. O(1)."""
        self.records[block_id]["num_tokens"] = num_tokens
        self.records[block_id]["flags"] |= MEASURED

    def forget_keys(self) -> None:
        """Forget all hashes and their width; the index is not changed. O(num_blocks)."""
        self.records["flags"] = 0
        self.aliases.clear()
        self.odd_hashes.clear()
        self.coarse.clear()
        self.width = None

    def forget_entries(self) -> None:
        """Record that the index, which has been emptied, holds no block; the hashes stay. O(num_blocks)."""
        self.records["flags"] &= ~np.int32(ENTERED)
        self.records["flags"][self.num_blocks :] = 0
        self.aliases.clear()

    def reset_key(self, block_id: int) -> None:
        """Forget the hash of a row, after taking the row out of the index."""
        if self.records[block_id]["flags"] & IN_TABLE:
            self.take_out(block_id)
        self.records[block_id]["flags"] = 0
        self.odd_hashes.pop(block_id, None)
        self.coarse.pop(block_id, None)
