"""Block tables that attention kernels read, int32 [rows, max_blocks], kept up to date in place."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from kvgpu._jit import jit
from kvgpu.batch.row_record import RowIds
from kvgpu.errors import ArgumentError, ArgumentTypeError
from kvgpu.table_store import BEGIN, LENGTH


@jit
def _changes(store_rows: Any, store_ids: Any, mine: Any, rows: Any, starts: Any, width: int) -> Any:
    """Places in a flat table of `width` columns that must be written, and what to write there."""
    total = 0
    for k in range(len(mine)):
        total += store_rows[mine[k], LENGTH] - starts[k]
    places = np.empty(total, np.int64)
    values = np.empty(total, np.int32)
    at = 0
    for k in range(len(mine)):
        begin = store_rows[mine[k], BEGIN]
        for block in range(starts[k], store_rows[mine[k], LENGTH]):
            places[at] = rows[k] * width + block
            values[at] = store_ids[begin + block]
            at += 1
    return places, values


def check_tables(
    tables: Sequence[Any], max_requests: int, num_groups: int
) -> npt.NDArray[np.int64]:
    """See that block tables can be written.

    Args:
        tables: One per group: a NumPy array or a torch tensor on any device.
        max_requests: Rows that there must be.
        num_groups: Groups.

    Returns:
        int64 [groups], columns that there are.

    Raises:
        ArgumentError: Their number or a shape does not fit, or one is not contiguous.
        ArgumentTypeError: One is not of int32.
    """
    if not isinstance(tables, list | tuple) or len(tables) != num_groups:
        raise ArgumentError(
            f"out: a sequence of {num_groups} block tables is expected, one per group"
        )
    for group, table in enumerate(tables):
        if not hasattr(table, "dtype") or str(table.dtype).removeprefix("torch.") != "int32":
            kind = getattr(table, "dtype", type(table).__name__)
            raise ArgumentTypeError(f"out[{group}]: an int32 block table is expected, got {kind}")
        shape = tuple(table.shape)
        if len(shape) != 2 or shape[0] < max_requests:
            raise ArgumentError(
                f"out[{group}]: at least {max_requests} rows are needed, got {list(shape)}"
            )
        contiguous = (
            table.flags.c_contiguous if isinstance(table, np.ndarray) else table.is_contiguous()
        )
        if not contiguous:
            raise ArgumentError(f"out[{group}]: a contiguous block table is expected")
    return np.array([table.shape[1] for table in tables], np.int64)


def write_tables(
    tables: Sequence[Any], store: Any, mine: npt.NDArray[np.int64], rows: RowIds,
    starts: npt.NDArray[np.int64],
) -> None:  # fmt: skip
    """Write what changed.

    Args:
        tables: As in `check_tables`.
        store: The `TableStore`.
        mine: int64 [m, groups], rows of the store.
        rows: int64 [m], rows of the tables.
        starts: int64 [m, groups], first block that may have changed.

    Never waits for a device. O(blocks that changed).
    """
    for group, table in enumerate(tables):
        places, values = _changes(
            store.rows, store.ids, mine[:, group].copy(), rows, starts[:, group].copy(),
            table.shape[1],
        )  # fmt: skip
        if not len(places):
            continue
        if isinstance(table, np.ndarray):
            table.reshape(-1)[places] = values
        else:
            import torch

            where, what = torch.from_numpy(places), torch.from_numpy(values)
            if table.device.type != "cpu":
                where, what = (
                    part.pin_memory().to(table.device, non_blocking=True) for part in (where, what)
                )
            table.view(-1)[where] = what
