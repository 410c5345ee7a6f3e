"""`GraphCapture`: what a lookup may do while a CUDA graph is captured, when nothing runs that it starts."""

from typing import Any

import numpy as np
import numpy.typing as npt

from kvgpu.device import tensors
from kvgpu.errors import ArgumentError


class GraphCapture:
    """Whether one is going on on a device's current stream, and memory that a graph reads from.

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
        """
        Raises:
            ArgumentError: In a capture.
        """
        if self.is_active:
            raise ArgumentError("a lookup that waits cannot be captured: use match_async()")

    def refuse(self, pending: bool, what: str) -> None:
        """What a capture notes has not run, so nothing may be taken as sent.

        Raises:
            ArgumentError: Something is pending, in a capture.
        """
        if pending and self.is_active:
            raise ArgumentError(
                f"{what} would be sent by the graph, not now: call match_async() once before the "
                "capture, for as many requests"
            )

    def reserve(self, count: int) -> None:
        """Pin memory for `count` int64 of the next graph, because that cannot be done in a capture. O(1), or O(count).

        Raises:
            ArgumentError: It was not done before, in a capture.
        """
        if self._pinned is None or len(self._pinned) < count:
            self.refuse(True, "memory for the spans of so many requests")
            self._pinned = self._torch.empty(count, dtype=self._torch.int64, pin_memory=self._device.type == "cuda")

    def moved(self, numbers: npt.NDArray[np.int64]) -> tuple[Any, Any]:
        """int64 numbers in reserved memory, and on the device, to which every replay copies them again."""
        source = self._pinned[: numbers.size].view(numbers.shape)
        source.numpy()[:] = numbers
        return source, source.to(self._device, non_blocking=True)

    def hand_over(self, result: Any, inputs: tuple[Any, ...]) -> None:
        """Let a result of the graph own what a replay reads, the reserved memory with it; the next graph gets other."""
        result.kvgpu_inputs = inputs
        self._pinned = None
