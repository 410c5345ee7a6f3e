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

    def get_num_common_prefix_blocks(self, running_request_id: str) -> int:
        """Return how many leading blocks have as many users as this group has requests (fact 51)."""
        tables = self.req_to_blocks
        if running_request_id not in tables:
            return 0
        pool = self.block_pool
        words, table_id = pool.block_tables.handle.words, tables.table_id_of(running_request_id)
        return count_shared(pool.state.free.uses, words, table_id, len(tables))
