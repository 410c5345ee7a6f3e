"""`KVCacheBlocks`: the blocks of one request, one sequence per cache group."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, overload

from kvgpu.blocks.block_list import BlockList
from kvgpu.blocks.state import KVCacheBlock
from kvgpu.errors import ArgumentTypeError, GroupCountError
from kvgpu.integers import as_switch, shown
from kvgpu.native import block_ids


def _ids(blocks: Sequence[KVCacheBlock]) -> list[int]:
    # `isinstance` takes three times as long for a subclass of an abstract class.
    if BlockList in type(blocks).__mro__ and not blocks.state.foreign:  # type: ignore[attr-defined]
        ids: list[int] = blocks.ids.tolist()  # type: ignore[attr-defined]
        return ids
    return [block.block_id for block in _blocks(blocks)]


def _blocks(group: Any) -> Sequence[KVCacheBlock]:
    """Return the blocks of a group, after checking that they are blocks.

    Raises:
        ArgumentTypeError: The group is not a sequence of blocks.
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
        """Concatenate the blocks of both, group by group. O(blocks).

        Raises:
            ArgumentTypeError: An item is not a block.
            GroupCountError: The two have different numbers of groups.
        """
        if not isinstance(other, KVCacheBlocks):
            return NotImplemented
        own, theirs = self._groups(), other._groups()
        if len(own) != len(theirs):
            raise GroupCountError(f"blocks of {len(own)} groups cannot be added to blocks of {len(theirs)} groups")
        return KVCacheBlocks(
            tuple(a + b if isinstance(a, BlockList) else [*a, *b] for a, b in zip(own, theirs, strict=True))
        )

    def _groups(self) -> Sequence[Sequence[KVCacheBlock]]:
        """Return the groups, after checking that they are groups of blocks."""
        if not isinstance(self.blocks, tuple | list):
            raise ArgumentTypeError(f"a tuple with the blocks of each group is expected, got {shown(self.blocks)}")
        return [_blocks(group) for group in self.blocks]

    @overload
    def get_block_ids(
        self, allow_none: Literal[False] = False, *, group_ids: Sequence[int] | None = None
    ) -> tuple[list[int], ...]: ...
    @overload
    def get_block_ids(
        self, allow_none: bool, *, group_ids: Sequence[int] | None = None
    ) -> tuple[list[int], ...] | None: ...
    def get_block_ids(
        self, allow_none: bool = False, *, group_ids: Sequence[int] | None = None
    ) -> tuple[list[int], ...] | None:
        """Return the block ids per group, or None if there are no blocks at all and `allow_none` is true. O(blocks).

        With `group_ids` only those groups count, in this order (B44).

        Raises:
            ArgumentTypeError: An item is not a block, or `allow_none` is not a truth value.
            GroupCountError: There is no such group.
        """
        if group_ids is not None:
            if not all(0 <= group < len(self.blocks) for group in group_ids):
                raise GroupCountError(f"groups {list(group_ids)} are asked for, and there are {len(self.blocks)}")
            return KVCacheBlocks(tuple(self.blocks[group] for group in group_ids)).get_block_ids(allow_none)
        if block_ids is None or (ids := block_ids(self.blocks)) is NotImplemented:
            ids = tuple(map(_ids, self.blocks if self.blocks.__class__ is tuple else self._groups()))
        is_wanted = allow_none if allow_none.__class__ is bool else as_switch("allow_none", allow_none)
        return None if is_wanted and not any(ids) else ids

    def get_unhashed_block_ids(self) -> list[int]:
        """Return the ids of the blocks without a hash, if there is a single group. O(blocks).

        Raises:
            ArgumentTypeError: An item is not a block.
            GroupCountError: There is not exactly one group.
        """
        groups = self._groups()
        if len(groups) != 1:
            raise GroupCountError(f"{len(groups)} groups, not 1: use get_unhashed_block_ids_all_groups()")
        return [block.block_id for block in groups[0] if block.block_hash is None]

    def get_unhashed_block_ids_all_groups(self) -> list[list[int]]:
        """Return the ids of the blocks without a hash, per group; the null block is omitted. O(blocks).

        Raises:
            ArgumentTypeError: An item is not a block.
        """
        return [[b.block_id for b in group if b.block_hash is None and not b.is_null] for group in self._groups()]

    def new_empty(self) -> "KVCacheBlocks":
        """Make an object with as many groups and no blocks. O(groups)."""
        return KVCacheBlocks(tuple(() for _ in self.blocks))
