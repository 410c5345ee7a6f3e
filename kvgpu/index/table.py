"""Compiled operations on the open-addressing table: find, put, swap, and whole batches of them.

Layout: kvgpu/kernels/layout.py. A batch is one call from Python; what only compiled code calls is
inlined.
"""

from typing import Any

from kvgpu._jit import AHEAD, jit, lanes_equal, leaf, lowest_bit, prefetch
from kvgpu.blocks import FIRST, HAS_HASH, IN_TABLE, SHARED
from kvgpu.index.journal import note
from kvgpu.kernels.layout import (
    BUCKET_WORDS,
    EMPTY_WORD,
    HASH_MULTIPLIER,
    LOW_32,
    OVERFLOW_WORD,
    SLOTS_PER_BUCKET,
    TAG_SHIFT,
)
from kvgpu.marks import LEFT, RING_MASK, region_of

ALL_SLOTS = (1 << SLOTS_PER_BUCKET) - 1
assert BUCKET_WORDS == SLOTS_PER_BUCKET + 1 == 8  # the lanes that are compared at once


@leaf
def mix(h: int, word: int) -> int:
    """One round of the slot hash: multiply, and fold the high half onto the low one."""
    h = (h ^ word) * HASH_MULTIPLIER
    return h ^ ((h >> 32) & LOW_32)


@leaf
def slot_hash(k0: int, k1: int, k2: int, k3: int, group: int, seed: int) -> int:
    """Where a key lives: the high half chooses the bucket, the low half is the tag.

    Seeded per process, so that nobody outside can aim at one bucket.
    """
    return mix(mix(mix(mix(mix(seed, k0), k1), k2), k3), group)


@leaf
def bucket_of(h: int, num_buckets: int) -> int:
    """Primary bucket: the high half scaled to the number of buckets."""
    return (((h >> 32) & LOW_32) * num_buckets) >> 32


@leaf
def word_of(h: int, row: int) -> int:
    """The word of an entry: tag and block id in one."""
    return ((h & LOW_32) << TAG_SHIFT) | (row + 1)


@leaf
def same_key(record: Any, k0: int, k1: int, k2: int, k3: int, group: int) -> Any:
    """All 32 bytes and the group are equal: tags only steer."""
    return (
        record.k0 == k0
        and record.k1 == k1
        and record.k2 == k2
        and record.k3 == k3
        and record.group == group
    )


@leaf
def slots_with(table: Any, bucket: int, value: int, shift: int) -> int:
    """Mask of the slots of a bucket whose word, shifted right by `shift`, is `value`."""
    return lanes_equal(table, bucket, value, shift) & ALL_SLOTS


@leaf
def slots_of_tag(table: Any, bucket: int, tag: int) -> int:
    """Mask of the slots of a bucket with this tag; an empty one has tag 0 and does not count."""
    found = slots_with(table, bucket, tag, TAG_SHIFT)
    return found if tag != 0 else found & ~slots_with(table, bucket, EMPTY_WORD, 0)


@leaf
def find_first(
    records: Any, table: Any, k0: int, k1: int, k2: int, k3: int, group: int, h: int
) -> Any:
    """Id of the first block under a key, or -1."""
    num_buckets = len(table)
    bucket = bucket_of(h, num_buckets)
    for _ in range(num_buckets):
        found = slots_of_tag(table, bucket, h & LOW_32)
        while found:
            row = (table[bucket, lowest_bit(found)] & LOW_32) - 1
            if same_key(records[row], k0, k1, k2, k3, group):
                return row
            found &= found - 1
        if table[bucket, OVERFLOW_WORD] == 0:
            return -1
        bucket += 1
        if bucket == num_buckets:
            bucket = 0
    return -1


@leaf
def put_word(table: Any, h: int, word: int) -> None:
    """Store a word in the first free slot from the primary bucket on."""
    num_buckets = len(table)
    bucket = bucket_of(h, num_buckets)
    while True:
        empty = slots_with(table, bucket, EMPTY_WORD, 0)
        if empty:
            table[bucket, lowest_bit(empty)] = word
            return
        table[bucket, OVERFLOW_WORD] += 1
        bucket += 1
        if bucket == num_buckets:
            bucket = 0


@leaf
def swap_word(table: Any, h: int, word: int, replacement: int) -> None:
    """Replace the exact word; EMPTY_WORD takes it out and uncounts it where it overflowed."""
    num_buckets = len(table)
    bucket = bucket_of(h, num_buckets)
    for _ in range(num_buckets):
        found = slots_with(table, bucket, word, 0)
        if found:
            table[bucket, lowest_bit(found)] = replacement
            return
        if replacement == EMPTY_WORD:
            table[bucket, OVERFLOW_WORD] -= 1
        bucket += 1
        if bucket == num_buckets:
            bucket = 0


@leaf
def enter_row(
    records: Any, table: Any, row: int, k0: int, k1: int, k2: int, k3: int, group: int, h: int,
    log: Any,
) -> int:  # fmt: skip
    """Enter a block under the key of its record, of slot hash `h`; returns 1 if the key is new."""
    record = records[row]
    head = find_first(records, table, k0, k1, k2, k3, group, h)
    if head < 0:
        record.flags |= IN_TABLE | FIRST
        record.same_prev = row
        record.same_next = row
        put_word(table, h, word_of(h, row))
        note(log, k0, k1, k2, k3, group, -1, row)
        return 1
    tail = records[head].same_prev
    record.flags |= IN_TABLE | SHARED
    record.same_prev = tail
    record.same_next = head
    records[tail].same_next = row
    records[head].same_prev = row
    records[head].flags |= SHARED
    return 0


@jit
def enter_one(records: Any, table: Any, row: int, seed: int, log: Any) -> int:
    """`enter_row` for Python."""
    record = records[row]
    k0, k1, k2, k3, group = record.k0, record.k1, record.k2, record.k3, record.group
    h = slot_hash(k0, k1, k2, k3, group, seed)
    return enter_row(records, table, row, k0, k1, k2, k3, group, h, log)


@leaf
def insert_all(
    records: Any, table: Any, ids: Any, rows: Any, stride: int, group: int, flags: int, seed: int,
    log: Any, marks: Any,
) -> int:  # fmt: skip
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
        if row >= 0:
            record = records[row]
            last = (i + 1) * stride - 1
            k0, k1, k2, k3 = rows[last, 0], rows[last, 1], rows[last, 2], rows[last, 3]
            record.k0 = k0
            record.k1 = k1
            record.k2 = k2
            record.k3 = k3
            record.group = group
            if record.flags & FIRST:
                # Somebody has reset the hash of a block that was in.
                marks[LEFT + region_of(marks, row)] += 1
            record.flags = HAS_HASH | flags
            new_keys += enter_row(
                records, table, row, k0, k1, k2, k3, group, marks[i & RING_MASK], log
            )
            if before >= 0:
                records[before].successor = row
        before = row
    return new_keys


@jit
def insert_rows(
    records: Any, table: Any, ids: Any, rows: Any, stride: int, group: int, flags: int, seed: int,
    log: Any, marks: Any,
) -> int:  # fmt: skip
    """`insert_all` for Python."""
    return insert_all(records, table, ids, rows, stride, group, flags, seed, log, marks)


@leaf
def erase_row(
    records: Any, table: Any, row: int, h: int, forget: bool, log: Any, marks: Any
) -> int:
    """Take a block of slot hash `h` out, if it is in; returns 1 if the table lost its key."""
    record = records[row]
    flags = record.flags
    if not flags & IN_TABLE:
        return 0
    lost_keys = 0
    after = record.same_next
    if flags & FIRST:
        marks[LEFT + region_of(marks, row)] += 1
        k0, k1, k2, k3, group = record.k0, record.k1, record.k2, record.k3, record.group
        if after == row:
            swap_word(table, h, word_of(h, row), EMPTY_WORD)
            note(log, k0, k1, k2, k3, group, row, -1)
            lost_keys = 1
        else:
            swap_word(table, h, word_of(h, row), word_of(h, after))
            records[after].flags |= FIRST
            note(log, k0, k1, k2, k3, group, row, after)
    before = record.same_prev
    records[before].same_next = after
    records[after].same_prev = before
    record.flags = 0 if forget else flags & ~(IN_TABLE | FIRST | SHARED)
    return lost_keys


@leaf
def hash_of_record(records: Any, row: int, seed: int) -> int:
    """`slot_hash` of the key that a record holds."""
    record = records[row]
    return slot_hash(record.k0, record.k1, record.k2, record.k3, record.group, seed)


@leaf
def erase_all(
    records: Any, table: Any, ids: Any, forget: bool, seed: int, log: Any, marks: Any
) -> int:
    """Take blocks out; returns the number of keys that the table lost.

    Records are loaded twice `AHEAD` rounds before they are needed, buckets `AHEAD` rounds.
    """
    count = len(ids)
    lost_keys = 0
    for i in range(-2 * AHEAD, count):
        if i + 2 * AHEAD < count:
            prefetch(records, ids[i + 2 * AHEAD])
        if 0 <= i + AHEAD < count:
            h = hash_of_record(records, ids[i + AHEAD], seed)
            marks[(i + AHEAD) & RING_MASK] = h
            prefetch(table, bucket_of(h, len(table)))
        if i >= 0:
            lost_keys += erase_row(records, table, ids[i], marks[i & RING_MASK], forget, log, marks)
    return lost_keys


@jit
def erase_rows(
    records: Any, table: Any, ids: Any, forget: bool, seed: int, log: Any, marks: Any
) -> int:
    """`erase_all` for Python."""
    return erase_all(records, table, ids, forget, seed, log, marks)


@jit
def first_of(records: Any, table: Any, words: Any, group: int, seed: int) -> int:
    """`find_first` for Python."""
    k0, k1, k2, k3 = words[0], words[1], words[2], words[3]
    h = slot_hash(k0, k1, k2, k3, group, seed)
    found: int = find_first(records, table, k0, k1, k2, k3, group, h)
    return found


@jit
def hash_of(words: Any, group: int, seed: int) -> int:
    """`slot_hash` for Python."""
    return slot_hash(words[0], words[1], words[2], words[3], group, seed)
