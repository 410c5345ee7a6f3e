"""Replays from options to results, on pools of one or several sizes."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from kvgpu.config.behaviour import Behaviour, behaviour_of
from kvgpu.config.kv_cache_config import KVCacheConfig
from kvgpu.config.specs import FullAttentionSpec, MambaSpec
from kvgpu.errors import ConfigError
from kvgpu.eviction.names import LRU, check_eviction
from kvgpu.hashing import functions as hashing
from kvgpu.hashing.request_hasher import get_request_block_hasher
from kvgpu.manager import KVCacheManager
from kvgpu.replay.group_names import block_sizes_of, parse_groups
from kvgpu.replay.ideal import ideal_hits
from kvgpu.replay.limits import SchedulerLimits
from kvgpu.replay.losses import EarlyEvictions, Losses
from kvgpu.replay.requests import RequestFactory
from kvgpu.replay.restart import Restart
from kvgpu.replay.result import ReplayResult
from kvgpu.replay.scheduler import EventSink, ReplayScheduler
from kvgpu.replay.traces.keys import prompt_keys
from kvgpu.replay.traces.ranges import check_whole
from kvgpu.replay.traces.trace import Trace
from kvgpu.replay.traces.workload import conversations


@dataclass(frozen=True)
class ReplayOptions:
    """What to replay on: pool, groups, hash function, backend, scheduler, behaviour and order of eviction.

    behaviour: the version of vLLM that manager, hashes and scheduler behave like. retention_interval: tokens between
    the positions of a prompt that stay cached in windows and states, None for all, which only behaviour 0.33 has as an
    option; 0 is its default. same_hashes: whether other processes make the same hashes, whatever PYTHONHASHSEED is.

    Raises:
        ConfigError: A number is out of range (block ids are int32), the groups cannot be parsed, or the behaviour has
            no such option.
        UnknownNameError: There is no such behaviour, or order of eviction.
    """

    num_blocks: int = 200_000
    block_size: int = 16
    groups: str = "full"
    hash_name: str = "sha256"
    backend: str | None = None
    limits: SchedulerLimits = field(default_factory=SchedulerLimits)
    behaviour: str = "0.23"
    retention_interval: int | None = 0
    eviction: str = LRU
    same_hashes: bool = False

    def __post_init__(self) -> None:
        check_whole("num_blocks", self.num_blocks)
        check_whole("block_size", self.block_size)
        if self.retention_interval is not None:
            check_whole("retention_interval", self.retention_interval, 0)
        check_eviction(self.eviction)
        if self.retention_interval != 0 and not self.known_behaviour.keeps_boundaries:
            raise ConfigError(
                f"a retention interval is no option of behaviour {self.behaviour}, which reads "
                "VLLM_PREFIX_CACHE_RETENTION_INTERVAL"
            )
        block_sizes_of(self.config())

    @property
    def known_behaviour(self) -> Behaviour:
        """The behaviour of this name. O(1)."""
        return behaviour_of(self.behaviour)

    def config(self, num_blocks: int | None = None) -> KVCacheConfig:
        """Return the configuration of a pool; None stands for the size in the options. O(groups)."""
        size = self.num_blocks if num_blocks is None else num_blocks
        return parse_groups(self.groups, self.block_size, size, self.known_behaviour, self.retention_interval)

    @property
    def full_attention_only(self) -> bool:
        """Whether the groups are one of full attention. O(groups)."""
        specs = [group.kv_cache_spec for group in self.config().kv_cache_groups]
        return len(specs) == 1 and isinstance(specs[0], FullAttentionSpec)

    @property
    def effective_limits(self) -> SchedulerLimits:
        """The limits of a scheduler for these groups: prompts are cut where the states of Mamba groups can be cached.

        Raises:
            ConfigError: A step has fewer tokens than a block of states.
        """
        config = self.config()
        specs = [group.kv_cache_spec for group in config.kv_cache_groups]
        if not any(isinstance(spec, MambaSpec) and spec.mamba_cache_mode == "align" for spec in specs):
            return self.limits
        unit, _ = block_sizes_of(config)
        return replace(self.limits, chunk_multiple=unit, ends_at_hits=self.known_behaviour.keeps_boundaries)


class Replayer:
    """Replays one trace on pools of one or several sizes; hashes are computed once.

    Args:
        trace: The requests.
        options: What to replay on.
        keep_hashes: Whether to store hashes for further replays (32 bytes per block).
        follows_blocks: Whether to count early evictions, if the groups are one of full attention (8 bytes per block).

    Raises:
        ConfigError: The options cannot work.
    """

    def __init__(
        self, trace: Trace, options: ReplayOptions, keep_hashes: bool = False, follows_blocks: bool = False
    ) -> None:
        self.trace = trace
        self.options = options
        self.scheduler_block_size, self.hash_block_size = block_sizes_of(options.config())
        hash_fn = hashing.get_hash_fn_by_name(options.hash_name)
        hashing.init_none_hash(hash_fn, options.known_behaviour)
        if options.same_hashes:
            hashing.NONE_HASH = hashing.BlockHash(hash_fn("kvgpu replay"))
        self.hasher = get_request_block_hasher(self.hash_block_size, hash_fn, behaviour=options.known_behaviour)
        self.factory = RequestFactory(trace, self.hasher, options.limits.decode, keep_hashes)
        self.ideal_hits = ideal_hits(trace, self.scheduler_block_size)
        follows = follows_blocks and options.full_attention_only
        self.keys = prompt_keys(trace, self.scheduler_block_size) if follows else None

    def manager_sizes(self) -> dict[str, Any]:
        """Return what a manager has to know of the trace and the options, in tokens, by argument. O(requests)."""
        longest = (self.trace.input_length + self.trace.output_length).max()
        return {
            "max_model_len": int(longest) + 1,
            "scheduler_block_size": self.scheduler_block_size,
            "hash_block_size": self.hash_block_size,
        }

    def run(
        self,
        num_blocks: int | None = None,
        advance: Callable[[int], None] = lambda _: None,
        sink: EventSink | None = None,
        restart: Restart | None = None,
    ) -> ReplayResult:
        """Replay once, on a fresh pool.

        Args:
            num_blocks: Blocks of the pool; None for the number in the options.
            advance: Called after each step with the number of requests that finished or were rejected in it.
            sink: Called with the time and the events of each step.
            restart: Fills the pool before the first request; None for a cold start.

        Raises:
            ConfigError: A pool of this size cannot be made.
            SnapshotError, OSError: As in `Restart.begin`.
        """
        options = self.options
        if num_blocks is None:
            num_blocks = options.num_blocks
        check_whole("num_blocks", num_blocks)
        limits = options.effective_limits
        manager = KVCacheManager(
            options.config(num_blocks),
            **self.manager_sizes(),
            max_num_batched_tokens=limits.max_batched_tokens,
            enable_kv_cache_events=sink is not None,
            behaviour=options.known_behaviour,
            backend=options.backend,
            eviction=options.eviction,
        )
        if restart is not None:
            restart.begin(manager)
        pool = manager.block_pool
        result = ReplayResult(
            num_blocks=num_blocks,
            ideal_hit_tokens=int(self.ideal_hits.sum()),
            pool_bytes_per_block=pool.nbytes / num_blocks,
            backend=pool.index.name,
            behaviour=options.behaviour,
            eviction=options.eviction,
        )
        self.serve(manager, self.factory, result, advance, sink)
        result.evictions = pool.allocator.num_evictions
        return result

    def serve(
        self,
        manager: Any,
        factory: RequestFactory,
        result: ReplayResult,
        advance: Callable[[int], None] = lambda _: None,
        sink: EventSink | None = None,
    ) -> None:
        """Serve the trace with a manager, which may be that of another engine, and fill the result.

        Args:
            manager: A new manager of the same groups, sizes and behaviour.
            factory: Makes the requests that it serves.
            result: Filled with the results.
            advance, sink: As in `run`.
        """
        limits = self.options.effective_limits
        early = None if self.keys is None else EarlyEvictions(self.keys, result.num_blocks)
        losses = Losses(result, self.ideal_hits, early)
        ReplayScheduler(self.trace, factory, manager, limits, losses, self.hash_block_size).run(advance, sink)


def warm_up(options: ReplayOptions) -> None:
    """Compile everything that a replay calls, so that its times do not include compilation.

    Machine code is stored on disk: only the first process on a machine waits.
    """
    num_groups = len(options.config().kv_cache_groups)
    small = replace(options, num_blocks=400 * num_groups, limits=SchedulerLimits())
    Replayer(conversations(4, 1), small).run()
