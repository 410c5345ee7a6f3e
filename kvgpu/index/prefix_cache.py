"""`PrefixCache`: which blocks hold which prefix. It looks up and enters whole ranges of blocks."""

from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from kvgpu.blocks.record import COARSE, HAS_HASH, IN_TABLE, Ids
from kvgpu.blocks.state import BlockState, KVCacheBlock
from kvgpu.compiled.jit import jit
from kvgpu.errors import BlockIdError, BlockStateError, InvariantError
from kvgpu.hashing.block_hashes import BlockHashes, keys_if_of_width
from kvgpu.hashing.block_range import BlockRange, end_hash, joined_hash
from kvgpu.hashing.functions import BlockHash
from kvgpu.hashing.map_keys import BlockHashWithGroupId, make_block_hash_with_group_id
from kvgpu.index.base import BlockIndex, Keys, PrefixHits, decided
from kvgpu.index.block_map import BlockHashToBlockMap
from kvgpu.index.further_keys import FurtherKeys
from kvgpu.layout import MAX_GROUP_ID
from kvgpu.rules.plan import PrefixPlan

BlockMask = npt.NDArray[np.bool_]
NO_MASK: BlockMask = np.empty(0, np.bool_)


@jit
def choose(records: Any, ids: Any, mask: Any, null_id: int) -> Any:
    """Choose the ids to be cached, with -1 for null and masked blocks, and find a block that cannot be cached.

    Returns the ids, and the index of the first block that cannot be cached, or -1. Such a block is outside the pool, is
    already cached, or occurs twice. To find the last case, the function stores in the ring of a block, which has no
    meaning while the block is not in the index, the index where the block occurred first.
    """
    chosen = np.empty(len(ids), np.int32)
    for i in range(len(ids)):
        block_id = ids[i]
        if block_id == null_id or (len(mask) > 0 and not mask[i]):
            chosen[i] = -1
            continue
        if not 0 <= block_id < len(records) - 1 or records[block_id].flags & IN_TABLE:
            return chosen, i
        before = records[block_id].same_prev
        if 0 <= before < i and chosen[before] == block_id:
            return chosen, i
        chosen[i] = block_id
        records[block_id].same_prev = i
    return chosen, -1


class PrefixCache:
    """Cached blocks of one pool, by hash and group.

    Args:
        state: Records of the pool.
        index: Index over these records.
        joins_hashes: Whether the key of a block that spans several hash blocks shows all their hashes, not only the
            last (facts 10 and B5).

    The map serves whatever the records cannot hold (hashes of another width, blocks of other pools), one block
    at a time.
    """

    def __init__(self, state: BlockState, index: BlockIndex, joins_hashes: bool = True) -> None:
        self.state = state
        self.index = index
        self._hash_of_block = joined_hash if joins_hashes else end_hash
        self._joins_hashes = joins_hashes
        self.map = BlockHashToBlockMap(state, index)
        self.further = FurtherKeys(state, self.map)

    def find_all(self, block_hash: BlockHash, groups: Sequence[int]) -> list[KVCacheBlock] | None:
        """Return the first cached block with this hash in each group; None unless every group has one."""
        found = []
        for group in groups:
            block = self.map.get_one_block(make_block_hash_with_group_id(block_hash, group))
            if block is None:
                return None
            found.append(block)
        return found

    def find_hits(self, plan: PrefixPlan, block_hashes: Sequence[BlockHash], max_length: int) -> PrefixHits:
        """Find the longest prefix that is cached in all groups of the plan.

        Args:
            plan: Rules and groups.
            block_hashes: Hashes of the request.
            max_length: Longest hit allowed, in tokens; the number of hashes is also a limit.
        """
        if not self.map.extras:
            width = self.state.width
            if isinstance(block_hashes, BlockHashes):
                if not block_hashes.linked:
                    self.index.settle_for_good()
                if block_hashes.width == width:
                    hits = self.index.match(plan, block_hashes.keys, max_length)
                    return self._owned(hits) if plan.ends_inside else hits
            else:
                self.index.settle_for_good()
            count = min((max_length + plan.reach) // plan.hash_block_size, len(block_hashes))
            found = None
            if block_hashes.__class__ is not list:
                keys = self.keys_of(block_hashes, 0, count)
                found = None if keys is None else self.index.match(plan, keys, max_length)
            elif width is not None:
                found = self.index.match_list(plan, block_hashes, count, width, max_length)
            if found is not None:
                return self._owned(found) if plan.ends_inside else found
        return self._find_irregular(plan, block_hashes, max_length)

    def _owned(self, hits: PrefixHits) -> PrefixHits:
        """Return hits with the blocks whose aliases were found."""
        if not self.further.aliases:
            return hits
        num_tokens, lines, furthest = hits
        return num_tokens, [self.state.aliases.owners[line] for line in lines], furthest

    def _find_irregular(self, plan: PrefixPlan, block_hashes: Sequence[BlockHash], max_length: int) -> PrefixHits:
        ids = np.zeros((len(plan.groups), len(block_hashes)), np.int32)

        def hit(query: int, block: int, place: int) -> bool:
            asked = plan.queries[query]
            ends_inside = place != (block + 1) * asked.stride - 1
            block_hash = (
                BlockHash(block_hashes[place])
                if ends_inside
                else self._hash_of_block(block_hashes, block, asked.stride)
            )
            found = self.find_all(block_hash, asked.groups)
            if found is None:
                return False
            ids[plan.lines[query], block] = self.state.ids_of(found)
            return True

        return decided(plan, hit, ids, len(block_hashes), max_length, self.state.null_id)

    def insert(
        self, ids: Ids, hashes: Sequence[BlockHash], start: int, stride: int, group: int, mask: BlockMask
    ) -> Ids:
        """Enter a range of a request's blocks; a hash by which a block cannot be found is replaced.

        Args:
            ids: int32 [n], the blocks; null blocks are skipped.
            hashes: Hashes of the request.
            start: Index of the first hash of block 0 of `ids`.
            stride: Hashes per block.
            group: Cache group.
            mask: bool [n], which blocks to enter; empty for all.

        Returns:
            int32 [n]: the blocks that were entered, and -1 for the others.

        Raises:
            BlockStateError: A block is already cached, or occurs twice. Nothing is changed.
            BlockIdError: An id is outside the pool. Nothing is changed.
        """
        if self.state.width is None:
            self.state.adopt_width(len(hashes[0]))
        stop = start + len(ids) * stride
        regular = not self.map.extras and group <= MAX_GROUP_ID
        if self.state.foreign:
            regular = regular and not (ids < 0).any()
        keys = self.keys_of(hashes, start, stop) if regular else None
        if keys is None:
            return self._insert_irregular(ids, hashes[start:stop], stride, group, mask)
        chosen: Ids
        chosen, place = choose(self._block_records, ids, mask, self.state.null_id)
        if place >= 0:
            self._refuse(int(ids[place]))
        shows_all = stride > 1 and self._joins_hashes
        self.index.insert(chosen, keys, stride, group, COARSE if shows_all else 0)
        if shows_all:
            self._remember_coarse(chosen, keys, stride)
        return chosen

    def to_promote(self, ids: Ids, mask: BlockMask, new: BlockRange) -> list[int]:
        """Return those blocks of a range that `insert` takes only once their keys, for fewer tokens, are forgotten.

        Raises:
            BlockStateError, BlockIdError: As `insert` does, for another reason. O(blocks), O(1) without such keys.
        """
        if not self.further.is_measured:
            return []
        ends = np.arange(new.first + 1, new.first + 1 + len(ids)) * new.block_size
        if len(mask):
            ids, ends = ids[mask[: len(ids)]], ends[mask[: len(ids)]]
        partial = [i for i, end in zip(ids.tolist(), ends.tolist(), strict=True) if self.further.covers_less(i, end)]
        if partial:
            others = ids[~np.isin(ids, partial)]
            _, place = choose(self._block_records, others, NO_MASK, self.state.null_id)
            if place >= 0:
                self._refuse(int(others[place]))
        return partial

    @property
    def _block_records(self) -> npt.NDArray[np.void]:
        """Records of the blocks, and one more."""
        return self.state.records[: self.state.num_blocks + 1]

    def _insert_irregular(self, ids: Ids, hashes: Sequence[BlockHash], stride: int, group: int, mask: BlockMask) -> Ids:
        todo: dict[KVCacheBlock, BlockHashWithGroupId] = {}
        chosen = np.full(len(ids), -1, np.int32)
        for i, block_id in enumerate(ids.tolist()):
            block = self.state.view(block_id)
            if block.is_null or (len(mask) and not mask[i]):
                continue
            if block in todo or self.map.holds(block):
                self._refuse(block_id)
            todo[block] = make_block_hash_with_group_id(self._hash_of_block(hashes, i, stride), group)
            self.map.refuse_unfit(todo[block], block)
            chosen[i] = max(block_id, 0)
        for block, key in todo.items():
            block.reset_hash()
            block.block_hash = key
            self.map.insert(key, block)
        return chosen

    def _refuse(self, block_id: int) -> NoReturn:
        if block_id >= self.state.num_blocks:
            raise BlockIdError(f"block id {block_id} is outside the pool of {self.state.num_blocks} blocks")
        name = self.state.view(block_id).block_id
        raise BlockStateError(f"block {name} already has a hash by which it can be found, or occurs twice")

    def _remember_coarse(self, chosen: Ids, keys: Keys, stride: int) -> None:
        """Store what `block_hash` shows for blocks that span several hash blocks (fact 10)."""
        width = self.state.width
        assert width is not None
        blob = np.ascontiguousarray(keys.view(np.uint8)[:, :width]).tobytes()
        size = stride * width
        for i, block_id in enumerate(chosen.tolist()):
            if block_id >= 0:
                self.state.coarse[block_id] = (blob, i * size, (i + 1) * size)

    def clear(self) -> None:
        """Forget everything, including the hashes of all blocks. O(number of blocks)."""
        self.map.extras.clear()
        self.further.clear()
        self.index.clear()
        self.state.forget_keys()

    def restore(self) -> bool:
        """Make index and records agree again, after a call that was interrupted. O(number of blocks).

        Hashes that no lookup finds are forgotten: the call may have been about to cache their blocks.

        Returns:
            False if the records could not be repaired, in which case everything is forgotten.
        """
        try:
            self.index.restore()
        except InvariantError:
            self.clear()
            return False
        flags = self.state.records["flags"][:-1]
        kept = {
            block_id
            for entry in self.map.extras.values()
            for block_id in (entry if isinstance(entry, dict) else [entry.block_id])
        }
        for block_id in np.flatnonzero(flags & (HAS_HASH | IN_TABLE) == HAS_HASH).tolist():
            if block_id not in kept:
                self.state.reset_key(block_id)
        self.further.restore()
        return True

    def keys_of(self, hashes: Sequence[bytes], start: int, stop: int) -> Keys | None:
        """Return the key words of hashes [start, stop), or None if the records cannot hold them."""
        width = self.state.width
        if isinstance(hashes, BlockHashes):
            return hashes.keys[start:stop] if hashes.width == width else None
        part = hashes[start:stop]
        return None if width is None else keys_if_of_width(part, width)
