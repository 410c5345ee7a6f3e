"""The backends `triton` and `cuda`: `DeviceIndex` with the kernels of one language."""

from kvgpu.index.device.index import DeviceIndex


class TritonIndex(DeviceIndex):
    """An index that Triton kernels probe: on a GPU, or on the CPU with TRITON_INTERPRET=1."""

    name = "triton"
    engine = "triton"


class CudaIndex(DeviceIndex):
    """An index that CUDA kernels probe, through CuPy."""

    name = "cuda"
    engine = "cuda"
