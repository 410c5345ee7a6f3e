"""Full attention, and the caches that follow the same hit rule: MLA, quantised and hidden-state caches."""

from typing import Any

from kvgpu.block_tables.store import STORE_WORDS, store_at
from kvgpu.compiled.handle import handle_at
from kvgpu.compiled.jit import jit, leaf
from kvgpu.groups.base import SingleTypeKVCacheManager
from kvgpu.groups.compiled import ids_of_table
from kvgpu.index.host.pool_arrays import POOL_WORDS, pool_at


@leaf
def leading_with(uses: Any, store: Any, table_id: int, users: int) -> int:
    """Count the leading blocks of a block table that have so many users."""
    ids = ids_of_table(store, table_id)
    for i in range(len(ids)):
        if uses[ids[i]].ref_cnt != users:
            return i
    return len(ids)


@jit
def count_shared(uses: Any, handle: Any, table_id: int, users: int) -> int:
    """`leading_with` for Python; `handle` is that of the store."""
    return leading_with(uses, store_at(handle), table_id, users)


@jit
def count_shared_at(pool_address: int, store_address: int, table_id: int, users: int) -> int:
    """`leading_with` for C; at the addresses are the words of the handles of the pool and of the store."""
    pool, store = handle_at(pool_address, POOL_WORDS), handle_at(store_address, STORE_WORDS)
    return leading_with(pool_at(pool).uses, store_at(store), table_id, users)


class FullAttentionManager(SingleTypeKVCacheManager):
    """Manages groups in which a token attends to all tokens before it; the hit is the leading run of cached blocks."""

    supports_context_parallel = True
    ends_inside = True

    def cache_blocks(self, request: Any, num_tokens: int, retention_interval: int | None = None) -> None:
        super().cache_blocks(request, num_tokens, retention_interval)
        if self.block_size != self.block_pool.hash_block_size and self.block_pool.behaviour.keeps_inside:
            self._cache_end_of_prompt(request, num_tokens)

    def _cache_end_of_prompt(self, request: Any, num_tokens: int) -> None:
        """Have the last whole hash block of a prompt found if it lies inside a block (B81, B82).

        The same prompt again hits at most all but one of its tokens, unless a lookup drops what it hit last.
        """
        num_prompt, unit = getattr(request, "num_prompt_tokens", None), self.block_pool.hash_block_size
        blocks = self.req_to_blocks.get(request.request_id)
        if num_prompt is None or blocks is None:
            return
        last = (num_prompt if self.use_eagle else num_prompt - 1) // unit
        end = min(last, len(request.block_hashes)) * unit
        place = end // self.block_size
        # A hash that looks ahead may be missing yet.
        if min(end, num_tokens) < last * unit:
            self.partial_hits.open_ends.add(request.request_id)
        else:
            self.partial_hits.open_ends.discard(request.request_id)
        if 0 < end <= num_tokens and end % self.block_size and place < len(blocks):
            self.block_pool.cache_partial_block(request, blocks[place], end, self.kv_cache_group_id, self.block_size)

    def covered_until(self, request_id: str, num_computed_tokens: int) -> int:
        is_open = request_id in self.partial_hits.open_ends
        return 0 if is_open else super().covered_until(request_id, num_computed_tokens)

    def get_num_common_prefix_blocks(self, running_request_id: str) -> int:
        """Return how many leading blocks have as many users as this group has requests (fact 51)."""
        tables = self.req_to_blocks
        if running_request_id not in tables:
            return 0
        pool = self.block_pool
        words, table_id = pool.block_tables.handle.words, tables.table_id_of(running_request_id)
        return count_shared(pool.state.free.uses, words, table_id, len(tables))
