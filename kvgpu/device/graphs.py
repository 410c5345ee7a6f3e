"""CUDA graphs: launches that are prepared once and started together."""

from collections.abc import Callable
from typing import Any

from kvgpu.device.tensors import import_torch


def prepared(start: Callable[[], None], device: Any) -> Callable[[], None]:
    """Return what does the same as `start` on a device's current stream, for less time on the CPU.

    On a GPU this is the replay of a graph, so `start` may neither wait nor allocate, and must have run once before,
    which compiles its kernels. Elsewhere it is `start`. Waits for the device.
    """
    if device.type != "cuda":
        return start
    torch = import_torch()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.device(device), torch.cuda.graph(graph):
        start()
    replay: Callable[[], None] = graph.replay
    return replay
