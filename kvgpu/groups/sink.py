"""Full attention with attention sinks."""

from typing import Any

from kvgpu.block_pool import BlockPool
from kvgpu.blocks.block_list import BlockList
from kvgpu.config.specs import SinkFullAttentionSpec
from kvgpu.errors import ConfigError
from kvgpu.groups.full import FullAttentionManager
from kvgpu.integers import as_size


class SinkFullAttentionManager(FullAttentionManager):
    """Full attention, with blocks for the sink tokens that belong to no request.

    Attributes:
        sink_blocks: Blocks of the sink tokens, taken from the pool at construction and held for
            the pool's lifetime.

    Raises:
        ConfigError: The sink length is missing or not a positive multiple of the block size, or the
            pool is too small for it.
    """

    def __init__(self, kv_cache_spec: SinkFullAttentionSpec, block_pool: BlockPool, *args: Any, **kwargs: Any) -> None:
        sink_len = as_size("sink_len", kv_cache_spec.sink_len)
        if sink_len % kv_cache_spec.block_size:
            raise ConfigError(f"sink_len must be a multiple of block_size {kv_cache_spec.block_size}, got {sink_len}")
        count = sink_len // kv_cache_spec.block_size
        if count > block_pool.get_num_free_blocks():
            raise ConfigError(
                f"{count} sink blocks do not fit into {block_pool.get_num_free_blocks()} free "
                "blocks; give the pool more"
            )
        super().__init__(kv_cache_spec, block_pool, *args, **kwargs)
        self.sink_blocks = BlockList(block_pool.state, block_pool.allocate(count))
        block_pool.num_reserved_blocks += count
