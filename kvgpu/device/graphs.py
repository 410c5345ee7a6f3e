"""CUDA graphs: launches that are prepared once and started together."""

import logging
from collections.abc import Callable
from typing import Any

from kvgpu.device.tensors import import_torch

logger = logging.getLogger(__name__)


def prepared(start: Callable[[], None], device: Any) -> Callable[[], None] | None:
    """Return what does the same as `start` on a device's current stream, for less time on the CPU.

    That is the replay of a graph, so `start` may neither wait nor allocate, and its kernels must be compiled. None if
    the device is no GPU, or if nothing can be captured, which the log says.
    """
    if device.type != "cuda":
        return None
    torch = import_torch()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.device(device):
        # Not torch.cuda.graph(), which also empties the allocator of everybody else.
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        try:
            with torch.cuda.stream(stream):
                graph.capture_begin(capture_error_mode="thread_local")
                try:
                    start()
                finally:
                    graph.capture_end()
        except RuntimeError as error:
            logger.warning("lookups are launched one by one, because no CUDA graph can be captured: %s", error)
            return None
    replay: Callable[[], None] = graph.replay
    return replay
