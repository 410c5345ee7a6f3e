"""`KVCacheManager`: the interface for a scheduler."""

from typing import Any

from kvgpu.allocation.lookups import PrefixLookups
from kvgpu.allocation.native_calls import native_calls
from kvgpu.allocation.request_hints import RequestHints
from kvgpu.allocation.slots import SlotAllocator
from kvgpu.arguments import checked_name, name_of
from kvgpu.blocks.kv_cache_blocks import KVCacheBlocks
from kvgpu.config.behaviour import Behaviour, behaviour_of
from kvgpu.config.cache_hints import HintLimits
from kvgpu.config.kv_cache_config import KVCacheConfig
from kvgpu.coordinators.registry import get_kv_cache_coordinator
from kvgpu.errors import ConfigError
from kvgpu.exclusive import exclusive
from kvgpu.integers import as_integer, as_number, as_option
from kvgpu.interface.cache_calls import blocks_of_longest
from kvgpu.interface.snapshot_calls import SnapshotCalls
from kvgpu.metrics import KVCacheMetricsCollector
from kvgpu.request import Request

__all__ = ["KVCacheBlocks", "KVCacheManager", "Request"]

WAITING = ("WAITING", "PREEMPTED")
"""States of a request that is to be admitted."""


class KVCacheManager(SnapshotCalls):
    """Looks up, allocates, caches and frees the KV-cache blocks of requests, for one thread and stream at a time.

    Args:
        kv_cache_config: Number of blocks, and the cache groups.
        max_model_len: Length of the longest sequence, in tokens.
        scheduler_block_size: Hits are multiples of this number of tokens (see `resolve_kv_cache_block_sizes`).
        hash_block_size: Tokens per block hash; divides every block size.
        max_num_batched_tokens: Largest number of tokens in one scheduler step; `max_model_len` if None.
        enable_caching: Whether full blocks stay cached for reuse.
        use_eagle: Whether a drafter needs the last block of a hit to be computed again.
        log_stats: Whether lookups are counted.
        enable_kv_cache_events: Whether events are queued for `take_events`.
        dcp_world_size: Number of ranks of decode context parallelism.
        pcp_world_size: Number of ranks of prefill context parallelism.
        metrics_collector: Receives allocations, accesses and evictions of blocks.
        behaviour: The version of vLLM to behave like: `0.23`, `0.33`, or a `Behaviour`.
        max_in_flight_tokens: Takes the place of `max_num_batched_tokens` in behaviour 0.33: the largest number of
            tokens in all steps that may be in flight.
        num_hash_lookahead_tokens: Tokens after a block that its hash covers as well, as the block hasher has it.
        num_prefill_lookahead: Tokens after a chunk of a prompt that a drafter reads.
        watermark: Fraction of the blocks that stay free when a waiting request is admitted beside others.
        enable_mamba_shared_prefix_checkpoint: Whether the state at a junction (see `get_computed_blocks`) stays cached
            also inside a block, where a drafter has groups and hits may end there; `mamba_shared_prefix_checkpoint`
            says whether it does.
        eviction: Which free blocks are taken first, see `BlockPool.set_eviction`.
        hints: Has requests say how long their blocks are of use (see `CacheHints`); None if they do not.
        backend: `host`, `reference`, `triton`, `cuda` or `auto`; if None, `KVGPU_BACKEND` or else `host`.
        counts_admissions: Whether a request counts when it gets its first blocks, not at each of its lookups.

    Raises:
        ConfigError: The configuration cannot work; the message says why.
        DeviceError, MissingPackageError: The backend `triton` or `cuda` cannot be used.

    Construction is O(blocks of the pool); if there is a GPU, `auto` measures lookups and waits for it. A call by a
    second thread raises `ConcurrentUseError`; docs/semantics.md says what may run concurrently.
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
        behaviour: str | Behaviour = "0.23",
        max_in_flight_tokens: int | None = None,
        num_hash_lookahead_tokens: int = 0,
        num_prefill_lookahead: int = 0,
        watermark: float = 0.0,
        enable_mamba_shared_prefix_checkpoint: bool = False,
        backend: str | None = None,
        counts_admissions: bool = False,
        eviction: str = "lru",
        hints: HintLimits | None = None,
    ) -> None:
        self.behaviour = behaviour_of(behaviour)
        self.enable_caching = as_option("enable_caching", enable_caching)
        self.use_eagle = as_option("use_eagle", use_eagle)
        self.log_stats = as_option("log_stats", log_stats)
        self.metrics_collector = metrics_collector
        self.kv_cache_config = kv_cache_config
        self.coordinator = get_kv_cache_coordinator(
            kv_cache_config,
            enable_caching=self.enable_caching,
            max_model_len=max_model_len,
            max_in_flight_tokens=max_num_batched_tokens if max_in_flight_tokens is None else max_in_flight_tokens,
            use_eagle=self.use_eagle,
            enable_kv_cache_events=enable_kv_cache_events,
            dcp_world_size=dcp_world_size,
            pcp_world_size=pcp_world_size,
            scheduler_block_size=scheduler_block_size,
            hash_block_size=hash_block_size,
            metrics_collector=metrics_collector,
            behaviour=self.behaviour,
            num_hash_lookahead_tokens=num_hash_lookahead_tokens,
            num_prefill_lookahead=num_prefill_lookahead,
            backend=backend,
        )
        super().__init__(self.coordinator.block_pool.turn)
        self.max_model_len = self.coordinator.max_model_len
        self.num_kv_cache_groups = len(self.coordinator.single_type_managers)
        self.block_pool = self.coordinator.block_pool
        longest = blocks_of_longest(self.coordinator)
        self.hints = None if hints is None else RequestHints(self.coordinator, hints, longest)
        self.block_pool.set_eviction(eviction, None if self.hints is None else self.hints.shares)
        self.watermark_blocks = int(as_number("watermark", watermark) * self.block_pool.num_gpu_blocks)
        if not 0 <= self.watermark_blocks <= self.block_pool.num_gpu_blocks:
            raise ConfigError(f"the watermark is a fraction of the blocks, 0.0 to 1.0, got {watermark}")
        self.mamba_shared_prefix_checkpoint = self.coordinator.keep_junctions(
            as_option("enable_mamba_shared_prefix_checkpoint", enable_mamba_shared_prefix_checkpoint)
        )
        self.lookups = PrefixLookups(self.coordinator, self.log_stats, counts_admissions)
        self.slots = SlotAllocator(self.coordinator, self.lookups)
        self.empty_kv_cache_blocks = self.lookups.empty
        self.native = native_calls(self.coordinator, self.slots, self.lookups)
        self._waits_for_steps = self.behaviour.waits_for_steps

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "native": None}

    def __setstate__(self, state: dict[str, Any]) -> None:  # a copy makes its own calls
        self.__dict__.update(state, native=native_calls(state["coordinator"], state["slots"], state["lookups"]))

    def get_computed_blocks(self, request: Any, max_cache_hit_length: int | None = None) -> tuple[Any, ...]:
        """Find the longest cached prefix of a request, without taking its blocks (facts 52 and B50).

        Args:
            request: Has `block_hashes`, `num_tokens`, `skip_reading_prefix_cache`, and `num_preemptions` to be counted.
            max_cache_hit_length: Longest hit allowed, in tokens; None for one less than the request has.

        Returns:
            The blocks per group as `KVCacheBlocks`, and the number of tokens in them: at least one less than the
            request has, since the next token is sampled from the output of its last one. In behaviour 0.33 also the
            junction: the number of tokens that some groups have cached, if that is more, else 0.

        Raises:
            ArgumentError, ArgumentTypeError: The request lacks an attribute, or an attribute has the wrong type.
            DeviceError: The index is on a device that failed, or that another process has opened (not with `auto`).

        Expected O(blocks hit) for full attention and O(blocks) for a window without a hit; a hybrid model takes
        this for each pass (fact 46). Of a list of hashes, only those are read that decide. A device looks up all hashes
        in all groups, and the call waits for it.
        """
        calls = self.native
        if (
            calls is not None
            and max_cache_hit_length is None
            and (found := calls.get_computed_blocks(request)) is not NotImplemented
        ):
            return found
        return self.lookups.get_computed_blocks(request, max_cache_hit_length)

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
        has_scheduled_reqs: bool = True,
        skip_zeroing_group_ids: tuple[int, ...] = (),
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
            has_scheduled_reqs: Whether other requests are scheduled: then one that waits leaves the watermark free.
            skip_zeroing_group_ids: Groups whose blocks for external tokens need not be zeroed.

        Returns:
            The new blocks per group, or None if they do not fit; the hits are then not taken.

        Raises:
            ArgumentError: A number is out of range, there is nothing to allocate for, the request would be longer
                than the model allows or has fewer block hashes than full blocks, or computed blocks cannot be its
                hits: they are not of this pool, occur twice or hold too few tokens, or prefix caching is off.
            ArgumentTypeError: An argument is not a number, a request or `KVCacheBlocks` as required.
            BlockIdError, GroupCountError: Ids of computed blocks are outside the pool, or their groups do not fit.
            RunningRequestError: There are computed blocks for a running request. None of these changes anything.
            BlockStateError: A block to be cached already has a hash.
            Exception: A metrics collector, or code that makes events, raised it; the call is complete nevertheless.

        O(1) while the request stays inside its blocks, otherwise expected O(blocks that change). Never waits for a
        device. A quirk of vLLM's (fact 53d): blocks outside the window are given back even if new ones do not fit.
        """
        if self.hints is not None:
            reserved_blocks = self.hints.begin(request, reserved_blocks)
        given = (  # the fields of a SlotsCall, which takes half a microsecond to make
            num_new_tokens,
            num_new_computed_tokens,
            None if new_computed_blocks is self.empty_kv_cache_blocks else new_computed_blocks,
            num_lookahead_tokens,
            num_external_computed_tokens,
            delay_cache_blocks,
            num_encoder_tokens,
            full_sequence_must_fit,
            reserved_blocks,
            getattr(request, "num_in_flight_tokens", 0) if self._waits_for_steps else 0,
            self.watermark_blocks and self._headroom(request, has_scheduled_reqs),
            skip_zeroing_group_ids,
        )
        calls = self.native
        if calls is not None and (new := calls.allocate_slots(request, given)) is not NotImplemented:
            return new
        return self.slots.empty if self.slots.covers(request, given) else self.slots.allocate_slots(request, given)

    def _headroom(self, request: Any, has_scheduled_reqs: bool) -> int:
        """Blocks that an admission leaves free (B32)."""
        waits = getattr(getattr(request, "status", None), "name", None) in WAITING
        return self.watermark_blocks if has_scheduled_reqs and waits else 0

    def free(self, request: Any) -> None:
        """Give back all blocks of a request; does nothing for an unknown request. O(blocks)."""
        if self.hints is not None:
            self.hints.end(request)
        calls = self.native
        if calls is None or calls.free(request) is NotImplemented:
            self.slots.free(name_of(request))

    @exclusive
    def remove_skipped_blocks(
        self,
        request_id: str,
        total_computed_tokens: int | None = None,
        num_prompt_tokens: int | None = None,
        *,
        processed_computed_tokens: int | None = None,
    ) -> None:
        """Give back the blocks that no token after the first so many attends to (facts 27 and B40). O(these blocks).

        Null blocks take their places. Does nothing for an unknown request.

        Args:
            request_id: The request.
            total_computed_tokens: The number of tokens; no step in flight may still read blocks before them.
            num_prompt_tokens: Without effect: no kind of attention here needs it.
            processed_computed_tokens: The name of `total_computed_tokens` since vLLM 0.26.

        Raises:
            ArgumentError, ArgumentTypeError: The number is below 0, or not an integer.
        """
        given = total_computed_tokens if processed_computed_tokens is None else processed_computed_tokens
        num_tokens = as_integer("total_computed_tokens", given)
        self.coordinator.remove_skipped_blocks(checked_name(request_id), num_tokens)

    def cache_blocks(self, request: Any, num_computed_tokens: int) -> None:
        """Cache the full blocks of the first `num_computed_tokens` tokens (fact 25), if it holds any. Expected O(them).

        Raises:
            ArgumentError: The request has fewer block hashes than full blocks, or the number is below 0.
            ArgumentTypeError: An argument is not a request or a number as required.
            BlockStateError: A block already has a hash. None of these errors changes anything.
            Exception: The code that makes events raised it. The blocks are cached, without an event.
        """
        calls = self.native
        if calls is None or calls.cache_blocks(request, num_computed_tokens) is NotImplemented:
            self.slots.cache_blocks(request, num_computed_tokens)

    @exclusive
    def new_step_starts(self) -> None:
        """Begin a scheduler step: lookups now hit states that Mamba groups cached in the last one. O(such states)."""
        self.coordinator.new_step_starts()
