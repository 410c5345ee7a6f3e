"""What is known of one tracked request, as a record that compiled code reads."""

from typing import Any

import numpy as np
import numpy.typing as npt

from kvgpu._jit import jit

RowIds = npt.NDArray[np.int64]

ROW_RECORD = np.dtype(
    [("begin", "<i8"), ("end", "<i8"), ("limit", "<i8"), ("num_tokens", "<i8"),
     ("num_computed", "<i8"), ("num_prompt", "<i8"), ("serial", "<i8"), ("num_pending", "<i8"),
     ("place", "<i8"), ("reads", "?"), ("preempted", "?"), ("tracked", "?")], align=True,
)  # fmt: skip
"""begin, end: hashes in the arena; up to limit there is room for more. num_tokens, num_computed,
num_prompt: tokens of the request, those with slots, those of the prompt (-1: not known). serial: of its
block table in the first group, 0 while it holds none. num_pending: tokens that its request object has not
got yet. place: scratch of `gather`. reads: it may reuse cached blocks. preempted: its next lookup counts
as one after a preemption."""

UNTRACKED = 1
TWICE = 2


@jit
def gather(table: Any, rows: Any) -> Any:
    """What a lookup needs of these rows: int64 [3, n], first hash, hash after the last, longest hit.

    Also a status (0, UNTRACKED, TWICE) and the place of the first bad row.
    """
    spans = np.zeros((3, len(rows)), np.int64)
    for i in range(len(rows)):
        row = rows[i]
        if row < 0 or row >= len(table) or not table[row].tracked:
            return spans, UNTRACKED, i
        table[row].place = -1
    for i in range(len(rows)):
        record = table[rows[i]]
        if record.place >= 0:
            return spans, TWICE, i
        record.place = i
        spans[0, i] = record.begin
        spans[1, i] = record.end
        # At least one token is left to compute (fact 52).
        if record.reads and record.num_tokens > 0:
            spans[2, i] = record.num_tokens - 1
    return spans, 0, 0
