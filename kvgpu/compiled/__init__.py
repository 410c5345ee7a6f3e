"""What touches LLVM, CPython and NumPy from the inside."""
