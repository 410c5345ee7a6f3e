"""`KVCacheBlocks`: the blocks of one request, one sequence per cache group."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, overload

from kvgpu.blocks.block_list import BlockList
from kvgpu.blocks.state import KVCacheBlock
from kvgpu.errors import ArgumentTypeError, GroupCountError
from kvgpu.integers import as_switch, shown


def _ids(blocks: Sequence[KVCacheBlock]) -> list[int]:
    if isinstance(blocks, BlockList) and not blocks.state.foreign:
        ids: list[int] = blocks.ids.tolist()
        return ids
    return [block.block_id for block in _blocks(blocks)]


def _blocks(group: Any) -> Sequence[KVCacheBlock]:
    """
    Raises:
        ArgumentTypeError: A group is something else than a sequence of blocks.
    """
    if not isinstance(group, BlockList) and not (
        isinstance(group, Sequence) and all(isinstance(block, KVCacheBlock) for block in group)
    ):
        raise ArgumentTypeError(f"a sequence of blocks is expected in each group, got {shown(group)}")
    return group


@dataclass
class KVCacheBlocks:
    """What the manager hands to the scheduler.

    Args:
        blocks: ``blocks[group][i]`` is the i-th block of the request in that group.
    """

    blocks: tuple[Sequence[KVCacheBlock], ...]

    def __add__(self, other: "KVCacheBlocks") -> "KVCacheBlocks":
        """Blocks of both, group by group. O(blocks).

        Raises:
            ArgumentTypeError: Something else than blocks is among them.
            GroupCountError: They are of another number of groups.
        """
        if not isinstance(other, KVCacheBlocks):
            return NotImplemented
        own, theirs = self._groups(), other._groups()
        if len(own) != len(theirs):
            raise GroupCountError(f"blocks of {len(own)} groups and of {len(theirs)}: make them equal")
        return KVCacheBlocks(
            tuple(a + b if isinstance(a, BlockList) else [*a, *b] for a, b in zip(own, theirs, strict=True))
        )

    def _groups(self) -> Sequence[Sequence[KVCacheBlock]]:
        """The groups, seen to be some, of blocks."""
        if not isinstance(self.blocks, tuple | list):
            raise ArgumentTypeError(f"a tuple with the blocks of each group is expected, got {shown(self.blocks)}")
        return [_blocks(group) for group in self.blocks]

    @overload
    def get_block_ids(self, allow_none: Literal[False] = False) -> tuple[list[int], ...]: ...
    @overload
    def get_block_ids(self, allow_none: bool) -> tuple[list[int], ...] | None: ...
    def get_block_ids(self, allow_none: bool = False) -> tuple[list[int], ...] | None:
        """Block ids per group; None if there are none at all and `allow_none`. O(blocks).

        Raises:
            ArgumentTypeError: Something else than blocks is among them, or `allow_none` is no truth value.
        """
        groups = self._groups()
        if as_switch("allow_none", allow_none) and not any(len(group) for group in groups):
            return None
        return tuple(_ids(group) for group in groups)

    def get_unhashed_block_ids(self) -> list[int]:
        """Ids of the blocks without a hash; for a single group only. O(blocks).

        Raises:
            ArgumentTypeError: Something else than blocks is among them.
            GroupCountError: There are several groups.
        """
        groups = self._groups()
        if len(groups) != 1:
            raise GroupCountError(f"{len(groups)} groups, not 1: use get_unhashed_block_ids_all_groups()")
        return [block.block_id for block in groups[0] if block.block_hash is None]

    def get_unhashed_block_ids_all_groups(self) -> list[list[int]]:
        """Ids of the blocks without a hash per group; the null block is left out. O(blocks).

        Raises:
            ArgumentTypeError: Something else than blocks is among them.
        """
        return [[b.block_id for b in group if b.block_hash is None and not b.is_null] for group in self._groups()]

    def new_empty(self) -> "KVCacheBlocks":
        """As many groups, no blocks. O(groups)."""
        return KVCacheBlocks(tuple(() for _ in self.blocks))
