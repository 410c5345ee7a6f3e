"""Compiled counts of blocks that the pool handed out to callers without a block table."""

from typing import Any

from kvgpu.compiled.jit import jit


@jit
def hand_out(uses: Any, ids: Any, null_id: int, last: Any, call: int) -> None:
    """Count one use more of each block that the pool hands out to somebody without a block table.

    `last` int64 [1] tells in which call that was done last.
    """
    for i in range(len(ids)):
        if ids[i] != null_id:
            uses[ids[i]] += 1
    last[0] = call


@jit
def hand_back(uses: Any, ids: Any, null_id: int) -> int:
    """Count one use less of each block; place of the first that has none, and nothing is changed then, else -1."""
    for i in range(len(ids)):
        if ids[i] == null_id:
            continue
        if uses[ids[i]] == 0:
            for j in range(i):
                if ids[j] != null_id:
                    uses[ids[j]] += 1
            return i
        uses[ids[i]] -= 1
    return -1
