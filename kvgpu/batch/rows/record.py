"""What is known of one tracked request, as a record that compiled code reads."""

from typing import Any

import numpy as np
import numpy.typing as npt

from kvgpu.compiled.jit import jit, leaf

RowIds = npt.NDArray[np.int64]

ROW_RECORD = np.dtype(
    [
        ("serial", "<i8"),
        ("stamp", "<i8"),
        ("lent", "<i8"),
        ("begin", "<i4"),
        ("end", "<i4"),
        ("num_tokens", "<i4"),
        ("num_computed", "<i4"),
        ("num_prompt", "<i4"),
        ("num_pending", "<i4"),
        ("num_kept", "<i4"),
        ("num_ahead", "<i4"),
        ("quiet", "<i4"),
        ("way", "i1"),
        ("reads", "?"),
        ("preempted", "?"),
        ("tracked", "?"),
    ],
    align=True,
)
"""64 bytes, as a line of the processor's cache. begin, end: hashes in the arena, or, where lent is not 0, at that
address, which belongs to the request. num_tokens, num_computed, num_prompt: tokens of the request, those with slots,
those of the prompt (-1: not known). serial: of its block table in the first group, 0 while it holds none. quiet:
tokens up to which it needs nothing of any group, as its table said when the row was last served: at most what is true
after single calls. num_pending, num_ahead: tokens and hashes that its request object has not got yet. num_kept:
tokens in front of the pending ones that it has got, back to the last block of which it has the hash. way: how blocks
are hashed, see below. stamp: of the last `check_row`. reads: it may reuse cached blocks. preempted: its next lookup
counts as one after a preemption."""

UNDECIDED, FROM_ROW, BY_REQUEST = 0, 1, 2
"""Ways to hash what a row fills: not asked yet, from the tokens that the row keeps, by its request object."""

UNTRACKED = 1
TWICE = 2


@leaf
def check_row(table: Any, row: int, stamp: int) -> int:
    """0, UNTRACKED or TWICE; `stamp` must differ from that of every batch before."""
    if row < 0 or row >= len(table) or not table[row].tracked:
        return UNTRACKED
    if table[row].stamp == stamp:
        return TWICE
    table[row].stamp = stamp
    return 0


def longer(array: npt.NDArray[Any], count: int) -> npt.NDArray[Any]:
    """A copy with zeros behind it, at least `count` items of the first dimension in all. O(result)."""
    made = np.zeros((max(count, len(array)), *array.shape[1:]), array.dtype)
    made[: len(array)] = array
    return made


@jit
def check_rows(table: Any, rows: Any, stamp: int) -> Any:
    """Status and place of the first bad row."""
    for i in range(len(rows)):
        status = check_row(table, rows[i], stamp)
        if status != 0:
            return status, i
    return 0, 0


@leaf
def longest_hit(record: Any) -> int:
    """Longest hit allowed, in tokens: at least one is left to compute (fact 52)."""
    return int(record.num_tokens - 1) if record.reads and record.num_tokens > 0 else 0


@jit
def spans_of(table: Any, rows: Any) -> Any:
    """First hash, hash after the last, longest hit allowed and `lent` of each row: int64 [4, n]."""
    spans = np.empty((4, len(rows)), np.int64)
    for i in range(len(rows)):
        record = table[rows[i]]
        spans[0, i] = record.begin
        spans[1, i] = record.end
        spans[2, i] = longest_hit(record)
        spans[3, i] = record.lent
    return spans


@jit
def enter_rows(
    table: Any, limits: Any, memo: Any, rows: Any, numbers: Any, lent: Any, not_lent: int, pieces: Any
) -> None:
    """Fill rows, all of whose records are zeros.

    Args:
        numbers: int64 [6, n], of each request hashes, tokens, those of its prompt, those with slots, whether it may
            reuse blocks, and whether its next lookup counts as one after a preemption.
        lent: int64 [n], where its hashes lie; `not_lent` for those that have a piece (begin, end, limit) of the arena
            instead, int64 [any, 3].
    """
    piece = 0
    for i in range(len(rows)):
        record = table[rows[i]]
        limit = 0
        if lent[i] == not_lent:
            record.begin, record.end, limit = pieces[piece, 0], pieces[piece, 1], pieces[piece, 2]
            piece += 1
        else:
            record.lent = lent[i]
            record.end = numbers[0, i]
        limits[rows[i]] = limit
        record.num_tokens = numbers[1, i]
        record.num_prompt = numbers[2, i]
        record.num_computed = numbers[3, i]
        record.reads = numbers[4, i] != 0
        record.preempted = numbers[5, i] != 0
        record.tracked = True
        memo[rows[i]] = 0


@jit
def leave_rows(table: Any, limits: Any, rows: Any, empty: Any) -> Any:
    """Let rows be like the first of `empty`; begins and limits of their pieces of the arena, int64 [2, n]."""
    pieces = np.empty((2, len(rows)), np.int64)
    for i in range(len(rows)):
        pieces[0, i] = table[rows[i]].begin
        pieces[1, i] = limits[rows[i]]
        table[rows[i]] = empty[0]
        limits[rows[i]] = 0
    return pieces
