"""What is known of one tracked request, as a record that compiled code reads."""

from typing import Any

import numpy as np
import numpy.typing as npt

from kvgpu.compiled.jit import jit, leaf
from kvgpu.errors import ArgumentError

RowIds = npt.NDArray[np.int64]
"""Rows of tracked requests, int64 [n]."""

REQUEST_RECORD = np.dtype(
    [
        # Serial number of the request's block table in the first group; 0 while the request holds no blocks.
        ("serial", "<i8"),
        # Stamp of the last `check_row`.
        ("stamp", "<i8"),
        # Address of the request's own array of hashes, from which the row reads them; 0 if they are in the arena.
        ("borrowed", "<i8"),
        # The hashes: places in the arena, or in the request's own array.
        ("begin", "<i4"),
        ("end", "<i4"),
        # Tokens of the request, tokens that have slots, and tokens of the prompt (-1: not known).
        ("num_tokens", "<i4"),
        ("num_computed", "<i4"),
        ("num_prompt", "<i4"),
        # Tokens that the request object does not have yet.
        ("num_pending", "<i4"),
        # Tokens before the pending ones that the request object has, back to the last block whose hash it has.
        ("num_kept", "<i4"),
        # Hashes that the request object does not have yet.
        ("num_ahead", "<i4"),
        # Number of tokens up to which the request needs nothing of any group, as its block table said when the row was
        # last served; single calls made since can only raise it.
        ("covered", "<i4"),
        # How full blocks are hashed: UNDECIDED, FROM_ROW or BY_REQUEST.
        ("mode", "i1"),
        # Whether the request may reuse cached blocks.
        ("reads", "?"),
        # Whether the next lookup counts as one after a preemption.
        ("preempted", "?"),
        ("tracked", "?"),
    ],
    align=True,
)
"""One row: 64 bytes, a cache line of the processor."""

UNDECIDED = 0
"""Nobody has looked yet how the blocks of this row can be hashed."""
FROM_ROW = 1
"""Full blocks are hashed from the tokens that the row keeps."""
BY_REQUEST = 2
"""The request object hashes its full blocks."""

UNTRACKED = 1
"""Status of `check_row`: no request has this row."""
REPEATED = 2
"""Status of `check_row`: the row occurs twice in one batch."""


@leaf
def check_row(requests: Any, row: int, stamp: int) -> int:
    """Return 0, UNTRACKED or REPEATED; each batch must use a `stamp` that no batch before it used."""
    if row < 0 or row >= len(requests) or not requests[row].tracked:
        return UNTRACKED
    if requests[row].stamp == stamp:
        return REPEATED
    requests[row].stamp = stamp
    return 0


def row_error(status: int, row: int) -> ArgumentError:
    """Make the error for a status of `check_row`. O(1)."""
    reason = "is not tracked" if status == UNTRACKED else "comes twice in one batch"
    return ArgumentError(f"row {row} {reason}")


def longer(array: npt.NDArray[Any], count: int) -> npt.NDArray[Any]:
    """Copy an array and append zeros, up to at least `count` items of the first dimension. O(result)."""
    made = np.zeros((max(count, len(array)), *array.shape[1:]), array.dtype)
    made[: len(array)] = array
    return made


@jit
def check_rows(requests: Any, rows: Any, stamp: int) -> Any:
    """Return status and place of the first bad row, or (0, 0)."""
    for i in range(len(rows)):
        status = check_row(requests, rows[i], stamp)
        if status != 0:
            return status, i
    return 0, 0


@leaf
def stays_inside(record: Any, num_main: int, num_lookahead: int) -> bool:
    """Return whether a row that holds blocks needs nothing of any group for `num_main` tokens and drafts after them."""
    return bool(num_main + num_lookahead <= record.covered)


@leaf
def longest_hit(record: Any) -> int:
    """Return the longest hit allowed, in tokens: at least one token must remain to be computed (fact 52)."""
    return int(record.num_tokens - 1) if record.reads and record.num_tokens > 0 else 0


@jit
def write_spans(requests: Any, rows: Any, stamp: int, spans: Any) -> int:
    """Write the spans of rows until one is bad; return 0, or that row's status + 4 * its place.

    Args:
        stamp: See `check_row`.
        spans: Words of a `RequestSpans`.
    """
    capacity = len(spans) // 4
    for i in range(len(rows)):
        status = check_row(requests, rows[i], stamp)
        if status != 0:
            return status + 4 * i
        record = requests[rows[i]]
        spans[i] = record.begin
        spans[capacity + i] = record.end
        spans[2 * capacity + i] = longest_hit(record)
        spans[3 * capacity + i] = record.borrowed
    return 0


NUM_HASHES, NUM_TOKENS, NUM_PROMPT, NUM_COMPUTED, NUM_PREEMPTIONS, READS, FACTS = range(7)
"""Facts of a request as `kvgpu.batch.rows.request_facts` reads them, in order; FACTS: how many there are."""


@jit
def enter_rows(arrays: Any, rows: Any, facts: Any, places: Any) -> None:
    """Fill rows whose records are all zeros.

    Args:
        arrays: Records, int32 [rows] limits of the pieces in the arena, and int64 [rows, MEMO_WORDS] memo.
        facts: int64 [FACTS, n], what the requests say of themselves.
        places: int64 [n], addresses of hashes that requests lend; the address that stands for none; and int64
            [any, 3], a piece (begin, end, limit) of the arena for each request that has none.
    """
    requests, limits, memo = arrays
    borrowed, not_borrowed, pieces = places
    piece = 0
    for i in range(len(rows)):
        record = requests[rows[i]]
        limit = 0
        if borrowed[i] == not_borrowed:
            record.begin, record.end, limit = pieces[piece, 0], pieces[piece, 1], pieces[piece, 2]
            piece += 1
        else:
            record.borrowed = borrowed[i]
            record.end = facts[NUM_HASHES, i]
        limits[rows[i]] = limit
        record.num_tokens = facts[NUM_TOKENS, i]
        record.num_prompt = facts[NUM_PROMPT, i]
        record.num_computed = facts[NUM_COMPUTED, i]
        record.reads = facts[READS, i] != 0
        record.preempted = facts[NUM_PREEMPTIONS, i] > 0
        record.tracked = True
        memo[rows[i]] = 0


@jit
def leave_rows(requests: Any, limits: Any, rows: Any, empty: Any) -> Any:
    """Set rows to the first record of `empty`; return begins and limits of their pieces in the arena, int64 [2, n]."""
    pieces = np.empty((2, len(rows)), np.int64)
    for i in range(len(rows)):
        pieces[0, i] = requests[rows[i]].begin
        pieces[1, i] = limits[rows[i]]
        requests[rows[i]] = empty[0]
        limits[rows[i]] = 0
    return pieces
