"""The hash function kvgpu128."""
