"""`KVCacheManager`: the interface for a scheduler."""

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
        max_model_len: Length of the longest sequence, in tokens.
        scheduler_block_size: Hits are multiples of this number of tokens, the least common multiple of
            the groups' block sizes (see `resolve_kv_cache_block_sizes`).
        hash_block_size: Tokens per block hash; divides every block size.
        max_num_batched_tokens: Largest number of tokens in one scheduler step; `max_model_len` if None.
        enable_caching: Whether full blocks stay cached for reuse.
        use_eagle: Whether a drafter needs the last block of a hit to be computed again.
        log_stats: Whether lookups are counted.
        enable_kv_cache_events: Whether events are queued for `take_events`.
        dcp_world_size: Number of ranks of decode context parallelism.
        pcp_world_size: Number of ranks of prefill context parallelism.
        metrics_collector: Receives allocations, accesses and evictions of blocks.
        backend: Index backend: `host`, `reference`, `triton`, `cuda` or `auto`; if None, `KVGPU_BACKEND`
            or else `host`.
        counts_admissions: Whether to count a request in the statistics when it gets its first blocks, not at each
            lookup: a waiting request is looked up again and again.

    Raises:
        ConfigError: The configuration cannot work; the message says why.
        DeviceError, MissingPackageError: The backend `triton` or `cuda` cannot be used.

    Construction is O(blocks of the pool); if there is a GPU, `auto` measures lookups and waits for it.
    A manager belongs to one thread at a time, and to one stream: docs/semantics.md says what may run
    concurrently. A second thread gets a `ConcurrentUseError`.
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
        # `allocate_slots` looks here first, so that most calls need not go through the groups.
        self.first_tables = self.slots.first_tables

    def _count_admission(self, num_tokens: int, num_hit_tokens: int, preempted: bool) -> None:
        """Count in the statistics a request that has got its first blocks."""
        if self.prefix_cache_stats is not None:
            self.prefix_cache_stats.record(num_tokens, num_hit_tokens, preempted)

    @property
    def usage(self) -> float:
        """Fraction of the pool's blocks in use, 0.0 to 1.0. O(1)."""
        return self.block_pool.get_usage()

    @exclusive
    def make_prefix_cache_stats(self) -> PrefixCacheStats | None:
        """Return the counts since the last call, or None without `log_stats`. O(1)."""
        if not self.log_stats:
            return None
        stats, self.prefix_cache_stats = self.prefix_cache_stats, PrefixCacheStats()
        return stats

    @exclusive
    def get_computed_blocks(self, request: Any) -> tuple[KVCacheBlocks, int]:
        """Find the longest cached prefix of a request, without taking its blocks (fact 52).

        At least one token remains to be computed, because the next token is sampled from its output.

        Args:
            request: Has `block_hashes`, `num_tokens` and `skip_reading_prefix_cache`, and `num_preemptions`
                if lookups are counted.

        Returns:
            The blocks per group, and the number of tokens in them.

        Raises:
            ArgumentError, ArgumentTypeError: The request lacks an attribute, or an attribute has the wrong type.
            DeviceError: The index is on a device that failed, or this process was forked from the one that
                made it (not with `auto`, which continues on the host).

        Expected O(blocks hit) for full attention and O(blocks) for a window without a hit; a hybrid model takes
        this for each pass (fact 46). A list of hashes is converted first, O(hashes). A device looks up all hashes in
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
        """Give a request slots for its next tokens, and cache the blocks that become full (fact 53).

        Args:
            request: The request.
            num_new_tokens: Number of tokens to compute next; with the tokens before them, at most `max_model_len`.
            num_new_computed_tokens: Number of tokens in `new_computed_blocks`.
            new_computed_blocks: For a new request, the blocks that `get_computed_blocks` found.
            num_lookahead_tokens: Number of draft tokens that also need slots; they are never cached.
            num_external_computed_tokens: Number of tokens whose keys and values come from elsewhere.
            delay_cache_blocks: Whether to cache nothing yet, because those keys and values have not arrived.
            num_encoder_tokens: Number of tokens that cross attention attends to.
            full_sequence_must_fit: Whether to refuse unless the whole sequence fits now.
            reserved_blocks: Number of free blocks that are promised to others.

        Returns:
            The new blocks per group, or None if they do not fit; the hits are then not taken.

        Raises:
            ArgumentError: A number is out of range, there is nothing to allocate for, the request would be longer
                than the model allows, it has fewer block hashes than full blocks, or computed blocks cannot be its
                hits: they belong to another pool or to none, occur twice, hold fewer than `num_new_computed_tokens`
                tokens, or prefix caching is off.
            ArgumentTypeError: An argument is not a number, a request or `KVCacheBlocks` as required.
            BlockIdError: The id of a computed block is outside the pool.
            GroupCountError: The computed blocks have another number of groups.
            RunningRequestError: There are computed blocks for a running request. None of the errors up to here
                changes anything.
            BlockStateError: A block to be cached already has a hash.
            Exception: A metrics collector, or code that makes events, raised it; the call is complete nevertheless.

        O(1) while the request stays inside its blocks, otherwise expected O(blocks that change). Never waits for a
        device.

        A quirk of vLLM's (fact 53d): blocks outside the window are given back even if the new blocks do not
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
                # A request that only a batch has served is a number in this dict, not a table. A sum is an int only
                # if all its terms are.
                if (
                    type(table) is RequestBlocks
                    and num_slots <= table.covered_until
                    and num_slots.__class__ is int
                    and num_computed >= 0 <= num_lookahead_tokens
                ):
                    return self.empty_kv_cache_blocks
        except (AttributeError, TypeError, ValueError, OverflowError):
            pass  # the code below checks the arguments one by one, and refuses them
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
        """Give back all blocks of a request; does nothing for an unknown request. O(blocks)."""
        self.slots.free(name_of(request))

    @exclusive
    def remove_skipped_blocks(self, request_id: str, total_computed_tokens: int) -> None:
        """Give back the blocks that no token after `total_computed_tokens` attends to (fact 27).

        Raises:
            ArgumentError, ArgumentTypeError: The number is below 0, or not an integer.

        Null blocks take their places. Does nothing for an unknown request. O(blocks given back).
        """
        num_tokens = as_integer("total_computed_tokens", total_computed_tokens)
        self.coordinator.remove_skipped_blocks(checked_name(request_id), num_tokens)

    @exclusive
    def evict_blocks(self, block_ids: Iterable[int]) -> None:
        """Forget the hashes of blocks, for example because their data could not be loaded.

        No lookup finds these blocks afterwards.

        Raises:
            ArgumentTypeError: An id is not an integer.
            BlockIdError: An id is outside the pool. Neither of these errors evicts anything.
            Exception: A metrics collector, or code that makes events, raised it. All blocks are evicted.

        Expected O(1) for each id.
        """
        self.block_pool.evict_blocks(block_ids)

    @exclusive
    def reset_prefix_cache(self) -> bool:
        """Forget all cached blocks; return False and change nothing while requests hold any. O(blocks of the pool)."""
        if not self.block_pool.reset_prefix_cache():
            return False
        if self.prefix_cache_stats is not None:
            self.prefix_cache_stats.reset = True
        return True

    @exclusive
    def get_num_common_prefix_blocks(self, running_request_id: str) -> list[int]:
        """Return how many leading blocks all requests share, per group (fact 51), for cascade attention.

        Returns 0 without prefix caching, for groups of another kind than full attention, and for an unknown request.
        O(blocks of the request).
        """
        return self.coordinator.get_num_common_prefix_blocks(checked_name(running_request_id))

    @exclusive
    def take_events(self) -> "list[KVCacheEvent]":
        """Return the events since the last call, in order, with kind and window of each group (fact 59). O(events)."""
        events = self.block_pool.take_events()
        if not events:
            return events
        from kvgpu.events.messages import annotate

        return annotate(events, self.kv_cache_config.kv_cache_groups, logger)

    def get_blocks(self, request_id: str) -> KVCacheBlocks:
        """Return the blocks that a request holds, which are live: they change with the next call.

        An unknown request holds none. O(groups).
        """
        return self.create_kv_cache_blocks(self.coordinator.get_blocks(checked_name(request_id)))

    def get_block_ids(self, request_id: str) -> tuple[list[int], ...]:
        """Return a copy of the ids of the blocks that a request holds, per group. O(blocks)."""
        return self.get_blocks(request_id).get_block_ids()

    @exclusive
    def cache_blocks(self, request: Any, num_computed_tokens: int) -> None:
        """Cache the full blocks of the first `num_computed_tokens` tokens, after a delay (fact 25).

        Does nothing without prefix caching, or for a request that holds nothing.

        Raises:
            ArgumentError: The request has fewer block hashes than full blocks, or the number is below 0.
            ArgumentTypeError: An argument is not a request or a number as required.
            BlockStateError: A block already has a hash. None of these errors changes anything.
            Exception: The code that makes events raised it. The blocks are cached, without an event.

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
        """Wrap block lists, one per group; if all are empty, the result is a shared object. O(groups)."""
        return self.slots.wrapped(blocks)

    @exclusive
    def take_new_block_ids(self) -> list[int]:
        """Return the ids of blocks allocated since the last call that an engine may want to zero (fact 24). O(ids)."""
        ids: list[int] = []
        for manager in self.coordinator.single_type_managers:
            ids += manager.take_new_block_ids()
        return ids

    @exclusive
    def new_step_starts(self) -> None:
        """Prepare for a scheduler step; call this at the start of every step.

        Lookups hit states that Mamba groups cached in the last step only after this call. O(groups), and O(blocks
        cached in the last step) for Mamba.
        """
        self.coordinator.new_step_starts()

    def check(self) -> None:
        """Check that pool, index and block tables agree. O(blocks).

        Waits for the device if the index has one.

        Raises:
            InvariantError: An invariant is violated; the message lists all violations.
            DeviceError: The index has a device, and this process was forked from the one that made it.
        """
        self.block_pool.check()
