"""The command `kvgpu doctor`: what is installed here, and whether it works."""
