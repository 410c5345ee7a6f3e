"""What all cache groups have in common: which blocks each request holds, needs, caches and frees."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from kvgpu.block_pool import BlockPool
from kvgpu.block_tables.by_request import BlockTables, CachedCounts
from kvgpu.block_tables.request_blocks import RequestBlocks
from kvgpu.blocks.block_list import BlockList
from kvgpu.blocks.lru import count_unused
from kvgpu.blocks.record import Ids
from kvgpu.blocks.state import KVCacheBlock
from kvgpu.compiled.jit import python_of
from kvgpu.config.specs import FullAttentionSpec, KVCacheSpec, MLAAttentionSpec, TQFullAttentionSpec, cdiv
from kvgpu.errors import ArgumentError, RunningRequestError
from kvgpu.groups.hits import GroupHits
from kvgpu.groups.new_ids import NewBlockIds
from kvgpu.rules import allocation as rules
from kvgpu.rules.retention import Mask

Blocks = Sequence[KVCacheBlock] | Ids

_skipped_tokens = python_of(rules.skipped_tokens)
_blocks_missing = python_of(rules.blocks_missing)
_covered_tokens = python_of(rules.covered_tokens)


class SingleTypeKVCacheManager(GroupHits):
    """Manages the blocks of all requests in one cache group.

    Args:
        kv_cache_spec: Kind and sizes of the group.
        block_pool: Pool that the blocks come from.
        enable_caching: Whether full blocks stay cached for reuse.
        kv_cache_group_id: Id of the group.
        scheduler_block_size: Hits of the whole model are multiples of this number of tokens.
        dcp_world_size: Decode context parallelism: number of ranks that share one block.
        pcp_world_size: Prefill context parallelism: number of ranks that share one block.
        max_admission_blocks_per_request: Largest number of blocks that a request holds at any time, or None.
    """

    def __init__(
        self,
        kv_cache_spec: KVCacheSpec,
        block_pool: BlockPool,
        enable_caching: bool,
        kv_cache_group_id: int,
        scheduler_block_size: int,
        dcp_world_size: int = 1,
        pcp_world_size: int = 1,
        max_admission_blocks_per_request: int | None = None,
    ) -> None:
        self.kv_cache_spec = kv_cache_spec
        self.block_pool = block_pool
        self.enable_caching = enable_caching
        self.kv_cache_group_id = kv_cache_group_id
        self.scheduler_block_size = scheduler_block_size
        self.dcp_world_size = dcp_world_size
        self.pcp_world_size = pcp_world_size
        # One block holds block_size tokens on each of the ranks that share a sequence.
        self.block_size = kv_cache_spec.block_size * dcp_world_size * pcp_world_size
        self.max_admission_blocks_per_request = max_admission_blocks_per_request
        self.use_eagle = False
        # For an engine that zeroes new blocks: exactly these types, without their subclasses (fact 24).
        self.records_new_blocks = type(kv_cache_spec) in (FullAttentionSpec, TQFullAttentionSpec, MLAAttentionSpec)
        self.new_ids = NewBlockIds(block_pool.num_gpu_blocks)
        self.extent = 0
        self.req_to_blocks = BlockTables(block_pool.state, block_pool.block_tables)
        block_pool.holders.of_groups.append(self.req_to_blocks)
        self.num_cached_block = CachedCounts(self.req_to_blocks)

    def get_num_blocks_to_allocate(
        self,
        request_id: str,
        num_tokens: int,
        new_computed_blocks: Blocks,
        total_computed_tokens: int,
        num_tokens_main_model: int,
        apply_admission_cap: bool = False,
    ) -> int:
        """Return how many blocks must be free in the pool so that the request gets its slots (fact 22).

        Args:
            request_id: The request.
            num_tokens: Tokens that need slots, including lookahead.
            new_computed_blocks: Hits of a request that is not running yet. Unused ones count,
                because they would leave the free queue.
            total_computed_tokens: Tokens computed here or elsewhere.
            num_tokens_main_model: `num_tokens` without lookahead.
            apply_admission_cap: Count at most `max_admission_blocks_per_request` blocks.

        Raises:
            RunningRequestError: Hits were passed for a running request.
        """
        required = cdiv(num_tokens, self.block_size)
        if apply_admission_cap and self.max_admission_blocks_per_request is not None:
            required = min(required, self.max_admission_blocks_per_request)
        held = self._num_held(request_id)
        running = request_id in self.num_cached_block
        if running:
            self._refuse_computed(request_id, new_computed_blocks)
        skipped = self.get_num_skipped_tokens(total_computed_tokens) // self.block_size
        num_computed = len(new_computed_blocks)
        new = _blocks_missing(required, held, running, skipped, num_computed)
        if num_computed == 0:
            return new
        return new + self._get_num_evictable_blocks(new_computed_blocks, max(0, skipped - held))

    def allocate_new_computed_blocks(
        self,
        request_id: str,
        new_computed_blocks: Blocks,
        num_local_computed_tokens: int,
        num_external_computed_tokens: int,
    ) -> None:
        """Give a request its hits, and blocks for tokens that were computed elsewhere (fact 23).

        Does nothing for a running request.
        """
        num_blocks = self.take_computed_blocks(
            request_id, new_computed_blocks, num_local_computed_tokens, num_external_computed_tokens
        )
        self.allocate_external_blocks(request_id, num_blocks)

    def take_computed_blocks(
        self,
        request_id: str,
        new_computed_blocks: Blocks,
        num_local_computed_tokens: int,
        num_external_computed_tokens: int,
    ) -> int:
        """Give a request its hits; return how many blocks it needs for the hits and for tokens computed elsewhere.

        Returns 0 if the request is running or if no token was computed elsewhere.
        """
        if request_id in self.num_cached_block:
            self._refuse_computed(request_id, new_computed_blocks)
            return 0
        ids = self._ids(new_computed_blocks)
        if not self.enable_caching and len(ids):
            raise ArgumentError(f"request {request_id}: computed blocks without prefix caching")
        blocks = self.req_to_blocks[request_id]
        total = num_local_computed_tokens + num_external_computed_tokens
        skipped_tokens = self.get_num_skipped_tokens(total)
        skipped = skipped_tokens // self.block_size
        if skipped > 0:
            ids = ids[skipped:]
            num_external_computed_tokens = min(total - skipped_tokens, num_external_computed_tokens)
            blocks.extend_ids(self._nulls(skipped))
        self.block_pool.allocator.take_hits(ids)
        blocks.extend_ids(ids)
        self.num_cached_block[request_id] = len(blocks)
        return cdiv(total, self.block_size) if num_external_computed_tokens > 0 else 0

    def allocate_external_blocks(self, request_id: str, num_blocks: int) -> None:
        """Give a request new blocks until it has `num_blocks`; 0 means that it needs none."""
        if num_blocks:
            blocks = self.req_to_blocks[request_id]
            self._extend(blocks, num_blocks - len(blocks))

    def allocate_new_blocks(self, request_id: str, num_tokens: int, num_tokens_main_model: int) -> BlockList:
        """Give a request blocks until it has slots for `num_tokens` tokens; return the new blocks."""
        blocks = self.req_to_blocks[request_id]
        missing = cdiv(num_tokens, self.block_size) - len(blocks)
        return BlockList(self.block_pool.state, self._extend(blocks, missing))

    def take_new_block_ids(self) -> list[int]:
        """Return the ids of blocks that were allocated since the last call and may need zeroing."""
        return self.new_ids.take()

    def mask_rule(self, retention_interval: int | None) -> Mask | None:
        """Return the rule for which blocks a later hit could need; None if it could need any of them."""
        return None

    def covered_until(self, request_id: str, num_computed_tokens: int) -> int:
        """Return the number of tokens up to which a call for the request changes nothing in this group.

        Returns 0 if this kind of attention does something at every call.
        """
        return _covered_tokens(
            self.rule_kind,
            self.extent,
            self.block_size,
            self._num_held(request_id),
            self.num_cached_block.get(request_id, 0),
            self.enable_caching,
            num_computed_tokens,
        )

    def cache_blocks(self, request: Any, num_tokens: int, retention_interval: int | None = None) -> None:
        """Make the full blocks of the first `num_tokens` tokens reusable (fact 25).

        Does nothing for an unknown request.
        """
        if request.request_id not in self.req_to_blocks:
            return
        num_cached = self.num_cached_block.get(request.request_id, 0)
        num_full = num_tokens // self.block_size
        if num_cached >= num_full:
            return
        self.block_pool.cache_full_blocks(
            request,
            self.req_to_blocks[request.request_id],
            num_cached,
            num_full,
            self.block_size,
            self.kv_cache_group_id,
            self.reachable_block_mask(
                num_cached,
                num_full,
                self.scheduler_block_size,
                self.kv_cache_spec,
                self.use_eagle,
                retention_interval,
                getattr(request, "num_prompt_tokens", None),
            ),
        )
        self.num_cached_block[request.request_id] = num_full

    def free(self, request_id: str) -> None:
        """Give back all blocks of a request, last block first. Does nothing for an unknown request."""
        if request_id in self.req_to_blocks:
            store, table_id = self.block_pool.block_tables, self.req_to_blocks.leave(request_id)
            self._give_back(store.of(table_id))
            store.close(table_id)

    def _give_back(self, ids: Ids) -> None:
        self.block_pool.allocator.give_back(ids, backwards=True)

    def remove_skipped_blocks(self, request_id: str, total_computed_tokens: int) -> None:
        """Give back blocks that no later token attends to, and put null blocks in their places.

        Cached blocks go to the end of the free queue, the others to its front (fact 27).
        """
        skipped_tokens = self.get_num_skipped_tokens(total_computed_tokens)
        blocks = self.req_to_blocks.get(request_id)
        if skipped_tokens <= 0 or blocks is None:
            return
        end = min(skipped_tokens // self.block_size, len(blocks))
        if end == 0 or blocks.ids[end - 1] == self._null_id:
            return
        nulls = np.flatnonzero(blocks.ids[:end] == self._null_id)
        first = int(nulls[-1]) + 1 if len(nulls) else 0
        dropped = blocks.ids[first:end].copy()
        blocks.ids[first:end] = self._null_id
        blocks.changed()
        self.block_pool.allocator.give_back_by_hash(dropped)

    def get_num_skipped_tokens(self, num_computed_tokens: int) -> int:
        """Return the number of leading tokens that the next token does not attend to."""
        return _skipped_tokens(self.rule_kind, self.extent, num_computed_tokens)

    def get_num_common_prefix_blocks(self, running_request_id: str) -> int:
        """Return the number of leading blocks that all requests of the group share; 0 if that number is of no use."""
        return 0

    def new_step_starts(self) -> None:
        """Prepare for a new scheduler step."""

    @property
    def _null_id(self) -> int:
        return self.block_pool.state.null_id

    def _nulls(self, count: int) -> Ids:
        return np.full(count, self._null_id, np.int32)

    def _ids(self, blocks: Blocks) -> Ids:
        return self.block_pool.state.ids_of(blocks)

    def _num_held(self, request_id: str) -> int:
        return len(self.req_to_blocks.get(request_id, ()))

    def _refuse_computed(self, request_id: str, new_computed_blocks: Blocks) -> None:
        if len(new_computed_blocks):
            raise RunningRequestError(
                f"request {request_id} is running: it cannot take {len(new_computed_blocks)} "
                "computed blocks; free it first"
            )

    def _get_num_evictable_blocks(self, blocks: Blocks, start: int = 0) -> int:
        """Count the unused blocks from index `start` on."""
        ids = self._ids(blocks)[start:]
        if self.block_pool.state.foreign:
            return sum(block.ref_cnt == 0 and not block.is_null for block in BlockList(self.block_pool.state, ids))
        return int(count_unused(self.block_pool.state.free.uses, ids, self._null_id))

    def _extend(self, blocks: RequestBlocks, count: int) -> Ids:
        """Append `count` new blocks from the pool; return their ids."""
        ids = self.block_pool.allocator.take(count)
        if len(ids):
            blocks.extend_ids(ids)
            if self.records_new_blocks:
                self.new_ids.note(ids)
        return ids
