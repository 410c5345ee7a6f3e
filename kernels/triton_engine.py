"""The launchers of the Triton kernels that have CUDA counterparts, under the names that a table calls."""

from kvgpu.kernels.find import launch_find
from kvgpu.kernels.leading_run import launch_leading_run
from kvgpu.kernels.longest_prefix import launch_probe
from kvgpu.kernels.update import launch_update

__all__ = ["launch_find", "launch_leading_run", "launch_probe", "launch_update"]
