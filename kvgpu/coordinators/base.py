"""What all coordinators have in common: they serve one request in all cache groups."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from kvgpu.block_pool import BlockPool
from kvgpu.blocks.block_list import BlockList
from kvgpu.blocks.record import NO_IDS, Ids
from kvgpu.blocks.state import KVCacheBlock
from kvgpu.compiled.jit import python_of
from kvgpu.config.behaviour import BEHAVIOUR_0_23, Behaviour
from kvgpu.config.block_sizes import has_blocks_of_several_hashes
from kvgpu.config.kv_cache_config import KVCacheConfig
from kvgpu.coordinators.retention import checked_retention, group_record
from kvgpu.environment import retention_interval
from kvgpu.errors import ConfigError
from kvgpu.groups.base import Blocks, SingleTypeKVCacheManager
from kvgpu.groups.cross import CrossAttentionManager
from kvgpu.groups.registry import get_manager_for_kv_cache_spec
from kvgpu.hashing.functions import BlockHash
from kvgpu.integers import as_integer, as_size
from kvgpu.metrics import KVCacheMetricsCollector
from kvgpu.rules import allocation as rules
from kvgpu.rules.allocation import GROUP_RECORD
from kvgpu.rules.retention import RESEND_OR_LONGER

_cacheable_tokens = python_of(rules.cacheable_tokens)

Hits = tuple[tuple[Sequence[KVCacheBlock], ...], int, int]
"""Blocks per group, the length of the hit in tokens, and the longest length in tokens that some groups have cached."""


class KVCacheCoordinator(ABC):
    """Passes each call on to every group, and finds hits that all groups agree on.

    Args:
        kv_cache_config: Number of blocks, and the cache groups.
        max_model_len: Length of the longest sequence, in tokens.
        max_in_flight_tokens: Largest number of tokens in one step, or in behaviour 0.33 in all steps that may be in
            flight; `max_model_len` if None.
        use_eagle: Whether a drafter needs the last block of a hit to be computed again.
        enable_caching: Whether full blocks stay cached for reuse.
        enable_kv_cache_events: Whether events are queued.
        dcp_world_size: Number of ranks of decode context parallelism.
        pcp_world_size: Number of ranks of prefill context parallelism.
        scheduler_block_size: Hits are multiples of this number of tokens.
        hash_block_size: Tokens per block hash.
        metrics_collector: Receives allocations, accesses and evictions.
        behaviour: The version of vLLM to behave like.
        num_hash_lookahead_tokens: Tokens after a block that its hash covers as well.
        num_prefill_lookahead: Tokens after a chunk of a prompt that a drafter reads.
        backend: Index backend; None for the configured one.

    Raises:
        ConfigError: The configuration cannot work.
    """

    num_uncached_common_prefix_tokens = 0
    """By how many tokens some groups have more cached than the last hit, where a behaviour notes it (B50)."""

    def __init__(
        self,
        kv_cache_config: KVCacheConfig,
        max_model_len: int,
        max_in_flight_tokens: int | None,
        use_eagle: bool,
        enable_caching: bool,
        enable_kv_cache_events: bool,
        dcp_world_size: int,
        pcp_world_size: int,
        scheduler_block_size: int,
        hash_block_size: int,
        metrics_collector: KVCacheMetricsCollector | None = None,
        *,
        behaviour: Behaviour = BEHAVIOUR_0_23,
        num_hash_lookahead_tokens: int = 0,
        num_prefill_lookahead: int = 0,
        backend: str | None = None,
    ) -> None:
        groups = kv_cache_config.kv_cache_groups
        self.kv_cache_config = kv_cache_config
        self.enable_caching = enable_caching
        self.max_model_len = as_size("max_model_len", max_model_len)
        self.dcp_world_size = as_size("dcp_world_size", dcp_world_size)
        self.pcp_world_size = as_size("pcp_world_size", pcp_world_size)
        self.scheduler_block_size = as_size("scheduler_block_size", scheduler_block_size)
        self.hash_block_size = as_size("hash_block_size", hash_block_size)
        at_once = self.max_model_len if max_in_flight_tokens is None else max_in_flight_tokens
        at_once = as_size("max_num_batched_tokens or max_in_flight_tokens", at_once)
        self.behaviour = behaviour
        # A drafter that reads several tokens after a chunk computes the last ones of it again (B67).
        self.num_reprefillable_tokens = max(0, as_integer("num_prefill_lookahead", num_prefill_lookahead) - 1)
        has_aliases = (
            enable_caching
            and behaviour.keeps_inside
            and has_blocks_of_several_hashes(groups, self.hash_block_size, self.dcp_world_size)
        )
        self.block_pool = BlockPool(
            as_size("num_gpu_blocks", kv_cache_config.num_blocks),
            enable_caching,
            self.hash_block_size,
            enable_kv_cache_events,
            metrics_collector,
            behaviour=behaviour,
            num_hash_lookahead_tokens=num_hash_lookahead_tokens,
            num_aliases=kv_cache_config.num_blocks if has_aliases else 0,
            backend=backend,
        )
        flagged = {i for i, group in enumerate(groups) if group.is_eagle_group}
        self.eagle_group_ids = flagged or (set(range(len(groups))) if use_eagle else set())
        # Flagged groups drop whatever `use_eagle` says, in behaviour 0.23 (B70).
        drops = use_eagle or not behaviour.drops_on_request
        self.drop_eagle_group_ids = self.eagle_group_ids if drops else set()
        size = self.scheduler_block_size
        if enable_caching and self.eagle_group_ids and size < num_prefill_lookahead:
            raise ConfigError(f"scheduler_block_size {size} is below num_prefill_lookahead {num_prefill_lookahead}")
        self.single_type_managers: tuple[SingleTypeKVCacheManager, ...] = tuple(
            get_manager_for_kv_cache_spec(
                group.kv_cache_spec,
                at_once,
                self.max_model_len,
                block_pool=self.block_pool,
                enable_caching=enable_caching,
                kv_cache_group_id=i,
                scheduler_block_size=self.scheduler_block_size,
                dcp_world_size=self.dcp_world_size,
                pcp_world_size=self.pcp_world_size,
                needs_kv_cache_zeroing=behaviour.zeroes_by_config and kv_cache_config.needs_kv_cache_zeroing,
            )
            for i, group in enumerate(groups)
        )
        for i, manager in enumerate(self.single_type_managers):
            manager.use_eagle = i in self.drop_eagle_group_ids
            if behaviour.keeps_boundaries and self.drop_eagle_group_ids:
                manager.kept_ends = RESEND_OR_LONGER
        self.enable_partial_hash_hits = False
        self.group_block_sizes = tuple(manager.block_size for manager in self.single_type_managers)
        in_config = kv_cache_config.prefix_cache_retention_interval
        interval = in_config if behaviour.configures_retention else retention_interval()
        self.retention_interval = checked_retention(interval, self.single_type_managers, size, behaviour)

    def keep_junctions(self, wanted: bool) -> bool:
        """Keep states at junctions inside blocks too if that is wanted and can be; return whether it is (B85)."""
        return False

    @property
    def full_attention_group_id(self) -> int | None:
        """The first group of full attention beside groups of other kinds; None if there is none, or no other kind."""
        return None

    def find_longest_cache_hit_per_group(
        self, block_hashes: Sequence[BlockHash], max_cache_hit_length: int
    ) -> tuple[tuple[Sequence[KVCacheBlock], ...], tuple[int, ...]]:
        """Find what each kind of group has cached by itself (B77): blocks, and lengths in tokens, per group."""
        blocks, num_tokens, _ = self.find_hits(block_hashes, max_cache_hit_length)
        return blocks, (num_tokens,) * len(self.single_type_managers)

    @property
    def caching_alignment(self) -> int:
        """Only whole multiples of this number of tokens are cached; 0 if all tokens are."""
        return 0

    @cached_property
    def group_records(self) -> npt.NDArray[np.void]:
        """The groups as compiled code reads them, GROUP_RECORD [groups]."""
        records = [
            group_record(manager, self.caching_alignment, self.retention_interval, self.num_reprefillable_tokens)
            for manager in self.single_type_managers
        ]
        return np.array(records, GROUP_RECORD)

    @abstractmethod
    def find_hits(self, block_hashes: Sequence[BlockHash], max_cache_hit_length: int) -> Hits:
        """Find the longest prefix of at most `max_cache_hit_length` tokens that is cached in all groups."""

    def find_longest_cache_hit(
        self, block_hashes: Sequence[BlockHash], max_cache_hit_length: int
    ) -> tuple[tuple[Sequence[KVCacheBlock], ...], int] | tuple[tuple[Sequence[KVCacheBlock], ...], int, int]:
        """Do what `find_hits` does, for an engine: without the third value, or with how many tokens more than the hit
        are cached in some groups, as the behaviour has it."""
        blocks, num_tokens, furthest = self.find_hits(block_hashes, max_cache_hit_length)
        return (blocks, num_tokens, furthest - num_tokens) if self.behaviour.reports_junction else (blocks, num_tokens)

    def get_num_blocks_to_allocate(
        self,
        request_id: str,
        num_tokens: int,
        new_computed_blocks: Sequence[Blocks],
        num_encoder_tokens: int,
        total_computed_tokens: int,
        num_tokens_main_model: int,
        apply_admission_cap: bool = False,
        *,
        num_local_computed_tokens: int = 0,
        prefill_end: int = 0,
    ) -> int:
        """Return how many blocks must be free so that the request gets its slots in all groups."""
        prefill_end = 0 if self.retention_interval != 0 else prefill_end
        needed = 0
        for manager, computed in zip(self.single_type_managers, new_computed_blocks, strict=True):
            if isinstance(manager, CrossAttentionManager):
                needed += manager.get_num_blocks_to_allocate(
                    request_id, num_encoder_tokens, NO_IDS, 0, num_encoder_tokens, apply_admission_cap
                )
            else:
                needed += manager.get_num_blocks_to_allocate(
                    request_id,
                    num_tokens,
                    computed,
                    total_computed_tokens,
                    num_tokens_main_model,
                    apply_admission_cap,
                    num_local_computed_tokens=num_local_computed_tokens,
                    prefill_end=prefill_end,
                )
        return needed

    def allocate_new_computed_blocks(
        self,
        request_id: str,
        new_computed_blocks: Sequence[Blocks],
        num_local_computed_tokens: int,
        num_external_computed_tokens: int,
        unzeroed: Sequence[int] = (),
    ) -> None:
        """Give a request its hits in all groups, then blocks for externally computed tokens.

        An engine need not zero the latter in the groups `unzeroed`, because something else will write them.

        All hits come first: otherwise a new block for the external tokens of one group could be a hit of the next.
        """
        needed = [
            manager.take_computed_blocks(request_id, computed, num_local_computed_tokens, num_external_computed_tokens)
            for manager, computed in zip(self.single_type_managers, new_computed_blocks, strict=True)
        ]
        for manager, num_blocks in zip(self.single_type_managers, needed, strict=True):
            manager.allocate_external_blocks(request_id, num_blocks, manager.kv_cache_group_id not in unzeroed)

    def allocate_new_blocks(
        self, request_id: str, num_tokens: int, num_tokens_main_model: int, num_encoder_tokens: int = 0
    ) -> tuple[BlockList, ...]:
        """Give a request blocks until it has its slots in all groups; return the new blocks."""
        return tuple(
            manager.allocate_new_blocks(request_id, num_encoder_tokens, num_encoder_tokens)
            if isinstance(manager, CrossAttentionManager)
            else manager.allocate_new_blocks(request_id, num_tokens, num_tokens_main_model)
            for manager in self.single_type_managers
        )

    def get_num_cacheable_tokens(self, num_computed_tokens: int, kv_cache_group_id: int) -> int:
        """Return how many of the first `num_computed_tokens` tokens a group may cache. O(1)."""
        manager, behind = self.single_type_managers[kv_cache_group_id], self.num_reprefillable_tokens
        return _cacheable_tokens(
            num_computed_tokens, self.caching_alignment, manager.use_eagle, manager.block_size, behind
        )

    def covered_until(self, request_id: str, num_computed_tokens: int) -> int:
        """Return the number of tokens up to which a call for the request changes nothing in any group."""
        return min(manager.covered_until(request_id, num_computed_tokens) for manager in self.single_type_managers)

    def cache_blocks(self, request: Any, num_computed_tokens: int) -> None:
        """Make the full blocks of the first `num_computed_tokens` tokens reusable."""
        for manager in self.single_type_managers:
            num_tokens = self.get_num_cacheable_tokens(num_computed_tokens, manager.kv_cache_group_id)
            manager.cache_blocks(request, num_tokens, self.retention_interval)

    def pop(self, request_id: str) -> Ids:
        """Forget a request and return its blocks, int32, group by group without the null blocks in front."""
        return np.concatenate([NO_IDS, *(manager.pop(request_id) for manager in self.single_type_managers)])

    def free(self, request_id: str) -> None:
        """Give back all blocks of a request."""
        for manager in self.single_type_managers:
            manager.free(request_id)

    def get_num_common_prefix_blocks(self, running_request_id: str) -> list[int]:
        """Return the number of leading blocks that all requests share, per group."""
        return [manager.get_num_common_prefix_blocks(running_request_id) for manager in self.single_type_managers]

    def remove_skipped_blocks(self, request_id: str, total_computed_tokens: int) -> None:
        """Give back the blocks that no later token attends to."""
        for manager in self.single_type_managers:
            manager.remove_skipped_blocks(request_id, total_computed_tokens)

    def get_blocks(self, request_id: str) -> tuple[Sequence[KVCacheBlock], ...]:
        """Return the blocks of a request per group: live lists, which are empty for an unknown request."""
        return tuple([manager.req_to_blocks.get(request_id, ()) for manager in self.single_type_managers])

    def new_step_starts(self) -> None:
        """Prepare for a new scheduler step."""
        for manager in self.single_type_managers:
            manager.new_step_starts()
