"""Block tables that attention kernels read, int32 [rows, max_blocks], kept up to date in place."""

import sys
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from kvgpu.batch.rows.record import RowIds
from kvgpu.block_tables.store import BEGIN, LENGTH, BlockTableStore
from kvgpu.compiled.jit import jit
from kvgpu.errors import ArgumentError, ArgumentTypeError


@jit
def _changes(block_tables: Any, store_ids: Any, table_ids: Any, rows: Any, starts: Any, width: int) -> Any:
    """Return the places in a flat table of `width` columns that must be written, and what to write there."""
    total = 0
    for k in range(len(rows)):
        total += block_tables[table_ids[k], LENGTH] - starts[k]
    places = np.empty(total, np.int64)
    values = np.empty(total, np.int32)
    at = 0
    for k in range(len(rows)):
        begin = block_tables[table_ids[k], BEGIN]
        for block in range(starts[k], block_tables[table_ids[k], LENGTH]):
            places[at] = rows[k] * width + block
            values[at] = store_ids[begin + block]
            at += 1
    return places, values


def _is_tensor(table: Any) -> bool:
    """Return whether it is a torch tensor, which cannot exist before torch is imported."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(table, torch.Tensor)


def check_tables(tables: Sequence[Any], max_requests: int, num_groups: int) -> npt.NDArray[np.int64]:
    """Check that block tables can be written. O(groups).

    Args:
        tables: One per group: a NumPy array or a torch tensor on any device.
        max_requests: Rows that each must have.
        num_groups: Number of cache groups.

    Returns:
        int64 [groups], columns of each.

    Raises:
        ArgumentError: Their number or a shape does not fit, one is not contiguous or cannot be written, or two share
            memory.
        ArgumentTypeError: One is not int32, or no array.
    """
    if not isinstance(tables, list | tuple) or len(tables) != num_groups:
        raise ArgumentError(f"out: a sequence of {num_groups} block tables is expected, one per group")
    begins = []
    for group, table in enumerate(tables):
        is_array = isinstance(table, np.ndarray)
        if not is_array and not _is_tensor(table):
            raise ArgumentTypeError(f"out[{group}]: an int32 block table is expected, got {type(table).__name__}")
        if str(table.dtype).removeprefix("torch.") != "int32":
            raise ArgumentTypeError(f"out[{group}]: an int32 block table is expected, got {table.dtype}")
        shape = tuple(table.shape)
        if len(shape) != 2 or shape[0] < max_requests:
            raise ArgumentError(f"out[{group}]: at least {max_requests} rows are needed, got {list(shape)}")
        contiguous = table.flags.c_contiguous if is_array else table.is_contiguous()
        if not contiguous or (is_array and not table.flags.aligned):
            raise ArgumentError(f"out[{group}]: a contiguous block table is expected")
        if is_array and not table.flags.writeable:
            raise ArgumentError(f"out[{group}]: the block table is read-only")
        begins.append((table.ctypes.data if is_array else table.data_ptr(), table.nbytes))
    begins.sort()
    for (begin, nbytes), (after, _) in pairwise(begins):
        if nbytes and begin + nbytes > after:
            raise ArgumentError("out: two of the block tables share memory; give each group its own")
    return np.array([table.shape[1] for table in tables], np.int64)


def write_tables(
    tables: Sequence[Any],
    store: BlockTableStore,
    table_ids: npt.NDArray[np.int64],
    rows: RowIds,
    starts: npt.NDArray[np.int64],
) -> None:
    """Write blocks that may have changed.

    Args:
        tables: As in `check_tables`.
        store: Where the blocks lie.
        table_ids: int64 [m, groups], rows of the store.
        rows: int64 [m], rows of the tables.
        starts: int64 [m, groups], first block that may have changed.

    Never waits for a device. O(blocks that changed).
    """
    for group, table in enumerate(tables):
        places, values = _changes(
            store.tables, store.ids, table_ids[:, group].copy(), rows, starts[:, group].copy(), table.shape[1]
        )
        if not len(places):
            continue
        if isinstance(table, np.ndarray):
            table.reshape(-1)[places] = values
        else:
            import torch

            where, what = torch.from_numpy(places), torch.from_numpy(values)
            if table.device.type != "cpu":
                where, what = (part.pin_memory().to(table.device, non_blocking=True) for part in (where, what))
            table.view(-1)[where] = what
