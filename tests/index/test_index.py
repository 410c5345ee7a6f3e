"""What every index must do, whatever it is made of."""

import numpy as np
import pytest
from support.definitions.hits import expected_hit
from support.indexes import (
    chain,
    erase,
    every_backend,
    ids_of,
    insert,
    make_index,
    match,
    random_rows,
    rows_of_hash,
    twin_groups,
    twin_keys,
)
from support.managers import CPU_BACKENDS

from kvgpu.blocks.record import COUNTED, FIRST, HAS_HASH, IN_TABLE, NO_IDS, SHARED
from kvgpu.rules.plan import HitRule
from kvgpu.rules.plan_words import CHUNKED_LOCAL, FULL, MAMBA, SLIDING_WINDOW

MAX_GROUP = 2**31 - 1
SIZE = 4
RULES = {
    "full": HitRule(FULL, SIZE, SIZE),
    "full_aligned_eagle": HitRule(FULL, SIZE, 3 * SIZE, True),
    "window": HitRule(SLIDING_WINDOW, SIZE, SIZE, False, 2),
    "window_aligned_eagle": HitRule(SLIDING_WINDOW, SIZE, 2 * SIZE, True, 3),
    "chunked": HitRule(CHUNKED_LOCAL, SIZE, SIZE, False, 3 * SIZE),
    "mamba": HitRule(MAMBA, SIZE, 2 * SIZE),
}


@every_backend
class TestIndex:
    def test_an_empty_index_knows_no_key(self, backend):
        index = make_index(backend, 8)
        assert index.first(random_rows(1)[0], 0) == -1
        assert len(index) == 0

    def test_empty_batches_change_nothing(self, backend):
        index = make_index(backend, 8)
        insert(index, [3], random_rows(1))
        index.insert(NO_IDS, random_rows(1)[:0], 1, 0, 0)
        index.erase(NO_IDS)
        assert chain(index, random_rows(1)[0]) == [3]
        index.check()

    def test_one_key_leads_to_its_block(self, backend):
        index = make_index(backend, 8)
        insert(index, [5], random_rows(1))
        assert index.first(random_rows(1)[0], 0) == 5
        assert len(index) == 1

    def test_a_skipped_entry_enters_nothing(self, backend):
        index, rows = make_index(backend, 8), random_rows(3)
        insert(index, [1, -1, 2], rows)
        assert [index.first(row, 0) for row in rows] == [1, -1, 2]
        index.check()

    def test_with_a_stride_the_last_hash_of_a_block_is_its_key(self, backend):
        index, rows = make_index(backend, 8), random_rows(6)
        index.insert(ids_of(1, 2), rows, 3, 0, 0)
        assert [index.first(row, 0) for row in rows] == [-1, -1, 1, -1, -1, 2]

    def test_a_batch_writes_key_group_and_flags_of_the_records(self, backend):
        index, row = make_index(backend, 8), random_rows(1)[0]
        index.insert(ids_of(5), row[None], 1, 9, 32)
        record = index.state.records[5]
        assert [record[name] for name in ("k0", "k1", "k2", "k3", "group")] == [*row, 9]
        assert record["flags"] & ~COUNTED == HAS_HASH | 32 | IN_TABLE | FIRST

    def test_erasing_absent_blocks_changes_nothing(self, backend):
        index = make_index(backend, 8)
        insert(index, [3], random_rows(1))
        erase(index, 0, 4, 7)
        assert chain(index, random_rows(1)[0]) == [3]
        index.check()

    def test_a_block_named_twice_in_a_batch_is_erased_once(self, backend):
        index, row = make_index(backend, 8), random_rows(1)
        insert(index, [3, 4], row[[0, 0]])
        erase(index, 3, 3)
        assert chain(index, row[0]) == [4]
        index.check()

    def test_an_erased_key_can_be_entered_again(self, backend):
        index, rows = make_index(backend, 8), random_rows(2)
        insert(index, [3], rows[:1])
        erase(index, 3)
        assert index.first(rows[0], 0) == -1
        insert(index, [3], rows[1:])
        insert(index, [4], rows[:1])
        assert [index.first(row, 0) for row in rows] == [4, 3]
        index.check()

    @pytest.mark.parametrize("forget", [True, False])
    def test_erasing_clears_the_hash_only_when_told_to(self, backend, forget):
        index = make_index(backend, 8)
        insert(index, [3], random_rows(1))
        erase(index, 3, forget=forget)
        assert index.state.records[3]["flags"] == (0 if forget else HAS_HASH)

    def test_a_block_that_kept_its_hash_can_be_entered_again(self, backend):
        index, row = make_index(backend, 8), random_rows(1)
        insert(index, [3, 4], row[[0, 0]])
        erase(index, 3, forget=False)
        index.enter(3)
        assert chain(index, row[0]) == [4, 3]
        index.check()

    @pytest.mark.parametrize("word", range(4))
    @pytest.mark.parametrize("bit", [0, 31, 32, 63])
    def test_keys_that_differ_in_one_bit_are_told_apart(self, backend, word, bit):
        index, row = make_index(backend, 8), random_rows(1)[0]
        other = row.copy()
        other[word] ^= np.int64(-(2**63) if bit == 63 else 1 << bit)
        insert(index, [3], row)
        assert index.first(other, 0) == -1

    @pytest.mark.parametrize("equal_words", [[0], [3], [0, 1], [2, 3], [0, 3], [0, 1, 2]])
    def test_keys_with_equal_parts_are_told_apart(self, backend, equal_words):
        index, rows = make_index(backend, 40), random_rows(40)
        rows[:, equal_words] = rows[0, equal_words]
        insert(index, range(40), rows)
        assert [index.first(row, 0) for row in rows] == list(range(40))

    def test_keys_with_equal_slot_hashes_are_told_apart(self, backend):
        index = make_index(backend, 40)
        rows = rows_of_hash(index, [0x123456789ABCDEF0] * 41)
        insert(index, range(40), rows[:40])
        assert [index.first(row, 0) for row in rows] == [*range(40), -1]
        erase(index, *range(0, 40, 2))
        assert [index.first(row, 0) for row in rows] == [i if i % 2 else -1 for i in range(40)] + [-1]
        index.check()

    @pytest.mark.parametrize("word", range(4))
    def test_keys_of_one_tag_that_differ_in_one_word_are_told_apart(self, backend, word):
        index = make_index(backend, 8)
        row, twin = twin_keys(index, word, MAX_GROUP)
        insert(index, [3], row, MAX_GROUP)
        assert index.first(twin, MAX_GROUP) == -1
        insert(index, [4], twin, MAX_GROUP)
        assert [index.first(key, MAX_GROUP) for key in (row, twin)] == [3, 4]

    def test_groups_of_one_tag_are_told_apart(self, backend):
        index, row = make_index(backend, 8), random_rows(1)[0]
        group, twin = twin_groups(index, row)
        insert(index, [3], row, group)
        assert index.first(row, twin) == -1
        insert(index, [4], row, twin)
        assert [index.first(row, g) for g in (group, twin)] == [3, 4]

    @pytest.mark.parametrize("group", [0, 1, MAX_GROUP])
    def test_a_key_is_found_in_its_own_group_only(self, backend, group):
        index, row = make_index(backend, 8), random_rows(1)[0]
        insert(index, [3], row, group)
        found = [index.first(row, other) for other in (0, 1, 2**16, MAX_GROUP)]
        assert found == [3 if other == group else -1 for other in (0, 1, 2**16, MAX_GROUP)]

    def test_duplicates_stay_in_the_order_of_insertion(self, backend):
        index, row = make_index(backend, 8), random_rows(1)
        insert(index, [5, 2, 7], row[[0, 0, 0]])
        insert(index, [1], row)
        assert chain(index, row[0]) == [5, 2, 7, 1]
        assert len(index) == 1

    @pytest.mark.parametrize("erased", [5, 2, 7, 1])
    def test_the_next_in_order_is_promoted_when_a_duplicate_leaves(self, backend, erased):
        index, row = make_index(backend, 8), random_rows(1)
        insert(index, [5, 2, 7, 1], row[[0] * 4])
        erase(index, erased)
        assert chain(index, row[0]) == [i for i in (5, 2, 7, 1) if i != erased]
        index.check()

    def test_the_last_of_several_is_still_marked_as_shared(self, backend):
        index, row = make_index(backend, 8), random_rows(1)
        insert(index, [5, 2], row[[0, 0]])
        erase(index, 5)
        assert index.state.records[2]["flags"] & SHARED
        erase(index, 2)
        insert(index, [5], row)
        assert not index.state.records[5]["flags"] & SHARED

    @pytest.mark.parametrize("num_blocks", [1, 2, 7, 14, 15, 500])
    def test_every_block_of_the_pool_can_be_in(self, backend, num_blocks):
        index, rows = make_index(backend, num_blocks), random_rows(num_blocks)
        insert(index, range(num_blocks), rows)
        assert [index.first(row, 0) for row in rows] == list(range(num_blocks))
        assert len(index) == num_blocks
        index.check()

    def test_a_crowd_in_one_bucket_flows_over_the_end_of_the_table(self, backend):
        index = make_index(backend, 60)
        last_bucket = 0xFFFFFFFF << 32
        rows = rows_of_hash(index, [last_bucket | tag for tag in range(1, 121, 2)])
        insert(index, range(60), rows)
        present = dict(enumerate(rows))
        for block in np.random.default_rng(3).permutation(60).tolist():
            assert {i: index.first(row, 0) for i, row in present.items()} == {i: i for i in present}
            erase(index, block)
            assert index.first(present.pop(block), 0) == -1
            index.check()
        assert len(index) == 0

    def test_room_in_a_crowded_bucket_is_used_again(self, backend):
        index = make_index(backend, 60)
        rows = rows_of_hash(index, [0xFFFFFFFF << 32 | tag for tag in range(1, 121, 2)])
        insert(index, range(30), rows[:30])
        for round in range(100):
            out, into = round % 60, (round + 30) % 60
            erase(index, out)
            insert(index, [into], rows[into])
            assert index.first(rows[out], 0) == -1
            assert index.first(rows[into], 0) == into
        index.check()

    def test_clear_forgets_every_key(self, backend):
        index, rows = make_index(backend, 20), random_rows(20)
        insert(index, range(20), rows)
        index.clear()
        index.state.forget_keys()
        assert [index.first(row, 0) for row in rows] == [-1] * 20
        assert len(index) == 0
        index.check()

    def test_rebuilding_keeps_keys_and_the_order_of_duplicates(self, backend):
        index, rows = make_index(backend, 30), random_rows(5)
        order = np.random.default_rng(5).permutation(30)
        insert(index, order, rows[order % 5])
        erase(index, *range(5, 10))
        before = [chain(index, row) for row in rows]
        index.rebuild()
        assert [chain(index, row) for row in rows] == before
        index.check()

    @pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
    @pytest.mark.parametrize("groups", [(0,), (3, 1), (2, 0, MAX_GROUP)])
    @pytest.mark.parametrize("stride", [1, 2])
    def test_the_longest_prefix_is_the_one_of_the_definition(self, backend, rule, groups, stride):
        random = np.random.default_rng(len(groups) * 10 + stride)
        for _ in range(15 if backend in CPU_BACKENDS else 2):
            length = int(random.integers(1, 13))
            index = make_index(backend, 1 + 2 * length * len(groups))
            index.state.null_id = 0
            rows = random_rows(length * stride, int(random.integers(2**31)))
            hits, block = np.ones(length, bool), 1
            for group in groups:
                cached = random.random(length) < 0.85
                hits &= cached
                for copies in (cached, cached & (random.random(length) < 0.3)):
                    ids = np.where(copies, np.arange(block, block + length), -1).astype(np.int32)
                    index.insert(ids, rows, stride, group, 0)
                    block += length
            max_length = int(random.integers(length * SIZE + 1))
            nulls, end = expected_hit(hits.tolist(), rule, max_length)
            got = match(index, rule, groups, rows, max_length, stride)
            assert got == [
                [0] * nulls + [index.first(rows[(i + 1) * stride - 1], group) for i in range(nulls, end)]
                for group in groups
            ]

    def test_a_hit_is_found_though_the_blocks_behind_others_changed(self, backend):
        index, rows = make_index(backend, 12), random_rows(3)
        insert(index, [1, 2, 3], rows)
        insert(index, [4, 5, 6], rows)
        assert match(index, RULES["full"], (0,), rows, 3 * SIZE) == [[1, 2, 3]]
        erase(index, 2)
        insert(index, [2], random_rows(1, 9))
        assert match(index, RULES["full"], (0,), rows, 3 * SIZE) == [[1, 5, 3]]
        erase(index, 5)
        assert match(index, RULES["full"], (0,), rows, 3 * SIZE) == [[1]]

    def test_a_block_that_moved_to_another_group_is_no_hit_in_the_old_one(self, backend):
        index, rows = make_index(backend, 12), random_rows(2)
        insert(index, [1, 2], rows)
        assert match(index, RULES["full"], (0,), rows, 2 * SIZE) == [[1, 2]]
        erase(index, 2)
        insert(index, [2], rows[1], group=5)
        assert match(index, RULES["full"], (0,), rows, 2 * SIZE) == [[1]]

    def test_a_query_without_any_length_hits_nothing(self, backend):
        index = make_index(backend, 4)
        assert match(index, RULES["full"], (0, 1), random_rows(1)[:0], 0) == [[], []]
