"""Replays from options to results, on pools of one or several sizes."""

from collections.abc import Callable
from dataclasses import dataclass, field

from kvgpu.config.specs import MambaSpec
from kvgpu.hashing.functions import get_hash_fn_by_name, init_none_hash
from kvgpu.manager import KVCacheManager
from kvgpu.replay.group_names import block_sizes_of, parse_groups
from kvgpu.replay.ideal import ideal_hit_tokens
from kvgpu.replay.ranges import check_whole
from kvgpu.replay.requests import RequestFactory
from kvgpu.replay.result import ReplayResult
from kvgpu.replay.scheduler import EventSink, ReplayScheduler, SchedulerLimits
from kvgpu.replay.trace import Trace
from kvgpu.replay.workload import conversations


@dataclass(frozen=True)
class ReplayOptions:
    """What to replay on: pool, groups, hash function, backend and scheduler.

    Raises:
        ConfigError: A number is out of range (block ids are int32), or the groups cannot be parsed.
    """

    num_blocks: int = 200_000
    block_size: int = 16
    groups: str = "full"
    hash_name: str = "sha256"
    backend: str | None = None
    limits: SchedulerLimits = field(default_factory=SchedulerLimits)

    def __post_init__(self) -> None:
        check_whole("num_blocks", self.num_blocks)
        check_whole("block_size", self.block_size)
        block_sizes_of(parse_groups(self.groups, self.block_size, self.num_blocks))


class Replayer:
    """Replays one trace on pools of one or several sizes; hashes are computed once.

    Args:
        trace: The requests.
        options: What to replay on.
        keep_hashes: Whether to store hashes for further replays (32 bytes per block).

    Raises:
        ConfigError: The options cannot work.
    """

    def __init__(self, trace: Trace, options: ReplayOptions, keep_hashes: bool = False) -> None:
        self.trace = trace
        self.options = options
        config = parse_groups(options.groups, options.block_size, options.num_blocks)
        self.scheduler_block_size, self.hash_block_size = block_sizes_of(config)
        hash_fn = get_hash_fn_by_name(options.hash_name)
        init_none_hash(hash_fn)
        self.factory = RequestFactory(trace, self.hash_block_size, hash_fn, options.limits.decode, keep_hashes)
        self.ideal = ideal_hit_tokens(trace, self.scheduler_block_size)

    def run(
        self,
        num_blocks: int | None = None,
        advance: Callable[[int], None] = lambda _: None,
        sink: EventSink | None = None,
    ) -> ReplayResult:
        """Replay once, on a fresh pool.

        Args:
            num_blocks: Blocks of the pool; None for the number in the options.
            advance: Called after each step with the number of requests that finished or were rejected in it.
            sink: Called with the time and the events of each step.

        Raises:
            ConfigError: A pool of this size cannot be made.
        """
        options, limits = self.options, self.options.limits
        if num_blocks is None:
            num_blocks = options.num_blocks
        check_whole("num_blocks", num_blocks)
        config = parse_groups(options.groups, options.block_size, num_blocks)
        for group in config.kv_cache_groups:
            spec = group.kv_cache_spec
            if isinstance(spec, MambaSpec) and spec.mamba_cache_mode == "align":
                limits = SchedulerLimits(**{**vars(limits), "chunk_multiple": self.scheduler_block_size})
        longest = (self.trace.input_length + self.trace.output_length).max()
        manager = KVCacheManager(
            config,
            max_model_len=int(longest) + 1,
            scheduler_block_size=self.scheduler_block_size,
            hash_block_size=self.hash_block_size,
            max_num_batched_tokens=limits.max_batched_tokens,
            enable_kv_cache_events=sink is not None,
            backend=options.backend,
        )
        pool = manager.block_pool
        result = ReplayResult(
            num_blocks=num_blocks,
            ideal_hit_tokens=self.ideal,
            pool_bytes_per_block=pool.nbytes / num_blocks,
            backend=pool.index.name,
        )
        ReplayScheduler(self.trace, self.factory, manager, limits, result, self.hash_block_size).run(advance, sink)
        result.evictions = pool.allocator.num_evictions
        return result


def warm_up(options: ReplayOptions) -> None:
    """Compile everything that a replay calls, so that its times do not include compilation.

    Machine code is stored on disk: only the first process on a machine waits.
    """
    size = parse_groups(options.groups, options.block_size, 1).kv_cache_groups
    small = ReplayOptions(
        num_blocks=400 * len(size),
        block_size=options.block_size,
        groups=options.groups,
        hash_name=options.hash_name,
        backend=options.backend,
    )
    Replayer(conversations(4, 1), small).run()
