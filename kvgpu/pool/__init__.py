"""The calls of a block pool, by what they are about; `kvgpu.block_pool` has the pool itself."""
