"""Kernels for the block-hash table on devices: one file per family of kernels."""
