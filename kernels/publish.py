"""Saying to a waiting CPU that all launches before are done: a number in pinned memory."""

from typing import Any

import triton.language as tl

from kvgpu import layout
from kvgpu.kernels.primitives.atomics import store_released
from kvgpu.kernels.primitives.kernel import kernel

STATUS = tl.constexpr(layout.META_STATUS)


@kernel()
def publish_kernel(meta, counter, signal):
    """Count one up, and write the table's status and then the count to `signal`, int64 [2]: count, status."""
    number = tl.atomic_add(counter, tl.cast(1, tl.int64), sem="relaxed") + 1
    tl.store(signal + 1, tl.load(meta + STATUS))
    store_released(signal, number)


def launch_publish(meta: Any, counter: Any, signal: Any) -> None:
    """Start `publish_kernel` on the current stream.

    Args:
        meta: int64 [META_WORDS], of a table.
        counter: int64 [1], on the device.
        signal: int64 [2], in pinned memory.
    """
    publish_kernel[(1,)](meta, counter, signal, num_warps=1)
