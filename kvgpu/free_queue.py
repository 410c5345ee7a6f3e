"""The queue of free blocks in eviction order: `FreeKVCacheBlockQueue`."""

import operator
from collections.abc import Sequence

import numpy as np

from kvgpu.block_list import BlockList
from kvgpu.blocks import BlockState, KVCacheBlock
from kvgpu.errors import ArgumentError, ArgumentTypeError, FreeQueueError, NotEnoughBlocksError
from kvgpu.free_list import free_ids, link_all, link_many, pop_free, unlink_one


class FreeKVCacheBlockQueue:
    """Free blocks, least recently used first; any block leaves in O(1).

    Args:
        blocks: The members in order, made by hand; they move into records that this queue owns.

    Raises:
        ArgumentError: A block belongs to a pool, which has a queue of its own.

    Construction is O(blocks).
    """

    _owns_records = True

    def __init__(self, blocks: Sequence[KVCacheBlock]) -> None:
        self._state = BlockState(0)
        self._state.queue = self
        self._attach(self._state)
        link_all(self._state.records, 0)
        self._adopt(blocks)
        self.append_n(blocks)

    @classmethod
    def of_state(cls, state: BlockState) -> "FreeKVCacheBlockQueue":
        """A queue of all blocks of a pool, in id order. O(num_blocks)."""
        queue = cls.__new__(cls)
        queue._attach(state)
        queue._owns_records = False
        state.queue = queue
        link_all(state.records, 0)
        return queue

    def _attach(self, state: BlockState) -> None:
        self._state = state
        self._users = state.records["ref_cnt"]
        head, tail = KVCacheBlock.__new__(KVCacheBlock), KVCacheBlock.__new__(KVCacheBlock)
        for end in (head, tail):
            end._state, end._row, end._standalone_id = state, state.num_blocks, -1
        self.ends = (head, tail)

    @property
    def fake_free_list_head(self) -> KVCacheBlock:
        """Stands before the first member."""
        return self.ends[0]

    @property
    def fake_free_list_tail(self) -> KVCacheBlock:
        """Stands behind the last member."""
        return self.ends[1]

    @property
    def num_free_blocks(self) -> int:
        """Number of members. O(1)."""
        count: int = self._users.item(-1)
        return count

    @num_free_blocks.setter
    def num_free_blocks(self, count: int) -> None:
        """Say that there are fewer, as suites written for vLLM do; no block is moved. O(blocks).

        Raises:
            ArgumentError: More than there are, or less than 0.
            ArgumentTypeError: No integer.
        """
        try:
            count = operator.index(count)
        except TypeError:
            raise ArgumentTypeError(
                f"the number of free blocks must be an integer, got {count!r}"
            ) from None
        members = int(np.count_nonzero(self._state.records["next"][:-1] >= 0))
        if not 0 <= count <= members:
            # Compiled code would walk on behind the last one.
            raise ArgumentError(f"{members} blocks are in the queue, so {count} cannot be free")
        self._users[-1] = count

    def popleft(self) -> KVCacheBlock:
        """Take the first member; its reference count becomes 0. O(1).

        Raises:
            NotEnoughBlocksError: The queue is empty.
        """
        return self.popleft_n(1)[0]

    def popleft_n(self, n: int) -> list[KVCacheBlock]:
        """Take the first `n` members, in order; their reference counts become 0. O(n).

        Raises:
            NotEnoughBlocksError: There are fewer; none is taken.
        """
        if n > self.num_free_blocks:
            raise NotEnoughBlocksError(f"{n} blocks asked for, {self.num_free_blocks} are free")
        ids, _ = pop_free(self._state.records, n, 0)
        return list(BlockList(self._state, ids))

    def remove(self, block: KVCacheBlock) -> None:
        """Take a member out, wherever it stands. O(1).

        Raises:
            FreeQueueError: The block is not in this queue.
        """
        if block._state is not self._state or self._state.records[block._row]["next"] < 0:
            raise FreeQueueError(f"block {block.block_id} is not in the free queue")
        unlink_one(self._state.records, block._row)

    def append(self, block: KVCacheBlock) -> None:
        """Put a block behind the last member. O(1), or O(blocks of the queue) as in `append_n`.

        Raises:
            ArgumentError: The block belongs to another pool.
        """
        self.append_n([block])

    def append_n(self, blocks: Sequence[KVCacheBlock]) -> None:
        """Put blocks behind the last member, in order. O(n).

        O(n + blocks of the queue) where some made by hand come for the first time: the records grow.

        Raises:
            ArgumentError: A block belongs to another pool. Nothing is changed.
        """
        self._adopt(blocks)
        link_many(self._state.records, self._state.ids_of(blocks), False)

    def prepend_n(self, blocks: Sequence[KVCacheBlock]) -> None:
        """Put blocks before the first member, in order; complexity and errors as of `append_n`, O(n)."""
        self._adopt(blocks)
        link_many(self._state.records, self._state.ids_of(blocks), True)

    def get_all_free_blocks(self) -> list[KVCacheBlock]:
        """All members, first to be evicted first. O(n)."""
        return list(BlockList(self._state, free_ids(self._state.records)))

    def _adopt(self, blocks: Sequence[KVCacheBlock]) -> None:
        """Move records of blocks made by hand into this queue's own."""
        strangers = [block for block in blocks if block._state is not self._state]
        if not strangers:
            return
        for block in strangers:
            queue = block._state.queue
            if queue is not None and not queue._owns_records:
                raise ArgumentError(
                    f"block {block.block_id} belongs to a pool; its free queue is the pool's own"
                )
        state = self._state
        old, old_sentinel = state.records, state.num_blocks
        grown = BlockState(old_sentinel + len(strangers))
        state.records, state.num_blocks = grown.records, grown.num_blocks
        state.records[:old_sentinel] = old[:old_sentinel]
        state.records[-1] = old[old_sentinel]
        for side in ("prev", "next"):
            column = state.records[side][: old_sentinel + 1]
            column[column == old_sentinel] = state.num_blocks
            if state.records[-1][side] == old_sentinel:
                state.records[-1][side] = state.num_blocks
        for row, block in enumerate(strangers, old_sentinel):
            if block.is_null:
                state.null_id = row
            key, record = block.block_hash, block._state.records[block._row].copy()
            block._standalone_id = block.block_id
            block._state, block._row = state, row
            state.views[row] = block
            state.records[row]["prev"] = state.records[row]["next"] = -1
            state.records[row]["ref_cnt"] = record["ref_cnt"]
            if key is not None:
                state.set_key(row, key)
        for end in self.ends:
            end._row = state.num_blocks
        self._users = state.records["ref_cnt"]
