"""Compiled entering of runs: blocks of a request one after the other, most of which need no word in the table.

A block that is the only one with its key can be *led*: the block before it, the first under its own key, names it as
its successor (LEADS), and no word of the table does. Every lookup of a prefix comes past the block before, so it finds
a led block as soon as one in the table, and neither entering nor erasing it touches a line of the table. That is
right only for hashes that say all that came before, so that a key never follows two others, and for lookups from the
first block on. For all else the blocks are *settled* first: they get their words. After that EAGER further entries go
to the table at once, twice as many each time, so that settling stays cheap however often it is needed.

Whether a key is in the table already is asked of the filter in the marks: a run of new blocks reads a few bytes of it
in place of buckets. Where the filter cannot rule it out the table is asked, before a block is given a word there: or
else each cell of the filter that is in use would draw every new block that falls into it to the table.
"""

from typing import Any

from kvgpu.blocks.marks import BROKEN, EAGER, NEXT_EAGER, NUM_LED, RING_MASK, may_hold, refuse_broken
from kvgpu.blocks.record import FIRST, HAS_HASH, IN_TABLE, LEADS, LED
from kvgpu.compiled.jit import AHEAD, jit, leaf, prefetch
from kvgpu.index.host.entries import enter_row, insert_all, settle_row, write_key
from kvgpu.index.host.table import bucket_of, find_first, hash_of_record, same_key
from kvgpu.index.journal import note
from kvgpu.index.slot_hash import slot_hash

ROOT, UNKNOWN = -1, -2
"""What stands before a run when no block does: nothing, since it begins the request, or a block that is not known."""


@leaf
def settle_all(records: Any, table: Any, seed: int, marks: Any) -> None:
    """Settle all led blocks: the table knows every key, and will know the next ones."""
    if marks[NUM_LED] > 0:
        for row in range(len(records) - 1):
            if records[row].flags & LED:
                settle_row(records, table, row, seed, marks)
        marks[EAGER] = max(marks[EAGER], marks[NEXT_EAGER])
        marks[NEXT_EAGER] *= 2


@jit
def settle(records: Any, table: Any, seed: int, marks: Any) -> None:
    """`settle_all` for Python."""
    settle_all(records, table, seed, marks)
    refuse_broken(marks)


@leaf
def first_like(records: Any, table: Any, row: int, seed: int) -> int:
    """The first block with the key of `row`; UNKNOWN if that is not in the index.

    Its ring is not followed, which may be as long as the pool: of several blocks with a key the first has a word.
    """
    record = records[row]
    if not record.flags & IN_TABLE:
        return UNKNOWN
    if record.flags & FIRST:
        return row
    h = hash_of_record(records, row, seed)
    k0, k1, k2, k3, group = record.k0, record.k1, record.k2, record.k3, record.group
    first = find_first(records, table, k0, k1, k2, k3, group, h)
    return first if first >= 0 else UNKNOWN


@leaf
def lead(records: Any, head: int, row: int, marks: Any) -> None:
    """Let `head` lead to `row`, a block with a key of its own."""
    records[row].flags = HAS_HASH | IN_TABLE | FIRST | LED
    records[row].same_prev = head
    records[row].same_next = row
    records[head].successor = row
    records[head].flags |= LEADS
    marks[NUM_LED] += 1


@leaf
def insert_run(
    records: Any, table: Any, ids: Any, rows: Any, before: int, group: int, seed: int, log: Any, marks: Any
) -> int:
    """`insert_all` for blocks that follow each other in a request, the first of them behind `before`, ROOT or UNKNOWN.

    Lines are loaded `AHEAD` rounds before they are needed; the ring in `marks` keeps slot hashes so long, 0 where
    the filter says that the table has nothing to find.
    """
    count = len(ids)
    head = first_like(records, table, before, seed) if before >= 0 else before
    if head == UNKNOWN:
        settle_all(records, table, seed, marks)
    if marks[EAGER] > 0:
        marks[EAGER] -= min(marks[EAGER], count)
        return insert_all(records, table, ids, rows, 1, group, 0, True, seed, log, marks)
    new_keys = 0
    for i in range(-AHEAD, count):
        far = i + AHEAD
        if far < count:
            prefetch(records, ids[far])
            h = 0
            if may_hold(marks, rows[far, 0], group):
                h = slot_hash(rows[far, 0], rows[far, 1], rows[far, 2], rows[far, 3], group, seed)
                prefetch(table, bucket_of(h, len(table)))
            marks[far & RING_MASK] = h
        if i < 0:
            continue
        row = ids[i]
        if records[row].flags & IN_TABLE:
            marks[BROKEN] = 1
            head = before = UNKNOWN
            continue
        k0, k1, k2, k3 = rows[i, 0], rows[i, 1], rows[i, 2], rows[i, 3]
        write_key(records, row, k0, k1, k2, k3, group)
        h = marks[i & RING_MASK]
        leads = head >= 0 and records[head].flags & LEADS != 0
        if head >= 0 and not leads and (h == 0 or find_first(records, table, k0, k1, k2, k3, group, h) < 0):
            lead(records, head, row, marks)
            note(log, k0, k1, k2, k3, group, -1, row)
            new_keys += 1
            head = row
        else:
            if leads and same_key(records[records[head].successor], k0, k1, k2, k3, group):
                settle_row(records, table, records[head].successor, seed, marks)
            if h == 0:
                h = slot_hash(k0, k1, k2, k3, group, seed)
            records[row].flags = HAS_HASH
            is_new = enter_row(records, table, row, k0, k1, k2, k3, group, h, True, log, marks)
            head = row if is_new else records[row].same_next
            new_keys += is_new
            if before >= 0 and not records[before].flags & LEADS:
                records[before].successor = head
        before = row
    return new_keys
