"""`TableView`: a table in the form that kernels take, which owns nothing. Kernels of other projects can use it."""

from typing import Any, NamedTuple

import numpy as np

VIEW_STRUCT = np.dtype(
    [
        ("words", "<u8"),
        ("records", "<u8"),
        ("meta", "<u8"),
        ("num_buckets", "<i8"),
        ("num_blocks", "<i8"),
        ("seed", "<i8"),
    ]
)
"""The layout of `kvgpu::TableView` in kernels/cuda/table.cuh."""


class TableView(NamedTuple):
    """Pointers and sizes of a `BlockHashTable`; valid as long as the table lives.

    words int64 [num_buckets, 8], records int64 [num_blocks, 2 * key_words], meta int64 [8]: torch
    tensors on one device (layout in kvgpu/layout.py). A Triton kernel takes `words`, `records`,
    `num_buckets` and `seed` as arguments and calls `kvgpu.kernels.find.find_blocks`. A CUDA kernel
    takes `as_struct()` as a `kvgpu::TableView` by value and calls `kvgpu::find_block`.

    Operations on one stream are ordered. No kernel may read the table while another writes it.
    """

    words: Any
    records: Any
    meta: Any
    num_buckets: int
    num_blocks: int
    key_words: int
    seed: int

    def as_struct(self) -> np.ndarray:
        """Return one `VIEW_STRUCT` in an array, which CuPy passes to kernels by value."""
        pointers = (tensor.data_ptr() for tensor in (self.words, self.records, self.meta))
        values = (*pointers, self.num_buckets, self.num_blocks, self.seed)
        return np.array([values], VIEW_STRUCT)
