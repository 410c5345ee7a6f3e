"""Sequences of blocks that are stored as ids: `BlockList` and `AllBlocks`."""

from collections.abc import Iterator, Sequence
from typing import overload

import numpy as np

from kvgpu.blocks.record import NO_IDS, Ids
from kvgpu.blocks.state import BlockState, KVCacheBlock
from kvgpu.errors import BlockIdError


class BlockList(Sequence[KVCacheBlock]):
    """A sequence of blocks that is stored as int32 ids.

    It equals any sequence of the same blocks. Indexing makes a view of a block.
    """

    __slots__ = ("_ids", "state")
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, state: BlockState, ids: Ids = NO_IDS) -> None:
        self.state = state
        self._ids = ids

    @property
    def ids(self) -> Ids:
        """The ids, int32 [len]: a live view, so that writing to it changes the list."""
        return self._ids

    def __len__(self) -> int:
        return len(self._ids)

    @overload
    def __getitem__(self, index: int) -> KVCacheBlock: ...
    @overload
    def __getitem__(self, index: slice) -> "BlockList": ...
    def __getitem__(self, index: int | slice) -> "KVCacheBlock | BlockList":
        if isinstance(index, slice):
            return BlockList(self.state, self.ids[index].copy())
        return self.state.view(int(self.ids[index]))

    def __iter__(self) -> Iterator[KVCacheBlock]:
        return map(self.state.view, self.ids.tolist())

    def __eq__(self, other: object) -> bool:
        if isinstance(other, BlockList) and other.state is self.state:
            return bool(np.array_equal(self.ids, other.ids))
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(a is b for a, b in zip(self, other, strict=True))

    def __add__(self, other: Sequence[KVCacheBlock]) -> "BlockList":
        return BlockList(self.state, np.concatenate([self.ids, self.state.ids_of(other)]))

    def __repr__(self) -> str:
        return f"BlockList({self.ids.tolist()})"


class AllBlocks(Sequence[KVCacheBlock]):
    """`pool.blocks`: all blocks of a pool by id, each made on demand."""

    __slots__ = ("_state",)

    def __init__(self, state: BlockState) -> None:
        self._state = state

    def __len__(self) -> int:
        return self._state.num_blocks

    @overload
    def __getitem__(self, index: int) -> KVCacheBlock: ...
    @overload
    def __getitem__(self, index: slice) -> list[KVCacheBlock]: ...
    def __getitem__(self, index: int | slice) -> KVCacheBlock | list[KVCacheBlock]:
        if isinstance(index, slice):
            return [self._state.view(i) for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise BlockIdError(f"block id {index} is outside the pool of {len(self)} blocks")
        return self._state.view(index % len(self))
