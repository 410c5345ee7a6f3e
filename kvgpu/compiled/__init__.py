"""Code that depends on the internals of LLVM, CPython and NumPy."""
