"""`PartialHits`: hits that end inside a block, and the copies of blocks that they make necessary."""

import numpy as np

from kvgpu.block_pool import BlockPool
from kvgpu.block_tables.request_blocks import RequestBlocks
from kvgpu.config.kv_cache_config import KVCacheBlockCopy


class PartialHits:
    """Requests of one cache group that must not write to the last block of their hit, which others read (B83, B84).

    A request goes on in a copy of such a block. The worker makes the copies before its step; until the engine gives
    back both blocks of a copy, they are handed out to it.

    Args:
        block_pool: Pool that the blocks come from.

    Attributes:
        tails: By request, the place of such a block in its table.
        open_ends: Requests the end of whose prompt, inside a block, is still to be cached.
    """

    def __init__(self, block_pool: BlockPool) -> None:
        self.tails: dict[str, int] = {}
        self.open_ends: set[str] = set()
        self._pool = block_pool
        self._copies: list[KVCacheBlockCopy] = []

    def redirect(self, blocks: RequestBlocks, place: int, copy: int) -> None:
        """Put a new block, a copy, in the place of a shared one; the engine takes over the use of the latter. O(1)."""
        source = int(blocks.ids[place])
        blocks.ids[place] = copy
        blocks.changed()
        self._copy(source, copy, copy)

    def preserve(self, source: int, copy: int) -> None:
        """Have what is found in a block, to which its request goes on writing, found in a new copy of it. O(keys)."""
        view = self._pool.state.view
        self._pool.prefix_cache.further.move(view(source), view(copy))
        self._copy(source, copy, source)

    def _copy(self, source: int, copy: int, used_twice: int) -> None:
        self._copies.append(KVCacheBlockCopy(source, copy))
        self._pool.state.view(used_twice).incr_ref()
        self._pool.holders.hand_out(np.array([source, copy], np.int32))

    def forget(self, request_id: str) -> None:
        """Forget a request that has ended; copies that are to be made for it stay. O(1)."""
        self.tails.pop(request_id, None)
        self.open_ends.discard(request_id)

    def take_copies(self) -> list[KVCacheBlockCopy]:
        """Return the copies since the last call. O(1)."""
        copies, self._copies = self._copies, []
        return copies
