"""Compiled operations on the open-addressing table: find, put and swap one word.

The table is int64 [buckets, BUCKET_WORDS]; kvgpu/layout.py states its layout.
"""

from typing import Any

import numpy as np

from kvgpu.compiled.jit import jit, lanes_equal, leaf, lowest_bit
from kvgpu.index.key import Key, has_key, key_of
from kvgpu.index.slot_hash import slot_hash
from kvgpu.layout import (
    BUCKET_WORDS,
    EMPTY_WORD,
    LOW_32,
    OVERFLOW_BITS,
    OVERFLOW_COUNTERS,
    OVERFLOW_FULL,
    OVERFLOW_SHIFT,
    OVERFLOW_WORD,
    SLOTS_PER_BUCKET,
    TAG_SHIFT,
)

ALL_SLOTS = (1 << SLOTS_PER_BUCKET) - 1
assert BUCKET_WORDS == SLOTS_PER_BUCKET + 1 == 8  # the lanes that are compared at once


@leaf
def bucket_of(h: int, num_buckets: int) -> int:
    """Primary bucket: the high half scaled to the number of buckets."""
    return (((h >> 32) & LOW_32) * num_buckets) >> 32


@leaf
def word_of(h: int, block_id: int) -> int:
    """The word of an entry: tag and block id in one."""
    return ((h & LOW_32) << TAG_SHIFT) | (block_id + 1)


@leaf
def counter_of(h: int) -> int:
    """Return which counter of a header counts entries of this slot hash."""
    return (h >> OVERFLOW_SHIFT) & (OVERFLOW_COUNTERS - 1)


@leaf
def has_overflowed(table: Any, bucket: int, h: int) -> bool:
    """Whether a bucket counts entries that went past it and are counted together with slot hash `h`."""
    # Unsigned, so that compiled code does not test whether the index counts from the end.
    header = table[np.uint64(bucket), np.uint64(OVERFLOW_WORD)]
    counter: int = (header >> (OVERFLOW_BITS * counter_of(h))) & OVERFLOW_FULL
    return counter != 0


@leaf
def count_overflow(table: Any, bucket: int, h: int, change: int) -> None:
    """Add `change` to the counter of slot hash `h` in the header of a bucket; one that is full stays full."""
    header = table[np.uint64(bucket), np.uint64(OVERFLOW_WORD)]
    place = OVERFLOW_BITS * counter_of(h)
    if (header >> place) & OVERFLOW_FULL != OVERFLOW_FULL:
        table[np.uint64(bucket), np.uint64(OVERFLOW_WORD)] = header + (change << place)


@leaf
def slots_with(table: Any, bucket: int, value: int, shift: int) -> int:
    """Mask of the slots of a bucket whose word, shifted right by `shift`, is `value`."""
    return lanes_equal(table, bucket, value, shift) & ALL_SLOTS


@leaf
def slots_of_tag(table: Any, bucket: int, tag: int) -> int:
    """Mask of the slots of a bucket with this tag."""
    return slots_with(table, bucket, tag, TAG_SHIFT)


@leaf
def find_first(records: Any, table: Any, key: Key, h: int) -> Any:
    """Return the id of the first block under a key of slot hash `h`, or -1."""
    num_buckets = len(table)
    bucket = bucket_of(h, num_buckets)
    for _ in range(num_buckets):
        found = slots_of_tag(table, bucket, h & LOW_32)
        while found:
            block_id = (table[np.uint64(bucket), np.uint64(lowest_bit(found))] & LOW_32) - 1
            if has_key(records[np.uint64(block_id)], key):
                return block_id
            found &= found - 1
        if not has_overflowed(table, bucket, h):
            return -1
        bucket += 1
        if bucket == num_buckets:
            bucket = 0
    return -1


@leaf
def put_word(table: Any, h: int, word: int) -> bool:
    """Store a word in the first free slot, from the primary bucket of slot hash `h` on; False if no slot is free."""
    num_buckets = len(table)
    bucket = bucket_of(h, num_buckets)
    for _ in range(num_buckets):
        empty = slots_with(table, bucket, EMPTY_WORD, 0)
        if empty:
            table[bucket, lowest_bit(empty)] = word
            return True
        count_overflow(table, bucket, h, 1)
        bucket += 1
        if bucket == num_buckets:
            bucket = 0
    return False


@leaf
def swap_word(table: Any, h: int, word: int, replacement: int) -> bool:
    """Replace exactly this word; EMPTY_WORD takes it out and uncounts it in the buckets that it had passed.

    Returns False, with nothing changed, if the table does not hold the word.
    """
    num_buckets = len(table)
    bucket = bucket_of(h, num_buckets)
    for passed in range(num_buckets):
        found = slots_with(table, bucket, word, 0)
        if found:
            # Unsigned, so that compiled code does not test whether the index counts from the end.
            table[np.uint64(bucket), np.uint64(lowest_bit(found))] = replacement
            if replacement == EMPTY_WORD:
                for _ in range(passed):
                    bucket = (bucket if bucket > 0 else num_buckets) - 1
                    count_overflow(table, bucket, h, -1)
            return True
        bucket += 1
        if bucket == num_buckets:
            bucket = 0
    return False


def counters(headers: Any) -> Any:
    """Return the counters of headers, int64 [n, OVERFLOW_COUNTERS]."""
    return headers[:, None] >> OVERFLOW_BITS * np.arange(OVERFLOW_COUNTERS) & OVERFLOW_FULL


@leaf
def hash_of_record(records: Any, block_id: int, seed: int) -> int:
    """Compute the slot hash of the key that a record holds."""
    h: int = slot_hash(key_of(records[np.uint64(block_id)]), seed)
    return h


@jit
def first_of(records: Any, table: Any, words: Any, group: int, seed: int) -> int:
    """`find_first` for Python."""
    key = Key(words[0], words[1], words[2], words[3], group)
    found: int = find_first(records, table, key, slot_hash(key, seed))
    return found


@jit
def hash_of(words: Any, group: int, seed: int) -> int:
    """`slot_hash` for Python."""
    h: int = slot_hash(Key(words[0], words[1], words[2], words[3], group), seed)
    return h
