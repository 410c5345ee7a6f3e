"""Rows that are cache lines."""

import numpy as np
import pytest

from kvgpu.blocks.state import BlockState
from kvgpu.compiled.cache_lines import CACHE_LINE, make_lines
from kvgpu.index.host.index import HostIndex


@pytest.mark.parametrize("count", [1, 2, 3, 1000, 300_000])
def test_each_row_is_a_cache_line_of_the_word(count):
    lines = make_lines(count, -3)
    assert (lines.dtype, lines.shape, lines.strides[0]) == (np.int64, (count, 8), CACHE_LINE)
    assert lines.ctypes.data % CACHE_LINE == 0
    assert (lines == -3).all()


@pytest.mark.parametrize("num_blocks", [1, 100, 100_000])
def test_each_bucket_of_the_table_is_a_cache_line(num_blocks):
    table = HostIndex(BlockState(num_blocks)).table
    assert table.ctypes.data % CACHE_LINE == 0
    assert table[0].nbytes == CACHE_LINE
