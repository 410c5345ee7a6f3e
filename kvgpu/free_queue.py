"""The queue of free blocks in eviction order: a circular doubly linked list inside the records.

The head is evicted first. The extra row at the end of the records is the sentinel; its `ref_cnt`
counts the members.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from kvgpu._jit import AHEAD, jit, leaf, prefetch
from kvgpu.block_list import BlockList
from kvgpu.blocks import IN_TABLE, BlockState, KVCacheBlock
from kvgpu.errors import ArgumentError, FreeQueueError, NotEnoughBlocksError


@leaf
def unlink(records: Any, row: int) -> None:
    """Take a member out of the queue."""
    prev = records[row].prev
    next = records[row].next
    records[prev].next = next
    records[next].prev = prev
    records[row].prev = -1
    records[row].next = -1
    records[len(records) - 1].ref_cnt -= 1


@leaf
def link_after(records: Any, row: int, prev: int) -> None:
    """Put `row` behind `prev`, a member or the sentinel."""
    next = records[prev].next
    records[row].prev = prev
    records[row].next = next
    records[prev].next = row
    records[next].prev = row
    records[len(records) - 1].ref_cnt += 1


@jit
def link_all(records: Any, start: int) -> None:
    """Make the queue hold the blocks from `start` on, in id order."""
    sentinel = len(records) - 1
    for row in range(start):
        records[row].prev = -1
        records[row].next = -1
    for row in range(start, sentinel):
        records[row].prev = row - 1
        records[row].next = row + 1
    if start < sentinel:
        records[start].prev = sentinel
        records[sentinel].next = start
        records[sentinel].prev = sentinel - 1
    else:
        records[sentinel].next = sentinel
        records[sentinel].prev = sentinel
    records[sentinel].ref_cnt = sentinel - start


@leaf
def pop_into(records: Any, ids: Any, ref_cnt: int) -> int:
    """Fill `ids` with blocks from the head and give them `ref_cnt`; returns how many the index still holds.

    The caller has checked that there are enough. The list can only be walked one by one, but blocks that
    were freed together lie side by side, so the record some steps further on is guessed and loaded.
    """
    sentinel = len(records) - 1
    cached = 0
    row = records[sentinel].next
    for i in range(len(ids)):
        record = records[row]
        after = record.next
        guess = after + AHEAD * (after - row)
        if 0 <= guess < sentinel:
            prefetch(records, guess)
        record.prev = -1
        record.next = -1
        record.ref_cnt = ref_cnt
        if record.flags & IN_TABLE:
            cached += 1
        ids[i] = row
        row = after
    records[sentinel].next = row
    records[row].prev = sentinel
    records[sentinel].ref_cnt -= len(ids)
    return cached


@jit
def pop_free(records: Any, count: int, ref_cnt: int) -> Any:
    """Take `count` blocks from the head; returns their ids, and how many of them the index still holds."""
    ids = np.empty(count, np.int32)
    return ids, pop_into(records, ids, ref_cnt)


@leaf
def touch_all(records: Any, ids: Any, null_id: int) -> None:
    """Count one more user of each block; those that were free leave the queue (fact 15).

    A block's neighbours are loaded `AHEAD` rounds before they are needed.
    """
    for i in range(-AHEAD, len(ids)):
        if i + AHEAD < len(ids):
            neighbours = records[ids[i + AHEAD]]
            if neighbours.next >= 0:
                prefetch(records, neighbours.prev)
                prefetch(records, neighbours.next)
        if i < 0:
            continue
        row = ids[i]
        if records[row].ref_cnt == 0 and row != null_id:
            unlink(records, row)
        records[row].ref_cnt += 1


@jit
def touch(records: Any, ids: Any, null_id: int) -> None:
    """`touch_all` for Python."""
    touch_all(records, ids, null_id)


@leaf
def release_all(records: Any, ids: Any, null_id: int, backwards: bool, prepend: bool) -> None:
    """Count one user less of each block; those without any go to the queue in the given order.

    With `prepend` the whole run comes before the present head (fact 16). Records are loaded `AHEAD` rounds
    before they are needed; the end of the queue is written once.
    """
    sentinel = len(records) - 1
    end = records[sentinel].next if prepend else sentinel
    tail = records[end].prev
    count = len(ids)
    num_freed = 0
    for i in range(-AHEAD, count):
        far = i + AHEAD
        if far < count:
            prefetch(records, ids[count - 1 - far] if backwards else ids[far])
        if i < 0:
            continue
        row = ids[count - 1 - i] if backwards else ids[i]
        users = records[row].ref_cnt - 1
        records[row].ref_cnt = users
        if users == 0 and row != null_id:
            records[row].prev = tail
            records[tail].next = row
            tail = row
            num_freed += 1
    records[tail].next = end
    records[end].prev = tail
    records[sentinel].ref_cnt += num_freed


@jit
def release(records: Any, ids: Any, null_id: int, backwards: bool, prepend: bool) -> None:
    """`release_all` for Python."""
    release_all(records, ids, null_id, backwards, prepend)


@leaf
def count_free(records: Any, ids: Any, null_id: int) -> int:
    """How many of the blocks are free and would leave the queue when touched."""
    count = 0
    for i in range(len(ids)):
        if records[ids[i]].ref_cnt == 0 and ids[i] != null_id:
            count += 1
    return count


@jit
def count_unused(records: Any, ids: Any, null_id: int) -> int:
    """`count_free` for Python."""
    return count_free(records, ids, null_id)


@jit
def free_ids(records: Any) -> Any:
    """Ids in the queue, head first."""
    sentinel = len(records) - 1
    ids = np.empty(records[sentinel].ref_cnt, np.int32)
    row = records[sentinel].next
    for i in range(len(ids)):
        ids[i] = row
        row = records[row].next
    return ids


class FreeKVCacheBlockQueue:
    """Free blocks, least recently used first; any block leaves in O(1).

    Args:
        blocks: The members in order, made by hand; they move into records that this queue owns.

    Raises:
        ArgumentError: A block belongs to a pool, which has a queue of its own.
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

    def popleft(self) -> KVCacheBlock:
        """Take the first member.

        Raises:
            NotEnoughBlocksError: The queue is empty.
        """
        return self.popleft_n(1)[0]

    def popleft_n(self, n: int) -> list[KVCacheBlock]:
        """Take the first `n` members; their reference counts become 0. O(n).

        Raises:
            NotEnoughBlocksError: There are fewer; none is taken.
        """
        if n > self.num_free_blocks:
            raise NotEnoughBlocksError(f"{n} blocks asked for, {self.num_free_blocks} are free")
        ids, _ = pop_free(self._state.records, n, 0)
        return list(BlockList(self._state, ids))

    def remove(self, block: KVCacheBlock) -> None:
        """Take a member out.

        Raises:
            FreeQueueError: The block is not in this queue.
        """
        if block._state is not self._state or self._state.records[block._row]["next"] < 0:
            raise FreeQueueError(f"block {block.block_id} is not in the free queue")
        _unlink_one(self._state.records, block._row)

    def append(self, block: KVCacheBlock) -> None:
        """Put a block behind the last member."""
        self.append_n([block])

    def append_n(self, blocks: Sequence[KVCacheBlock]) -> None:
        """Put blocks behind the last member, in order. O(n)."""
        self._adopt(blocks)
        _link_many(self._state.records, self._state.ids_of(blocks), False)

    def prepend_n(self, blocks: Sequence[KVCacheBlock]) -> None:
        """Put blocks before the first member, in order. O(n)."""
        self._adopt(blocks)
        _link_many(self._state.records, self._state.ids_of(blocks), True)

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


@jit
def _unlink_one(records: Any, row: int) -> None:
    unlink(records, row)


@jit
def _link_many(records: Any, ids: Any, prepend: bool) -> None:
    sentinel = len(records) - 1
    old_head = records[sentinel].next
    for i in range(len(ids)):
        link_after(records, ids[i], records[old_head if prepend else sentinel].prev)
