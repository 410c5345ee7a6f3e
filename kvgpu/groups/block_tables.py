"""Block tables of the requests of one group, and what happens to the blocks that leave them."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from kvgpu._jit import jit
from kvgpu.block_list import BlockList
from kvgpu.blocks import HAS_HASH, BlockState, Ids, KVCacheBlock


@jit
def _split_own(records: Any, ids: Any, null_id: int, until_null: bool) -> Any:
    """Blocks with and without a hash, each from the last to the first, without null blocks.

    With `until_null` it stops at the first null block that it meets.
    """
    hashed = np.empty(len(ids), np.int32)
    unhashed = np.empty(len(ids), np.int32)
    num_hashed = 0
    num_unhashed = 0
    for i in range(len(ids) - 1, -1, -1):
        row = ids[i]
        if row == null_id:
            if until_null:
                break
        elif records[row].flags & HAS_HASH:
            hashed[num_hashed] = row
            num_hashed += 1
        else:
            unhashed[num_unhashed] = row
            num_unhashed += 1
    return hashed[:num_hashed], unhashed[:num_unhashed]


class BlockTables(dict[str, BlockList]):
    """Request id -> its blocks; a missing request gets an empty list, as in a defaultdict."""

    def __init__(self, state: BlockState) -> None:
        self._state = state

    def __missing__(self, request_id: str) -> BlockList:
        blocks = self[request_id] = BlockList(self._state)
        return blocks

    def __setitem__(self, request_id: str, blocks: Sequence[KVCacheBlock]) -> None:
        if not isinstance(blocks, BlockList):
            plain = blocks if isinstance(blocks, list) else list(blocks)
            blocks = BlockList.mirroring(self._state, plain)
        super().__setitem__(request_id, blocks)


def split_by_hash(state: BlockState, ids: Ids, until_null: bool) -> tuple[Ids, Ids]:
    """Blocks with and without a hash, each from the last to the first, without null blocks.

    Args:
        state: Records of the pool.
        ids: int32 [n], a part of a block table.
        until_null: Stop at the first null block that is met, from the back.
    """
    if not state.foreign:
        hashed, unhashed = _split_own(state.records, ids, state.null_id, until_null)
        return hashed, unhashed
    parts: tuple[list[int], list[int]] = ([], [])
    for block_id in ids[::-1].tolist():
        if block_id == state.null_id:
            if until_null:
                break
            continue
        parts[state.view(block_id).block_hash is None].append(block_id)
    return np.array(parts[0], np.int32), np.array(parts[1], np.int32)
