"""Overflow counters of a table on a device: each counts entries of its own tags, and one that is full stays full."""

import numpy as np
import pytest
from support.device.tables import every_engine, ids, make_table, to_device
from support.slot_hashes import crowd, key_of_hash

from kvgpu.errors import InvariantError
from kvgpu.index.host.table import counters
from kvgpu.layout import OVERFLOW_COUNTERS, OVERFLOW_FULL, OVERFLOW_SHIFT, OVERFLOW_WORD, SLOTS_PER_BUCKET

SEED = 12345
CROWD = 270
"""More than a counter can count, and the seven that fit into the first bucket."""


def hash_in(bucket, num_buckets, counter):
    """A slot hash that leads to a bucket and is counted in a counter."""
    return (((bucket << 32) + (1 << 31)) // num_buckets << 32) | counter << OVERFLOW_SHIFT | 1


def counted(table):
    return counters(table.view.words[:, OVERFLOW_WORD].cpu().numpy())


def header_of(counts):
    """A header with these counters, as a signed word."""
    return int(np.array(counts, np.uint8).view(np.int64)[0])


def expect_exactly(table, keys, entered):
    """Keys that were entered are found, the others are not, and everything agrees."""
    assert table.find(keys).tolist() == [i if i in entered else -1 for i in range(len(keys))]
    table.check()


@every_engine
class TestOverflow:
    def test_a_crowd_of_one_slot_hash_fills_a_counter_which_stays_full_until_the_table_is_made_anew(self, engine):
        table = make_table(CROWD, engine=engine, seed=SEED)
        keys = to_device(crowd(SEED, hash_in(5, table.view.num_buckets, 3), CROWD))
        every, none = ids(*range(CROWD)), ids(*[-1] * CROWD)
        table.update_async(keys, every, old=none, validate=False)
        expect_exactly(table, keys, set(range(CROWD)))
        full = counted(table) == OVERFLOW_FULL
        assert full[5].tolist() == [counter == 3 for counter in range(OVERFLOW_COUNTERS)]
        order = np.random.default_rng(0).permutation(CROWD)
        for part in np.split(order, [CROWD // 2]):
            table.update_async(keys[part], none[part], old=every[part], validate=False)
            assert (counted(table)[full] == OVERFLOW_FULL).all()
            expect_exactly(table, keys, set(order[CROWD // 2 :]) - set(part))
        assert (counted(table) == np.where(full, OVERFLOW_FULL, 0)).all()
        table.rebuild(keys[:10], every[:10])
        assert counted(table).sum() == counted(table)[5, 3] == 10 - SLOTS_PER_BUCKET
        table.check()

    @pytest.mark.parametrize("counter", [0, 7])
    def test_no_change_touches_a_header_in_which_all_counters_are_full(self, engine, counter):
        """Such a header is -1; lanes that wait meanwhile exchange words, too."""
        table = make_table(40, engine=engine, seed=SEED)
        keys = to_device(crowd(SEED, hash_in(2, table.view.num_buckets, counter), 40))
        table.view.words[2, OVERFLOW_WORD] = -1
        table.update(keys, ids(*range(40)))
        expect_exactly(table, keys, set(range(40)))
        table.update(keys, ids(*[-1] * 40))
        expect_exactly(table, keys, set())
        assert table.view.words[2, OVERFLOW_WORD] == -1
        table.clear()
        assert not table.view.words.any()

    @pytest.mark.parametrize("counter", range(OVERFLOW_COUNTERS))
    def test_a_search_goes_on_only_if_an_entry_of_its_own_counter_went_past(self, engine, counter):
        """The word lies one bucket further than the counters say: who looks there finds it."""
        table = make_table(40, engine=engine, seed=SEED)
        words, last = table.view.words, table.view.num_buckets - 1
        key = to_device(key_of_hash(SEED, hash_in(last, last + 1, counter), [0, 0, 0, 0]))[None]
        table.update(key, ids(0))
        words[0, :SLOTS_PER_BUCKET], words[last, :SLOTS_PER_BUCKET] = words[last, :SLOTS_PER_BUCKET].clone(), 0
        assert table.find(key).tolist() == [-1]
        own = np.arange(OVERFLOW_COUNTERS) == counter
        words[last, OVERFLOW_WORD] = header_of(np.where(own, 0, 255))
        assert table.find(key).tolist() == [-1]
        words[last, OVERFLOW_WORD] = header_of(own)
        assert table.find(key).tolist() == [0]
        table.check()

    def test_a_counter_that_is_neither_right_nor_full_is_found(self, engine):
        table = make_table(40, engine=engine, seed=SEED)
        table.update(to_device(crowd(SEED, hash_in(2, table.view.num_buckets, 6), 20)), ids(*range(20)))
        table.check()
        table.view.words[2, OVERFLOW_WORD] += 1 << 8 * 5
        with pytest.raises(InvariantError, match="1 buckets count their overflows wrong"):
            table.check()
