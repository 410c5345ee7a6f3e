"""`HeldBlocks`: which blocks each request holds in one cache group, caches, and gives back."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from kvgpu.block_pool import BlockPool
from kvgpu.block_tables.by_request import BlockTables, CachedCounts
from kvgpu.blocks.record import HAS_HASH, MEASURED, NO_IDS, Ids
from kvgpu.blocks.state import KVCacheBlock
from kvgpu.compiled.jit import python_of
from kvgpu.config.specs import AttentionSpec, FullAttentionSpec, KVCacheSpec, MLAAttentionSpec, TQFullAttentionSpec
from kvgpu.groups.hits import GroupHits
from kvgpu.groups.new_ids import NewBlockIds
from kvgpu.groups.partial_hits import PartialHits
from kvgpu.rules import allocation as rules
from kvgpu.rules.retention import DROP, DROP_BELOW, NO_DROP, RESEND, Mask, Retention, masked, positions_of

Blocks = Sequence[KVCacheBlock] | Ids

_skipped_tokens = python_of(rules.skipped_tokens)
_blocks_missing = python_of(rules.blocks_missing)
_covered_tokens = python_of(rules.covered_tokens)


class HeldBlocks(GroupHits):
    """Blocks of all requests in one cache group: the part of a group's manager that hands out nothing.

    Args:
        kv_cache_spec: Kind and sizes of the group.
        block_pool: Pool that the blocks come from.
        enable_caching: Whether full blocks stay cached for reuse.
        kv_cache_group_id: Id of the group.
        scheduler_block_size: Hits of the whole model are multiples of this number of tokens.
        dcp_world_size: Decode context parallelism: number of ranks that share one block.
        pcp_world_size: Prefill context parallelism: number of ranks that share one block.
        max_admission_blocks_per_request: Largest number of blocks that a request holds at any time, or None.
        needs_kv_cache_zeroing: Whether an engine zeroes new blocks, in behaviour 0.33.
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
        needs_kv_cache_zeroing: bool = False,
    ) -> None:
        self.kv_cache_spec = kv_cache_spec
        self.block_pool = block_pool
        # The name in test suites written for vLLM.
        self._null_block = block_pool.null_block
        self.enable_caching = enable_caching
        self.kv_cache_group_id = kv_cache_group_id
        self.scheduler_block_size = scheduler_block_size
        self.dcp_world_size = dcp_world_size
        # Hits end at multiples of this number of tokens.
        self.cache_hit_alignment_tokens = scheduler_block_size
        self.pcp_world_size = pcp_world_size
        # One block holds block_size tokens on each of the ranks that share a sequence (B13).
        ranks = dcp_world_size * pcp_world_size
        if block_pool.behaviour.shares_by_spec:
            ranks = self.dcp_world_size = dcp_world_size if kv_cache_spec.dcp_sharded else 1
        self.block_size = kv_cache_spec.block_size * ranks
        self.max_admission_blocks_per_request = max_admission_blocks_per_request
        self.use_eagle = False
        # Which ends of a prompt stay cached where not all of it does, see `kvgpu.rules.retention`.
        self.kept_ends = RESEND
        behaviour = block_pool.behaviour
        self.splits_freed_blocks = behaviour.splits_freed_blocks
        # For an engine that zeroes new blocks: exactly these types, without their subclasses (facts 24 and B38).
        self.records_new_blocks = (
            needs_kv_cache_zeroing and isinstance(kv_cache_spec, AttentionSpec)
            if behaviour.zeroes_by_config
            else type(kv_cache_spec) in (FullAttentionSpec, TQFullAttentionSpec, MLAAttentionSpec)
        )
        self.new_ids = NewBlockIds(block_pool.num_gpu_blocks)
        self.partial_hits = PartialHits(block_pool)
        self.extent = 0
        self.req_to_blocks = BlockTables(block_pool.state, block_pool.block_tables)
        block_pool.holders.of_groups.append(self.req_to_blocks)
        self.num_cached_block = CachedCounts(self.req_to_blocks)

    def take_new_block_ids(self) -> list[int]:
        """Return the ids of blocks that were allocated since the last call and may need zeroing."""
        return self.new_ids.take()

    def take_new_states(self) -> list[tuple[str, int, int]]:
        """Return the states that were cached since the last call: request, block id, and tokens before the state."""
        return []

    def take_last_state(self, request_id: str, num_computed: int, num_in_flight: int) -> tuple[int, int] | None:
        """Return block and tokens of a state that an ended request leaves inside a block (B89); None without one."""
        return None

    def covered(self, block_id: int, place: int) -> int:
        """Return how many tokens of a prefix the hash of a request's block covers; 0 without a hash. O(1)."""
        block = self.block_pool.state.view(block_id)  # which may be one of another pool
        record = block._state.records[block._row]
        flags = int(record["flags"])
        if flags & MEASURED:
            return int(record["num_tokens"])
        return (place + 1) * self.block_size if flags & HAS_HASH else 0

    def ends_inside_block(self, new_computed_blocks: Blocks, num_local_computed_tokens: int) -> bool:
        """Whether a hit of so many tokens ends inside the last of its blocks, if there are any (B35)."""
        if not self.block_pool.behaviour.keeps_inside or self.block_size == self.block_pool.hash_block_size:
            return False
        return len(new_computed_blocks) > 0 and num_local_computed_tokens % self.block_size != 0

    def mask_rule(self, retention_interval: int | None) -> Mask | None:
        """Return the rule for which blocks a later hit could need; None if it could need any of them."""
        behaviour, alignment = self.block_pool.behaviour, self.cache_hit_alignment_tokens
        dropped = (DROP_BELOW if behaviour.keeps_below_junctions else DROP) if self.use_eagle else NO_DROP
        kept = Retention(alignment, dropped, retention_interval, self.kept_ends, behaviour.thins_states)
        return self.mask_of_spec(self.kv_cache_spec, kept)

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
        if self.block_pool.behaviour.clamps_to_hashes:
            num_tokens = min(num_tokens, len(request.block_hashes) * self.block_pool.hash_block_size)
        num_full = num_tokens // self.block_size
        if num_cached >= num_full or not self.kv_cache_spec.prefix_cacheable:
            return
        rule = self.mask_rule(retention_interval)
        num_prompt, junction = (
            getattr(request, "num_prompt_tokens", None),
            getattr(request, "shared_prefix_boundary", 0),
        )
        self.block_pool.cache_full_blocks(
            request,
            self.req_to_blocks[request.request_id],
            num_cached,
            num_full,
            self.block_size,
            self.kv_cache_group_id,
            masked(rule, num_cached, num_full, positions_of(rule, num_prompt, junction, self.scheduler_block_size)),
        )
        self.num_cached_block[request.request_id] = num_full

    def pop(self, request_id: str) -> Ids:
        """Forget a request and return the ids of its blocks, which stay in use, without the null blocks in front."""
        self.partial_hits.forget(request_id)
        if request_id not in self.req_to_blocks:
            return NO_IDS
        store, table_id = self.block_pool.block_tables, self.req_to_blocks.leave(request_id)
        ids = store.of(table_id).copy()
        store.close(table_id)
        held = np.flatnonzero(ids != self._null_id)
        return ids[held[0] :] if len(held) else NO_IDS

    def free(self, request_id: str) -> None:
        """Give back all blocks of a request, last block first. Does nothing for an unknown request."""
        self.partial_hits.forget(request_id)
        if request_id in self.req_to_blocks:
            store, table_id = self.block_pool.block_tables, self.req_to_blocks.leave(request_id)
            self._give_back(store.of(table_id))
            store.close(table_id)

    def _give_back(self, ids: Ids) -> None:
        allocator = self.block_pool.allocator
        if self.splits_freed_blocks:
            allocator.give_back_by_hash(ids)
        else:
            allocator.give_back(ids, backwards=True)

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
