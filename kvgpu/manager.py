"""`KVCacheManager`: what a scheduler talks to."""

import logging
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from kvgpu.allocation.array_allocator import SlotsCall
from kvgpu.allocation.call_checks import hashes_of
from kvgpu.allocation.slots import SlotAllocator
from kvgpu.arguments import checked_name, name_of, refuse_odd_hashes, sequence_of_hashes
from kvgpu.block_tables.request_blocks import RequestBlocks
from kvgpu.blocks.kv_cache_blocks import KVCacheBlocks
from kvgpu.blocks.state import KVCacheBlock
from kvgpu.coordinators.registry import get_kv_cache_coordinator
from kvgpu.errors import ArgumentTypeError
from kvgpu.exclusive import Exclusive, exclusive
from kvgpu.hashing.block_hashes import BlockHashes
from kvgpu.integers import as_integer, as_option, as_size
from kvgpu.metrics import KVCacheMetricsCollector, PrefixCacheStats
from kvgpu.request import Request
from kvgpu.specs import KVCacheConfig

__all__ = ["KVCacheBlocks", "KVCacheManager", "Request"]

if TYPE_CHECKING:
    from kvgpu.events.messages import KVCacheEvent

logger = logging.getLogger(__name__)


class KVCacheManager(Exclusive):
    """Looks up, allocates, caches and frees the KV-cache blocks of requests.

    Args:
        kv_cache_config: Number of blocks, and the cache groups.
        max_model_len: Longest sequence, in tokens.
        scheduler_block_size: Hits are multiples of so many tokens: the least common multiple of
            the groups' block sizes (see `resolve_kv_cache_block_sizes`).
        hash_block_size: Tokens per block hash; divides every block size.
        max_num_batched_tokens: Most tokens of one scheduler step; `max_model_len` if None.
        enable_caching: Whether full blocks are kept for reuse.
        use_eagle: Whether a drafter needs the last block of a hit computed again.
        log_stats: Whether lookups are counted.
        enable_kv_cache_events: Whether events are queued for `take_events`.
        dcp_world_size: Ranks of decode context parallelism.
        pcp_world_size: Ranks of prefill context parallelism.
        metrics_collector: Told of allocations, accesses and evictions of blocks.
        backend: Index backend: `host`, `reference`, `triton`, `cuda` or `auto`; None for
            `KVGPU_BACKEND`, else `host`.
        counts_admissions: Count a request in the statistics when it is given its first blocks, not at each lookup:
            a request that waits is looked up again and again.

    Raises:
        ConfigError: The configuration cannot work; the message says why.
        DeviceError, MissingPackageError: The backend `triton` or `cuda` cannot be used.

    Construction is O(blocks of the pool); `auto` measures lookups where there is a GPU, and waits for it.
    One manager belongs to one thread at a time, and one stream: docs/semantics.md says what may run beside
    what. A second thread gets a `ConcurrentUseError`.
    """

    def __init__(
        self,
        kv_cache_config: KVCacheConfig,
        max_model_len: int,
        scheduler_block_size: int,
        hash_block_size: int,
        max_num_batched_tokens: int | None = None,
        enable_caching: bool = True,
        use_eagle: bool = False,
        log_stats: bool = False,
        enable_kv_cache_events: bool = False,
        dcp_world_size: int = 1,
        pcp_world_size: int = 1,
        metrics_collector: KVCacheMetricsCollector | None = None,
        *,
        backend: str | None = None,
        counts_admissions: bool = False,
    ) -> None:
        max_model_len = as_size("max_model_len", max_model_len)
        scheduler_block_size = as_size("scheduler_block_size", scheduler_block_size)
        hash_block_size = as_size("hash_block_size", hash_block_size)
        if max_num_batched_tokens is not None:
            max_num_batched_tokens = as_size("max_num_batched_tokens", max_num_batched_tokens)
        self.max_model_len = max_model_len
        self.enable_caching = enable_caching = as_option("enable_caching", enable_caching)
        self.use_eagle = use_eagle = as_option("use_eagle", use_eagle)
        self.log_stats = log_stats = as_option("log_stats", log_stats)
        self.counts_admissions = as_option("counts_admissions", counts_admissions)
        self.metrics_collector = metrics_collector
        self.prefix_cache_stats = PrefixCacheStats() if log_stats else None
        self.kv_cache_config = kv_cache_config
        self.coordinator = get_kv_cache_coordinator(
            kv_cache_config,
            enable_caching=enable_caching,
            max_model_len=max_model_len,
            max_num_batched_tokens=(max_model_len if max_num_batched_tokens is None else max_num_batched_tokens),
            use_eagle=use_eagle,
            enable_kv_cache_events=enable_kv_cache_events,
            dcp_world_size=as_size("dcp_world_size", dcp_world_size),
            pcp_world_size=as_size("pcp_world_size", pcp_world_size),
            scheduler_block_size=scheduler_block_size,
            hash_block_size=hash_block_size,
            metrics_collector=metrics_collector,
            backend=backend,
        )
        super().__init__(self.coordinator.block_pool.turn)
        self.num_kv_cache_groups = len(kv_cache_config.kv_cache_groups)
        self.block_pool = self.coordinator.block_pool
        self.slots = SlotAllocator(
            self.coordinator, max_model_len, self._count_admission if self.counts_admissions else None
        )
        self.empty_kv_cache_blocks = self.slots.empty
        # For a guard that saves the groups from being asked.
        self.first_tables = self.slots.first_tables

    def _count_admission(self, num_tokens: int, num_hit_tokens: int, preempted: bool) -> None:
        """Count a request that was given its first blocks in the statistics."""
        if self.prefix_cache_stats is not None:
            self.prefix_cache_stats.record(num_tokens, num_hit_tokens, preempted)

    @property
    def usage(self) -> float:
        """Fraction of the pool's blocks in use, 0.0 to 1.0. O(1)."""
        return self.block_pool.get_usage()

    @exclusive
    def make_prefix_cache_stats(self) -> PrefixCacheStats | None:
        """Counts since the last call; None without `log_stats`. O(1)."""
        if not self.log_stats:
            return None
        stats, self.prefix_cache_stats = self.prefix_cache_stats, PrefixCacheStats()
        return stats

    @exclusive
    def get_computed_blocks(self, request: Any) -> tuple[KVCacheBlocks, int]:
        """Longest cached prefix of a request, without taking its blocks (fact 52).

        At least one token is left to compute, because the next one is drawn from its output.

        Args:
            request: Has `block_hashes`, `num_tokens` and `skip_reading_prefix_cache`, and `num_preemptions`
                where lookups are counted.

        Returns:
            The blocks per group, and the number of tokens in them.

        Raises:
            ArgumentError, ArgumentTypeError: The request lacks an attribute, or has one of another kind.
            DeviceError: The index lies on a device that failed, or this process was forked from the one that
                made it (not with `auto`, which goes on with the host).

        Expected O(blocks hit) for full attention, O(blocks) for a window without a hit, and that for each pass
        of a hybrid (fact 46). A list of hashes is converted first, O(hashes). A device looks up all hashes in
        all groups, and the call waits for it.
        """
        try:
            if not self.enable_caching or request.skip_reading_prefix_cache:
                return self.empty_kv_cache_blocks, 0
            hashes, num_tokens = request.block_hashes, request.num_tokens
            preempted = self.prefix_cache_stats is not None and bool(request.num_preemptions > 0)
        except (AttributeError, TypeError, ValueError) as error:
            raise ArgumentTypeError(f"a request that can be looked up is expected: {error}") from None
        num_tokens = as_integer("num_tokens", num_tokens)
        if hashes.__class__ is not BlockHashes:
            sequence_of_hashes(name_of(request), hashes)
        try:
            blocks, num_hits = self.coordinator.find_longest_cache_hit(hashes, num_tokens - 1 if num_tokens else 0)
        except TypeError:
            refuse_odd_hashes(request.request_id, hashes)
            raise
        if self.prefix_cache_stats is not None and not self.counts_admissions:
            self.prefix_cache_stats.record(num_tokens, num_hits, preempted)
        return (KVCacheBlocks(blocks) if num_hits else self.create_kv_cache_blocks(blocks)), num_hits

    def allocate_slots(
        self,
        request: Any,
        num_new_tokens: int,
        num_new_computed_tokens: int = 0,
        new_computed_blocks: KVCacheBlocks | None = None,
        num_lookahead_tokens: int = 0,
        num_external_computed_tokens: int = 0,
        delay_cache_blocks: bool = False,
        num_encoder_tokens: int = 0,
        full_sequence_must_fit: bool = False,
        reserved_blocks: int = 0,
    ) -> KVCacheBlocks | None:
        """Give a request slots for its next tokens, and cache what becomes full (fact 53).

        Args:
            request: The request.
            num_new_tokens: Tokens to compute next. With those before, at most `max_model_len`.
            num_new_computed_tokens: Tokens of `new_computed_blocks`.
            new_computed_blocks: What `get_computed_blocks` found, for a request that is new.
            num_lookahead_tokens: Draft tokens that need slots as well; they are never cached.
            num_external_computed_tokens: Tokens whose keys and values come from elsewhere.
            delay_cache_blocks: Cache nothing yet, because those are still on their way.
            num_encoder_tokens: Tokens that cross attention attends to.
            full_sequence_must_fit: Refuse unless the whole sequence would fit now.
            reserved_blocks: Free blocks that others were promised.

        Returns:
            The new blocks per group; None if they do not fit, with hits left where they are.

        Raises:
            ArgumentError: A number is out of range, there is nothing to allocate for, the request would be longer
                than the model allows, it has fewer block hashes than full blocks, or computed blocks cannot be its
                hits: blocks of other pools, none, or twice, fewer than `num_new_computed_tokens`, or without prefix
                caching.
            ArgumentTypeError: Something else than numbers, a request and `KVCacheBlocks`.
            BlockIdError: The id of a computed block is outside the pool.
            GroupCountError: Computed blocks of another number of groups.
            RunningRequestError: Computed blocks for a running request. All these leave all unchanged.
            BlockStateError: A block to be cached has a hash already.
            Exception: What a metrics collector raised, or code that makes events: the call is complete all the same.

        O(1) while the request stays inside its blocks, else expected O(blocks that change). Never waits for a
        device.

        Quirk kept (fact 53d): blocks outside the window are given back even if the call does not
        fit.
        """
        try:
            if (
                new_computed_blocks is None
                and num_new_tokens > 0
                and not num_new_computed_tokens
                and not num_external_computed_tokens
                and not full_sequence_must_fit
                and not reserved_blocks
            ):
                table = None if self.first_tables is None else dict.get(self.first_tables, request.request_id)
                num_computed = request.num_computed_tokens
                num_slots = num_computed + num_new_tokens + num_lookahead_tokens
                # A request that only a batch has served is a number here. Only sums of ints are one.
                if (
                    type(table) is RequestBlocks
                    and num_slots <= table.covered_until
                    and num_slots.__class__ is int
                    and num_computed >= 0 <= num_lookahead_tokens
                ):
                    return self.empty_kv_cache_blocks
        except (AttributeError, TypeError, ValueError, OverflowError):
            pass  # the arguments are looked at one by one now, and refused
        given = SlotsCall(
            num_new_tokens,
            num_new_computed_tokens,
            None if new_computed_blocks is self.empty_kv_cache_blocks else new_computed_blocks,
            num_lookahead_tokens,
            num_external_computed_tokens,
            delay_cache_blocks,
            num_encoder_tokens,
            full_sequence_must_fit,
            reserved_blocks,
        )
        return self.slots.allocate_slots(request, given)

    @exclusive
    def free(self, request: Any) -> None:
        """Give back all blocks of a request; nothing for an unknown one. O(blocks)."""
        self.slots.free(name_of(request))

    @exclusive
    def remove_skipped_blocks(self, request_id: str, total_computed_tokens: int) -> None:
        """Give back the blocks that no token after `total_computed_tokens` attends to (fact 27).

        Raises:
            ArgumentError, ArgumentTypeError: The number is below 0, or none.

        Null blocks take their places; nothing for an unknown request. O(blocks given back).
        """
        num_tokens = as_integer("total_computed_tokens", total_computed_tokens)
        self.coordinator.remove_skipped_blocks(checked_name(request_id), num_tokens)

    @exclusive
    def evict_blocks(self, block_ids: Iterable[int]) -> None:
        """Make blocks unfindable, for example because their data could not be loaded.

        Raises:
            ArgumentTypeError: Something else than integers.
            BlockIdError: An id is outside the pool. Nothing is evicted by either.
            Exception: What a metrics collector raised, or code that makes events. All are evicted.

        Expected O(1) for each id.
        """
        self.block_pool.evict_blocks(block_ids)

    @exclusive
    def reset_prefix_cache(self) -> bool:
        """Forget all cached blocks; False, and nothing changes, while requests hold any. O(blocks of the pool)."""
        if not self.block_pool.reset_prefix_cache():
            return False
        if self.prefix_cache_stats is not None:
            self.prefix_cache_stats.reset = True
        return True

    @exclusive
    def get_num_common_prefix_blocks(self, running_request_id: str) -> list[int]:
        """Per group, leading blocks that all requests share (fact 51), for cascade attention.

        0 without prefix caching, for groups of another kind than full attention, and for an unknown request. O(blocks
        of the request).
        """
        return self.coordinator.get_num_common_prefix_blocks(checked_name(running_request_id))

    @exclusive
    def take_events(self) -> "list[KVCacheEvent]":
        """Events since the last call, in order, with kind and window of their groups (fact 59). O(events)."""
        events = self.block_pool.take_events()
        if not events:
            return events
        from kvgpu.events.messages import annotate

        return annotate(events, self.kv_cache_config.kv_cache_groups, logger)

    def get_blocks(self, request_id: str) -> KVCacheBlocks:
        """Blocks that a request holds (live: they change with the next call); none for an unknown one.

        O(groups).
        """
        return self.create_kv_cache_blocks(self.coordinator.get_blocks(checked_name(request_id)))

    def get_block_ids(self, request_id: str) -> tuple[list[int], ...]:
        """Ids of the blocks that a request holds, per group: a copy. O(blocks)."""
        return self.get_blocks(request_id).get_block_ids()

    @exclusive
    def cache_blocks(self, request: Any, num_computed_tokens: int) -> None:
        """Cache the full blocks of the first `num_computed_tokens` tokens, after a delay (fact 25).

        Nothing happens without prefix caching, and for a request that holds nothing.

        Raises:
            ArgumentError: The request has fewer block hashes than full blocks, or the number is below 0.
            ArgumentTypeError: Something else than a number, and a request.
            BlockStateError: A block has a hash already. Nothing is changed by any of these.
            Exception: What the code that makes events raised. The blocks are cached, without an event.

        Expected O(blocks that become cached).
        """
        num_tokens = as_integer("num_computed_tokens", num_computed_tokens)
        name = name_of(request)
        tables = [single.req_to_blocks for single in self.coordinator.single_type_managers]
        if not self.enable_caching or not any(name in table for table in tables):
            return
        hashes = hashes_of(request, name, num_tokens // self.coordinator.hash_block_size)
        self.coordinator.refuse_hashed(name, num_tokens)
        self.slots.checks.refuse_hashes_to_come(name, hashes, num_tokens)
        self.coordinator.cache_blocks(request, num_tokens)

    def create_kv_cache_blocks(self, blocks: tuple[Sequence[KVCacheBlock], ...]) -> KVCacheBlocks:
        """Wrap block lists, one per group; all empty ones are one shared object. O(groups)."""
        return self.slots.wrapped(blocks)

    @exclusive
    def take_new_block_ids(self) -> list[int]:
        """Ids of blocks handed out since the last call that an engine may want zeroed (fact 24). O(ids)."""
        ids: list[int] = []
        for manager in self.coordinator.single_type_managers:
            ids += manager.take_new_block_ids()
        return ids

    @exclusive
    def new_step_starts(self) -> None:
        """To be called at the start of every scheduler step: states that Mamba groups cached in the last one
        can be hit from now on. O(groups), and O(blocks cached in the last step) for Mamba."""
        self.coordinator.new_step_starts()

    def check(self) -> None:
        """Compare all state: pool, index, and what requests hold. O(blocks).

        Waits for the device where the index has one.

        Raises:
            InvariantError: Something does not hold; the message lists all that was found.
            DeviceError: The index has a device, and this process was forked from the one that made it.
        """
        self.block_pool.check()
