"""`KVCacheBlocks`: the blocks of one request, one sequence per cache group."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, overload

from kvgpu.block_list import BlockList
from kvgpu.blocks import KVCacheBlock
from kvgpu.errors import GroupCountError


def _ids(blocks: Sequence[KVCacheBlock]) -> list[int]:
    if isinstance(blocks, BlockList) and not blocks.state.foreign:
        ids: list[int] = blocks.ids.tolist()
        return ids
    return [block.block_id for block in blocks]


@dataclass
class KVCacheBlocks:
    """What the manager hands to the scheduler.

    Args:
        blocks: ``blocks[group][i]`` is the i-th block of the request in that group.
    """

    blocks: tuple[Sequence[KVCacheBlock], ...]

    def __add__(self, other: "KVCacheBlocks") -> "KVCacheBlocks":
        """Blocks of both, group by group, which must be as many. O(blocks)."""
        return KVCacheBlocks(
            tuple(
                mine + theirs if isinstance(mine, BlockList) else [*mine, *theirs]
                for mine, theirs in zip(self.blocks, other.blocks, strict=True)
            )
        )

    @overload
    def get_block_ids(self, allow_none: Literal[False] = False) -> tuple[list[int], ...]: ...
    @overload
    def get_block_ids(self, allow_none: bool) -> tuple[list[int], ...] | None: ...
    def get_block_ids(self, allow_none: bool = False) -> tuple[list[int], ...] | None:
        """Block ids per group; None if there are none at all and `allow_none`. O(blocks)."""
        if allow_none and not any(len(group) for group in self.blocks):
            return None
        return tuple(_ids(group) for group in self.blocks)

    def get_unhashed_block_ids(self) -> list[int]:
        """Ids of the blocks without a hash; for a single group only. O(blocks).

        Raises:
            GroupCountError: There are several groups.
        """
        if len(self.blocks) != 1:
            raise GroupCountError(
                f"{len(self.blocks)} groups, not 1: use get_unhashed_block_ids_all_groups()"
            )
        return [block.block_id for block in self.blocks[0] if block.block_hash is None]

    def get_unhashed_block_ids_all_groups(self) -> list[list[int]]:
        """Ids of the blocks without a hash per group; the null block is left out. O(blocks)."""
        return [
            [b.block_id for b in group if b.block_hash is None and not b.is_null]
            for group in self.blocks
        ]

    def new_empty(self) -> "KVCacheBlocks":
        """As many groups, no blocks. O(groups)."""
        return KVCacheBlocks(tuple(() for _ in self.blocks))
