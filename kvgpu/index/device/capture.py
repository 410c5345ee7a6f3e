"""`GraphCapture`: what a lookup may do while a CUDA graph is captured, when the kernels that it starts do not run."""

from typing import Any

import numpy as np
import numpy.typing as npt

from kvgpu.device import tensors
from kvgpu.errors import ArgumentError


class GraphCapture:
    """Knows whether a graph is being captured on a device's current stream, and owns memory that a graph reads.

    Args:
        device: The device.
    """

    def __init__(self, device: Any) -> None:
        self._torch = tensors.import_torch()
        self._device = device
        self._pinned: Any = None

    @property
    def is_active(self) -> bool:
        return tensors.is_capturing(self._device)

    def refuse_waiting(self) -> None:
        """Refuse a lookup that waits while a graph is captured.

        Raises:
            ArgumentError: A graph is being captured.
        """
        if tensors.is_capturing(self._device):
            raise ArgumentError("a lookup that waits cannot be captured: use match_async()")

    def refuse(self, pending: bool, what: str) -> None:
        """Refuse to send pending data while a graph is captured, because a captured copy has not run yet.

        Raises:
            ArgumentError: Something is pending while a graph is captured.
        """
        if pending and self.is_active:
            raise ArgumentError(
                f"{what} would be sent by the graph, not now: call match_async() once before the "
                "capture, for as many requests"
            )

    def reserve(self, count: int) -> None:
        """Pin memory for `count` int64 values of the next graph; a capture cannot pin memory. O(1), or O(count).

        Raises:
            ArgumentError: A graph is being captured, and no memory of this size was pinned before.
        """
        if self._pinned is None or len(self._pinned) < count:
            self.refuse(True, "memory for the spans of so many requests")
            self._pinned = self._torch.empty(count, dtype=self._torch.int64, pin_memory=self._device.type == "cuda")

    def moved(self, numbers: npt.NDArray[np.int64]) -> tuple[Any, Any]:
        """Copy int64 numbers to the reserved memory and from there to the device; return both.

        Every replay of the graph copies them to the device again.
        """
        source = self._pinned[: numbers.size].view(numbers.shape)
        source.numpy()[:] = numbers
        return source, source.to(self._device, non_blocking=True)

    def hand_over(self, result: Any, inputs: tuple[Any, ...]) -> None:
        """Let a result of the graph own what a replay reads, including the reserved memory.

        The next graph gets other memory.
        """
        result.kvgpu_inputs = inputs
        self._pinned = None
