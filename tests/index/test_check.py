"""`check()` of every index: each way in which records and table can disagree is found."""

import signal
from contextlib import contextmanager

import numpy as np
import pytest
from support.indexes import every_backend, ids_of, insert, make_index, random_rows, rows_of_hash

from kvgpu.blocks.record import FIRST, HAS_HASH, IN_TABLE, ODD, SHARED
from kvgpu.errors import InvariantError
from kvgpu.layout import OVERFLOW_WORD, SLOTS_PER_BUCKET

GROUP = 5
ALARM_SECONDS = 2


@contextmanager
def has_to_end():
    """Interrupts what follows a broken ring for ever."""

    def give_up(*_):
        raise TimeoutError("check() does not end")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(ALARM_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def filled(backend):
    """Key A has blocks 1, 4 and 5, key B has 2 and 6, key C has 3; 7 to 11 are not in."""
    index = make_index(backend, 12)
    rows = random_rows(3)
    insert(index, range(1, 7), rows[[0, 1, 2, 0, 0, 1]], GROUP)
    return index


def set_flag(block, flag):
    def plant(records):
        records["flags"][block] |= flag

    return plant


def clear_flag(block, flag):
    def plant(records):
        records["flags"][block] &= ~np.int32(flag)

    return plant


def set_field(name, block, value):
    def plant(records):
        records[name][block] = value

    return plant


def join_rings(records):
    records["same_next"][4], records["same_next"][3] = 3, 5


RECORD_FAULTS = {
    "a first block that is no key of the table": set_flag(4, FIRST),
    "a key without a first block": clear_flag(3, FIRST),
    "a block that is marked as in the table": set_flag(9, IN_TABLE | HAS_HASH),
    "a block in a ring that is marked as out of the table": clear_flag(4, IN_TABLE),
    "a block in the table without a hash": clear_flag(3, HAS_HASH),
    "a block in the table with an odd hash": set_flag(3, ODD),
    "a key changed under a single block": set_field("k2", 3, 1),
    "a key changed under a first block": set_field("k2", 1, 1),
    "a key changed under a later block": set_field("k2", 4, 1),
    "a group changed under a single block": set_field("group", 3, 1),
    "a group changed under a first block": set_field("group", 1, 1),
    "a group changed under a later block": set_field("group", 4, 1),
    "a ring that leaves blocks out": set_field("same_next", 4, 1),
    "a ring that does not come back": set_field("same_next", 4, 4),
    "a ring that leads out of the pool": set_field("same_next", 4, 500),
    "a ring that is another one backwards": set_field("same_prev", 1, 4),
    "a ring of two keys": join_rings,
    "a later block that is not marked as shared": clear_flag(4, SHARED),
}


@every_backend
class TestCheck:
    def test_a_sound_index_passes(self, backend):
        filled(backend).check()

    @pytest.mark.parametrize("plant", RECORD_FAULTS.values(), ids=RECORD_FAULTS)
    def test_a_fault_in_the_records_is_found(self, backend, plant):
        index = filled(backend)
        plant(index.state.records)
        with pytest.raises(InvariantError), has_to_end():
            index.check()

    def test_all_faults_are_listed(self, backend):
        index = filled(backend)
        index.state.records["k2"][[3, 4]] = 1
        with pytest.raises(InvariantError, match=r"(?=.*block 3\b)(?=.*block 4\b)"):
            index.check()

    def test_a_table_that_was_emptied_is_found(self, backend):
        index = filled(backend)
        index.clear()
        with pytest.raises(InvariantError):
            index.check()

    def test_rebuilding_repairs_the_table(self, backend):
        index = filled(backend)
        index.clear()
        index.rebuild()
        index.check()


def first_entry(table):
    """A word of the table and where it lies."""
    buckets, slots = np.nonzero(table[:, :SLOTS_PER_BUCKET])
    return table[buckets[0], slots[0]], buckets[0], slots[0]


def free_slot(table, bucket):
    return bucket, np.flatnonzero(table[bucket, :SLOTS_PER_BUCKET] == 0)[0]


def change_tag(table):
    _, bucket, slot = first_entry(table)
    table[bucket, slot] ^= 1 << 40


def lose_word(table):
    _, bucket, slot = first_entry(table)
    table[bucket, slot] = 0


def add_word(table):
    table[free_slot(table, 0)] = 77 << 32 | 10


def double_word(table):
    word, bucket, _ = first_entry(table)
    table[free_slot(table, bucket)] = word


def move_word(table):
    word, bucket, slot = first_entry(table)
    table[bucket, slot] = 0
    table[free_slot(table, (bucket + 1) % len(table))] = word


def name_a_later_block(table):
    words = table[:, :SLOTS_PER_BUCKET]
    words[words & 0xFFFFFFFF == 1 + 1] += 4 - 1


def name_no_block(table):
    word, bucket, slot = first_entry(table)
    table[bucket, slot] = (word ^ 1 << 40) >> 32 << 32 | 1000


def count_too_many(table):
    table[1, OVERFLOW_WORD] += 1


TABLE_FAULTS = [
    change_tag,
    lose_word,
    add_word,
    double_word,
    move_word,
    name_a_later_block,
    name_no_block,
    count_too_many,
]


@pytest.mark.parametrize("plant", TABLE_FAULTS, ids=lambda plant: plant.__name__)
def test_a_fault_in_the_host_table_is_found(plant):
    index = filled("host")
    plant(index.table)
    with pytest.raises(InvariantError):
        index.check()


def test_an_overflow_that_was_not_counted_is_found():
    index = make_index("host", 30)
    insert(index, range(30), rows_of_hash(index, range(1, 31)))
    index.table[1, OVERFLOW_WORD] -= 1
    with pytest.raises(InvariantError, match="counter 0 of bucket 1 counts 15 overflows, has 16"):
        index.check()


def test_a_wrong_count_of_keys_is_found():
    index = filled("host")
    index._num_keys += 1
    with pytest.raises(InvariantError, match="4 keys are counted"):
        index.check()


def test_an_order_of_the_reference_that_is_not_that_of_the_records_is_found():
    index = filled("reference")
    next(iter(index._blocks.values())).reverse()
    with pytest.raises(InvariantError):
        index.check()


def test_a_block_that_the_reference_lost_is_found():
    index = filled("reference")
    next(iter(index._blocks.values())).remove(4)
    with pytest.raises(InvariantError):
        index.check()


def test_the_message_of_a_fault_names_the_block():
    index = filled("host")
    index.erase(ids_of(3))
    set_flag(3, IN_TABLE)(index.state.records)
    with pytest.raises(InvariantError, match="block 3 is in the table without a suitable hash"):
        index.check()
