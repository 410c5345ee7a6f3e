"""Arrays whose rows are cache lines."""

import numpy as np
import numpy.typing as npt

CACHE_LINE = 64
"""Bytes."""


def make_lines(count: int, word: int = 0) -> npt.NDArray[np.int64]:
    """Make an array int64 [count, 8] filled with a word, each row of which is one cache line. O(count).

    It is written to, not only allocated: the first use of a page would cost whoever uses it first.
    """
    width = CACHE_LINE // 8
    raw = np.full((count + 1) * width, word, np.int64)
    start = -raw.ctypes.data % CACHE_LINE // 8
    return raw[start : start + count * width].reshape(count, width)
