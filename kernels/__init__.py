"""The block-hash table on devices: its byte layout, and one file per family of kernels."""
