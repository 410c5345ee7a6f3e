"""Building blocks of kernels: the decorator, and functions that run inside a kernel."""
