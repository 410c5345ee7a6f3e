"""What is installed here, and whether it works: the command `kvgpu doctor`."""
