"""The queue of free blocks: `FreeKVCacheBlockQueue`."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from kvgpu.blocks.block_list import BlockList
from kvgpu.blocks.free_order import NUM_FREE, OUTSIDE
from kvgpu.blocks.lru import free_ids, link_all, pop_free, unlink_one
from kvgpu.blocks.lru_release import link_many
from kvgpu.blocks.record import NO_IDS
from kvgpu.blocks.state import BlockState, KVCacheBlock
from kvgpu.errors import ArgumentError, ArgumentTypeError, FreeQueueError, NotEnoughBlocksError
from kvgpu.integers import as_integer, shown


def _refuse_others(blocks: Iterable[Any]) -> list[KVCacheBlock]:
    """List blocks that a caller passed.

    Raises:
        ArgumentTypeError: An item is not a block.
    """
    try:
        listed = list(blocks)
    except TypeError:
        raise ArgumentTypeError(f"blocks are expected, got {shown(blocks)}") from None
    for block in listed:
        if not isinstance(block, KVCacheBlock):
            raise ArgumentTypeError(f"blocks are expected, got {shown(block)} among them")
    return listed


class FreeKVCacheBlockQueue:
    """Free blocks, least recently used first; any block can be removed in O(1).

    Args:
        blocks: The members in order, made by hand; they move into records that this queue owns.

    Raises:
        ArgumentError: A block belongs to a pool, which has its own queue.
        ArgumentTypeError: An item is not a block.
        FreeQueueError: A block is already in a queue, or occurs twice.

    Construction is O(blocks).
    """

    _owns_records = True

    def __init__(self, blocks: Sequence[KVCacheBlock]) -> None:
        self._state = BlockState(0)
        self._state.queue = self
        self._attach(self._state)
        link_all(*self._state.free, NO_IDS)
        self._put(blocks, prepend=False)

    @classmethod
    def of_state(cls, state: BlockState) -> "FreeKVCacheBlockQueue":
        """Make the queue of all blocks of a pool, in id order. O(num_blocks)."""
        queue = cls.__new__(cls)
        queue._attach(state)
        queue._owns_records = False
        state.queue = queue
        link_all(*state.free, np.arange(state.num_blocks, dtype=np.int32))
        return queue

    def _attach(self, state: BlockState) -> None:
        self._state = state
        head, tail = KVCacheBlock.__new__(KVCacheBlock), KVCacheBlock.__new__(KVCacheBlock)
        for end in (head, tail):
            end._state, end._row, end._standalone_id = state, state.num_blocks, -1
        self.ends = (head, tail)

    @property
    def fake_free_list_head(self) -> KVCacheBlock:
        """A placeholder that precedes the first member."""
        return self.ends[0]

    @property
    def fake_free_list_tail(self) -> KVCacheBlock:
        """A placeholder that follows the last member."""
        return self.ends[1]

    @property
    def num_free_blocks(self) -> int:
        """Number of members. O(1)."""
        count: int = self._state.free.queue_words.item(NUM_FREE)
        return count

    @num_free_blocks.setter
    def num_free_blocks(self, count: int) -> None:
        """Pretend that there are fewer, as test suites written for vLLM do; no block is moved. O(blocks).

        Raises:
            ArgumentError: The count is greater than the number of members, or below 0.
            ArgumentTypeError: The count is not an integer.
        """
        members = int(np.count_nonzero(self._state.free.uses["place"][:-1] != OUTSIDE))
        # With a larger count, compiled code would walk beyond the last member.
        self._state.free.queue_words[NUM_FREE] = as_integer("the number of free blocks", count, 0, members)

    def popleft(self) -> KVCacheBlock:
        """Take the first member; its reference count becomes 0. O(1).

        Raises:
            NotEnoughBlocksError: The queue is empty.
        """
        return self.popleft_n(1)[0]

    def popleft_n(self, n: int) -> list[KVCacheBlock]:
        """Take the first `n` members, in order; their reference counts become 0. O(n).

        Raises:
            ArgumentError, ArgumentTypeError: `n` is below 0, or not an integer.
            NotEnoughBlocksError: There are fewer members; none is taken.
        """
        n = as_integer("n", n)
        if n > self.num_free_blocks:
            raise NotEnoughBlocksError(f"{n} blocks were requested, but {self.num_free_blocks} are free")
        return list(BlockList(self._state, pop_free(*self._state.free, n, 0)))

    def remove(self, block: KVCacheBlock) -> None:
        """Remove a member, wherever it is in the queue. O(1).

        Raises:
            ArgumentTypeError: The argument is not a block.
            FreeQueueError: The block is not in this queue.
        """
        _refuse_others([block])
        if block._state is not self._state or self._state.free.uses[block._row]["place"] == OUTSIDE:
            raise FreeQueueError(f"block {block.block_id} is not in the free queue")
        unlink_one(*self._state.free, block._row)

    def append(self, block: KVCacheBlock) -> None:
        """Put a block after the last member; raises what `append_n` raises.

        O(1), or O(blocks of the queue) in the case that `append_n` describes.
        """
        self._put([block], prepend=False)

    def append_n(self, blocks: Sequence[KVCacheBlock]) -> None:
        """Put blocks after the last member, in order. O(n).

        O(n + blocks of the queue) if some blocks made by hand enter this queue for the first time: the records grow.

        Raises:
            ArgumentError: A block belongs to another pool, or is in use in the pool that this queue belongs to.
            ArgumentTypeError: An item is not a block.
            FreeQueueError: A block is already in a queue, or occurs twice. None of these errors changes anything.
        """
        self._put(blocks, prepend=False)

    def prepend_n(self, blocks: Sequence[KVCacheBlock]) -> None:
        """Put blocks before the first member, in order; raises what `append_n` raises. O(blocks)."""
        self._put(blocks, prepend=True)

    def get_all_free_blocks(self) -> list[KVCacheBlock]:
        """Return all members in the order of the queue, in which `lru` evicts them. O(n)."""
        _, order, words = self._state.free
        return list(BlockList(self._state, free_ids(order, words, words.item(NUM_FREE))))

    def _put(self, blocks: Iterable[KVCacheBlock], prepend: bool) -> None:
        """Link blocks in; all of them are checked before anything is changed."""
        listed = _refuse_others(blocks)
        seen = set()
        for block in listed:
            state = block._state
            if state is not self._state and state.queue is not None and not state.queue._owns_records:
                raise ArgumentError(f"block {block.block_id} belongs to a pool, which has its own free queue")
            if (state, block._row) in seen or state.free.uses[block._row]["place"] != OUTSIDE:
                raise FreeQueueError(f"block {block.block_id} is already in a free queue, or occurs twice")
            if not self._owns_records and (block.ref_cnt > 0 or block.is_null):
                raise ArgumentError(f"block {block.block_id} is in use: give it back with free_blocks()")
            seen.add((state, block._row))
        self._adopt([block for block in listed if block._state is not self._state])
        link_many(*self._state.free, self._state.ids_of(listed), prepend)

    def _adopt(self, strangers: Sequence[KVCacheBlock]) -> None:
        """Move the records of blocks made by hand into the records of this queue."""
        if not strangers:
            return
        state = self._state
        old, old_uses, old_count = state.records, state.free.uses, state.num_blocks
        _, order, words = state.free
        # It may pretend to have fewer.
        members, count = free_ids(order, words, len(order)), words.item(NUM_FREE)
        grown = BlockState(old_count + len(strangers))
        state.records, state.free, state.num_blocks = grown.records, grown.free, grown.num_blocks
        state.records[:old_count] = old[:old_count]
        state.free.uses[:old_count] = old_uses[:old_count]
        link_all(*state.free, members)
        state.free.queue_words[NUM_FREE] = count
        for block_id, block in enumerate(strangers, old_count):
            if block.is_null:
                state.null_id = block_id
            key, users = block.block_hash, block.ref_cnt
            block._standalone_id = block.block_id
            block._state, block._row = state, block_id
            state.views[block_id] = block
            state.free.uses[block_id]["ref_cnt"] = users
            if key is not None:
                state.set_key(block_id, key)
        for end in self.ends:
            end._row = state.num_blocks
