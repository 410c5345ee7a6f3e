"""Layout of the block-hash table, and (from the GPU milestone on) the kernels that probe it."""
