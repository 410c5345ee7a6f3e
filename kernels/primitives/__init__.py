"""What kernels are made of: the decorator, and functions that run inside a kernel."""
