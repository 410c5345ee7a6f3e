"""Compiled entering and erasing of blocks: records, table, filter and journal together.

Each batch is one call from Python; what only compiled code calls is inlined.
"""

from typing import Any

import numpy as np

from kvgpu.blocks.marks import BROKEN, EAGER, FOR_GOOD, LEFT, NUM_LED, RING_MASK, count_key, refuse_broken, region_of
from kvgpu.blocks.record import COUNTED, FIRST, HAS_HASH, IN_TABLE, LEADS, LED, SHARED
from kvgpu.compiled.jit import AHEAD, jit, leaf, prefetch
from kvgpu.index.host.table import bucket_of, find_first, hash_of_record, put_word, swap_word, word_of
from kvgpu.index.journal import note
from kvgpu.index.slot_hash import slot_hash
from kvgpu.layout import EMPTY_WORD


@leaf
def is_linked(records: Any, row: int, after: int) -> bool:
    """Both are blocks, and `after` follows `row` in the ring of their key."""
    count = len(records) - 1
    return (
        0 <= row < count
        and 0 <= after < count
        and records[np.uint64(row)].same_next == after
        and records[np.uint64(after)].same_prev == row
    )


@leaf
def enter_row(
    records: Any,
    table: Any,
    row: int,
    k0: int,
    k1: int,
    k2: int,
    k3: int,
    group: int,
    h: int,
    counted: bool,
    log: Any,
    marks: Any,
) -> int:
    """Enter a block under the key of its record, of slot hash `h`; returns 1 if the key is new.

    A key that is led must have been settled; one that is not `counted` must never be asked for in a run (see
    `kvgpu.index.host.led_runs`).
    """
    record = records[row]
    head = find_first(records, table, k0, k1, k2, k3, group, h)
    if head < 0:
        record.flags |= IN_TABLE | FIRST
        if counted and marks[EAGER] < FOR_GOOD:
            record.flags |= COUNTED
            count_key(marks, k0, group, 1)
        record.same_prev = row
        record.same_next = row
        if not put_word(table, h, word_of(h, row)):
            marks[BROKEN] = 1
        note(log, k0, k1, k2, k3, group, -1, row)
        return 1
    tail = records[head].same_prev
    if not is_linked(records, tail, head):
        marks[BROKEN] = 1
        return 0
    record.flags |= IN_TABLE | SHARED
    record.same_prev = tail
    record.same_next = head
    records[tail].same_next = row
    records[head].same_prev = row
    records[head].flags |= SHARED
    return 0


@jit
def enter_one(records: Any, table: Any, row: int, seed: int, log: Any, marks: Any) -> int:
    """`enter_row` for Python."""
    record = records[row]
    k0, k1, k2, k3, group = record.k0, record.k1, record.k2, record.k3, record.group
    h = slot_hash(k0, k1, k2, k3, group, seed)
    new_keys = enter_row(records, table, row, k0, k1, k2, k3, group, h, True, log, marks)
    refuse_broken(marks)
    return new_keys


@leaf
def write_key(records: Any, row: int, k0: int, k1: int, k2: int, k3: int, group: int) -> None:
    """Write the key of a block that is not in; the flags are the caller's."""
    record = records[row]
    record.k0 = k0
    record.k1 = k1
    record.k2 = k2
    record.k3 = k3
    record.group = group


@leaf
def insert_all(
    records: Any,
    table: Any,
    ids: Any,
    rows: Any,
    stride: int,
    group: int,
    flags: int,
    counted: bool,
    seed: int,
    log: Any,
    marks: Any,
) -> int:
    """Write keys and enter blocks in order; returns the number of keys new to the table.

    Lines are loaded `AHEAD` rounds before they are needed; the ring in `marks` keeps slot hashes so long.
    """
    count = len(ids)
    new_keys = 0
    before = -1
    for i in range(-AHEAD, count):
        far = i + AHEAD
        if far < count and ids[far] >= 0:
            last = (far + 1) * stride - 1
            h = slot_hash(rows[last, 0], rows[last, 1], rows[last, 2], rows[last, 3], group, seed)
            marks[far & RING_MASK] = h
            prefetch(records, ids[far])
            prefetch(table, bucket_of(h, len(table)))
        if i < 0:
            continue
        row = ids[i]
        if row >= 0 and records[row].flags & IN_TABLE:
            marks[BROKEN] = 1
            row = -1
        if row >= 0:
            last = (i + 1) * stride - 1
            k0, k1, k2, k3 = rows[last, 0], rows[last, 1], rows[last, 2], rows[last, 3]
            write_key(records, row, k0, k1, k2, k3, group)
            records[row].flags = HAS_HASH | flags
            new_keys += enter_row(records, table, row, k0, k1, k2, k3, group, marks[i & RING_MASK], counted, log, marks)
            if before >= 0:
                records[before].successor = row
        before = row
    return new_keys


@jit
def insert_rows(
    records: Any, table: Any, ids: Any, rows: Any, stride: int, group: int, flags: int, seed: int, log: Any, marks: Any
) -> int:
    """`insert_all` for Python."""
    new_keys = insert_all(records, table, ids, rows, stride, group, flags, True, seed, log, marks)
    refuse_broken(marks)
    return new_keys


@leaf
def settle_row(records: Any, table: Any, row: int, seed: int, marks: Any) -> None:
    """Give a led block a word in the table."""
    record = records[row]
    records[record.same_prev].flags &= ~LEADS
    record.same_prev = row
    record.flags = (record.flags & ~LED) | COUNTED
    marks[NUM_LED] -= 1
    count_key(marks, record.k0, record.group, 1)
    h = hash_of_record(records, row, seed)
    if not put_word(table, h, word_of(h, row)):
        marks[BROKEN] = 1


@leaf
def leave_lead(records: Any, row: int, log: Any, marks: Any) -> None:
    """Take out a led block, whose key is lost; its flags are the caller's."""
    record = records[np.uint64(row)]
    records[np.uint64(record.same_prev)].flags &= ~LEADS
    marks[NUM_LED] -= 1
    marks[LEFT + region_of(marks, row)] += 1
    note(log, record.k0, record.k1, record.k2, record.k3, record.group, row, -1)


@leaf
def erase_row(records: Any, table: Any, row: int, h: int, forget: bool, seed: int, log: Any, marks: Any) -> int:
    """Take a block out, if it is in; returns 1 if the index lost its key.

    `h` is the slot hash of its key, or 0 where it is not known. A block whose ring or word is not as its record says
    stays, and the index is noted to be broken.
    """
    record = records[np.uint64(row)]
    flags = record.flags
    if not flags & IN_TABLE:
        return 0
    if flags & LEADS:
        settle_row(records, table, record.successor, seed, marks)
    lost_keys = 0
    if flags & LED:
        leave_lead(records, row, log, marks)
        lost_keys = 1
    else:
        before, after = record.same_prev, record.same_next
        alone = before == row and after == row
        if not alone and not (is_linked(records, before, row) and is_linked(records, row, after)):
            marks[BROKEN] = 1
            return 0
        if flags & FIRST:
            if h == 0:
                h = hash_of_record(records, row, seed)
            if not swap_word(table, h, word_of(h, row), EMPTY_WORD if alone else word_of(h, after)):
                marks[BROKEN] = 1
                return 0
            marks[LEFT + region_of(marks, row)] += 1
            k0, k1, k2, k3, group = record.k0, record.k1, record.k2, record.k3, record.group
            if alone:
                if flags & COUNTED:
                    count_key(marks, k0, group, -1)
                note(log, k0, k1, k2, k3, group, row, -1)
                lost_keys = 1
            else:
                records[np.uint64(after)].flags |= FIRST | (flags & COUNTED)
                note(log, k0, k1, k2, k3, group, row, after)
        if not alone:
            records[np.uint64(before)].same_next = after
            records[np.uint64(after)].same_prev = before
    record.flags = 0 if forget else flags & ~(IN_TABLE | FIRST | SHARED | LED | LEADS | COUNTED)
    return lost_keys


@leaf
def erase_all(records: Any, table: Any, ids: Any, forget: bool, seed: int, log: Any, marks: Any) -> int:
    """Take blocks out; returns the number of keys that the index lost.

    Records are loaded twice `AHEAD` rounds before they are needed, buckets `AHEAD` rounds.
    """
    count = len(ids)
    lost_keys = 0
    for i in range(-2 * AHEAD, count):
        if i + 2 * AHEAD < count:
            prefetch(records, ids[i + 2 * AHEAD])
        if 0 <= i + AHEAD < count:
            h = 0
            if not records[np.uint64(ids[i + AHEAD])].flags & LED:
                h = hash_of_record(records, ids[i + AHEAD], seed)
                prefetch(table, bucket_of(h, len(table)))
            marks[(i + AHEAD) & RING_MASK] = h
        if i >= 0:
            lost_keys += erase_row(records, table, ids[i], marks[i & RING_MASK], forget, seed, log, marks)
    return lost_keys


@jit
def erase_rows(records: Any, table: Any, ids: Any, forget: bool, seed: int, log: Any, marks: Any) -> int:
    """`erase_all` for Python."""
    lost_keys = erase_all(records, table, ids, forget, seed, log, marks)
    refuse_broken(marks)
    return lost_keys
