"""Whether a table on a device holds the keys that the host's records say."""

import numpy as np

from kvgpu.blocks.record import FIRST
from kvgpu.blocks.state import BlockState
from kvgpu.device.block_hash_table import BlockHashTable


def differences(table: BlockHashTable, state: BlockState) -> list[str]:
    """Describe what differs between the entries of a table and the first blocks of keys. Waits. O(num_blocks)."""
    keys, groups, ids = (part.cpu().numpy() for part in table.items())
    records = state.records[:-1]
    expected = np.flatnonzero(records["flags"] & FIRST)
    if not np.array_equal(ids, expected):
        return ["the device has other first blocks than the host"]
    stored = np.ascontiguousarray(records.view(np.int64).reshape(len(records), -1)[ids])
    same = (keys.view(np.int64) == stored[:, : keys.shape[1] // 8]).all(axis=1)
    same &= groups == records["group"][ids]
    return [f"the device has another key or group for block {bad}" for bad in ids[~same]]
