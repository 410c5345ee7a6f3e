"""The public table on a device, whichever kernels serve it."""

import numpy as np
import pytest
from support.device.tables import DEVICE, POISON, every_engine, ids, make_table, poisoned, random_keys, to_device, torch
from support.slot_hashes import key_of_hash, twin_keys

from kvgpu.index.host.table import counters
from kvgpu.layout import MAX_GROUP_ID, OVERFLOW_WORD
from kvgpu.rules.plan import HitQuery, HitRule, PrefixPlan
from kvgpu.rules.plan_words import FULL, SLIDING_WINDOW

WIDTHS = pytest.mark.parametrize("key_bytes", [16, 32])


def crowd(table, count):
    """Keys of 32 bytes whose primary bucket is the last one of the table, with different tags."""
    last_bucket = 0xFFFFFFFF << 32
    keys = [key_of_hash(table.view.seed, last_bucket | (2 * tag + 1), [tag, 0, 0, 0]) for tag in range(count)]
    return to_device(np.array(keys))


def overflows(table):
    return int(counters(table.view.words[:, OVERFLOW_WORD].cpu().numpy()).sum())


@every_engine
class TestBlockHashTable:
    @WIDTHS
    def test_an_empty_table_finds_nothing(self, engine, key_bytes):
        table = make_table(8, key_bytes, engine=engine)
        assert table.find(random_keys(3, key_bytes)).tolist() == [-1, -1, -1]
        assert table.size() == 0
        table.check()

    def test_empty_batches_change_nothing(self, engine):
        table = make_table(8, engine=engine)
        nothing = random_keys(1)[:0]
        assert table.update(nothing, ids()) == 0
        assert table.find(nothing).tolist() == []
        assert table.contains(nothing).tolist() == []
        assert table.longest_prefix(nothing, to_device([0])).num_tokens.tolist() == []

    @WIDTHS
    def test_one_key_leads_to_its_block(self, engine, key_bytes):
        table, keys = make_table(8, key_bytes, engine=engine), random_keys(2, key_bytes)
        assert table.update(keys[:1], ids(5)) == 1
        assert table.find(keys).tolist() == [5, -1]
        assert table.contains(keys).tolist() == [True, False]

    def test_keys_may_be_given_as_bytes(self, engine):
        table, keys = make_table(8, engine=engine), random_keys(2)
        table.update(keys.view(torch.uint8), ids(5, 6))
        assert table.find(keys).tolist() == [5, 6]
        assert table.find(keys.view(torch.uint8)[1:]).tolist() == [6]

    @WIDTHS
    @pytest.mark.parametrize("num_blocks", [1, 2, 7, 15, 300])
    def test_every_block_can_be_in(self, engine, key_bytes, num_blocks):
        table = make_table(num_blocks, key_bytes, engine=engine)
        keys = random_keys(num_blocks, key_bytes)
        assert table.update(keys, ids(*range(num_blocks))) == num_blocks
        assert table.find(keys).tolist() == list(range(num_blocks))
        table.check()

    def test_an_absent_key_erased_changes_nothing(self, engine):
        table, keys = make_table(8, engine=engine), random_keys(2)
        table.update(keys[:1], ids(5))
        assert table.update(keys[1:], ids(-1)) == 1
        assert table.find(keys).tolist() == [5, -1]
        table.check()

    def test_erased_then_inserted_again(self, engine):
        table, keys = make_table(8, engine=engine), random_keys(1)
        table.update(keys, ids(5))
        assert table.update(keys, ids(-1)) == 0
        assert table.find(keys).tolist() == [-1]
        assert table.update(keys, ids(6)) == 1
        assert table.find(keys).tolist() == [6]
        table.check()

    def test_another_block_takes_the_place_of_the_first(self, engine):
        table, keys = make_table(8, engine=engine), random_keys(1)
        table.update(keys, ids(5))
        assert table.update(keys, ids(3), old=ids(5)) == 1
        assert table.find(keys).tolist() == [3]
        table.check()

    def test_a_block_may_leave_one_key_and_enter_another_in_one_flush(self, engine):
        table, keys = make_table(8, engine=engine), random_keys(3)
        table.update(keys[:2], ids(5, 6))
        assert table.update(keys, ids(-1, 5, 6), old=ids(5, 6, -1)) == 2
        assert table.find(keys).tolist() == [-1, 5, 6]
        table.check()

    def test_two_blocks_may_change_places_though_their_tags_are_equal(self, engine):
        table = make_table(8, engine=engine)
        keys = to_device(np.array([key_of_hash(table.view.seed, 77, [i, 0, 0, 0]) for i in range(2)]))
        table.update(keys, ids(5, 6))
        assert table.update(keys, ids(6, 5), old=ids(5, 6)) == 2
        assert table.find(keys).tolist() == [6, 5]
        table.check()

    @pytest.mark.parametrize("group", [0, 1, MAX_GROUP_ID])
    def test_a_key_is_found_in_its_own_group_only(self, engine, group):
        table, keys = make_table(8, engine=engine), random_keys(1)
        table.update(keys, ids(3), group)
        found = [table.find(keys, other).tolist()[0] for other in (0, 1, MAX_GROUP_ID)]
        assert found == [3 if other == group else -1 for other in (0, 1, MAX_GROUP_ID)]

    def test_one_key_in_many_groups_is_many_entries(self, engine):
        table, keys = make_table(40, engine=engine), random_keys(1).expand(40, 4).contiguous()
        groups = ids(*range(40))
        assert table.update(keys, groups, groups) == 40
        assert table.find(keys, groups.flip(0)).tolist() == list(range(39, -1, -1))

    def test_keys_of_equal_slot_hash_are_told_apart(self, engine):
        table = make_table(40, engine=engine)
        seed = table.view.seed
        keys = [key_of_hash(seed, 0x123456789ABCDEF1, [i, 0, 0, 0]) for i in range(41)]
        keys = to_device(np.array(keys))
        table.update(keys[:40], ids(*range(40)))
        assert table.find(keys).tolist() == [*range(40), -1]
        table.update(keys[:40:2].contiguous(), ids(*[-1] * 20))
        assert table.find(keys).tolist() == [i if i % 2 else -1 for i in range(40)] + [-1]
        table.check()

    @pytest.mark.parametrize("word", range(4))
    def test_keys_of_one_tag_that_differ_in_one_word_are_told_apart(self, engine, word):
        table, group = make_table(8, engine=engine), MAX_GROUP_ID
        keys = to_device(np.stack(twin_keys(table.view.seed, word, group)))
        table.update(keys[:1], ids(3), group)
        assert table.find(keys, group).tolist() == [3, -1]
        table.update(keys[1:], ids(4), group)
        assert table.find(keys, group).tolist() == [3, 4]

    @pytest.mark.parametrize("equal_words", [[0], [3], [0, 1], [2, 3], [0, 1, 2]])
    def test_keys_with_equal_parts_are_told_apart(self, engine, equal_words):
        table, keys = make_table(40, engine=engine), random_keys(40)
        keys[:, equal_words] = keys[0, equal_words]
        table.update(keys, ids(*range(40)))
        assert table.find(keys).tolist() == list(range(40))

    def test_a_crowd_flows_over_the_end_of_the_table_and_leaves_no_trace(self, engine):
        table = make_table(60, engine=engine)
        keys = crowd(table, 60)
        table.update(keys, ids(*range(60)))
        assert overflows(table) > 0
        assert table.find(keys).tolist() == list(range(60))
        order = np.random.default_rng(3).permutation(60)
        for part in np.split(order, 4):
            table.update(keys[part], ids(*[-1] * 15))
            table.check()
        assert (table.size(), overflows(table)) == (0, 0)

    def test_a_flush_of_everything_leaves_before_it_enters(self, engine):
        table, keys = make_table(50, engine=engine), random_keys(100)
        table.update(keys[:50], ids(*range(50)))
        old, new = ids(*range(50), *[-1] * 50), ids(*[-1] * 50, *range(50))
        assert table.update(keys, new, old=old) == 50
        assert table.find(keys).tolist() == [*[-1] * 50, *range(50)]
        table.check()

    def test_items_are_what_was_entered(self, engine):
        table, keys = make_table(20, engine=engine), random_keys(10)
        groups = ids(*range(100, 110))
        table.update(keys, ids(*range(5, 15)), groups)
        got_keys, got_groups, got_ids = table.items()
        assert torch.equal(got_keys.view(torch.int64), keys)
        assert got_groups.tolist() == list(range(100, 110))
        assert got_ids.tolist() == list(range(5, 15))
        assert table.items_async().nonzero().flatten().tolist() == list(range(5, 15))

    def test_clear_takes_everything_out(self, engine):
        table, keys = make_table(20, engine=engine), random_keys(20)
        table.update(keys, ids(*range(20)))
        table.clear()
        assert (table.size(), table.find(keys).tolist()) == (0, [-1] * 20)
        table.check()

    def test_rebuild_replaces_everything(self, engine):
        table, keys = make_table(20, engine=engine), random_keys(30)
        table.update(keys[:20], ids(*range(20)))
        assert table.rebuild(keys[10:], ids(*range(20))) == 20
        assert table.find(keys).tolist() == [-1] * 10 + list(range(20))
        table.check()

    def test_results_go_where_they_are_told_to(self, engine):
        table, keys = make_table(8, engine=engine), random_keys(3)
        table.update(keys[:2], ids(5, 6))
        out = poisoned(3)
        assert table.find(keys, out=out) is out
        assert out.tolist() == [5, 6, -1]
        flags = torch.zeros(3, dtype=torch.bool, device=DEVICE)
        assert table.contains(keys, out=flags) is flags
        assert flags.tolist() == [True, True, False]

    @pytest.mark.parametrize("stride", [1, 2])
    def test_the_longest_prefix_of_every_request_over_two_groups(self, engine, stride):
        full = HitQuery(HitRule(FULL, 4 * stride, 4 * stride), (0,), stride)
        window = HitQuery(HitRule(SLIDING_WINDOW, 4 * stride, 4 * stride, False, 2), (7,), stride)
        plan = PrefixPlan((full, window))
        table, keys = make_table(40, engine=engine), random_keys(12 * stride)
        blocks = keys[stride - 1 :: stride].contiguous()
        table.update(blocks[:10], ids(*range(10)), 0)
        table.update(blocks[2:8], ids(*range(12, 18)), 7)
        out = table.prefix_buffers(2, len(keys), plan)
        for buffer in out:
            buffer.fill_(POISON)
        offsets = to_device([0, 7 * stride, 12 * stride])
        assert table.longest_prefix(keys, offsets, plan, out=out, null_id=39) is out
        assert out.num_tokens.tolist() == [28 * stride, 4 * stride]
        assert out.lengths.tolist() == [[7, 7], [1, 1]]
        behind = [-1] * (7 * stride - 7), [-1] * (5 * stride - 1)
        assert out.ids[0].tolist() == [*range(7), *behind[0], 7, *behind[1]]
        assert out.ids[1].tolist() == [39, 39, 39, 39, 39, 15, 16, *behind[0], 17, *behind[1]]

    def test_the_limit_of_a_request_is_kept(self, engine):
        table, keys = make_table(8, engine=engine), random_keys(6)
        table.update(keys, ids(*range(6)))
        found = table.longest_prefix(keys, to_device([0, 3, 6]), max_lengths=to_device([2, 9]))
        assert found.num_tokens.tolist() == [2, 3]


@WIDTHS
def test_both_engines_use_the_same_bytes(key_bytes):
    from support.device.tables import why_not_cuda

    reason = why_not_cuda()
    if reason:
        pytest.skip(reason)
    tables = [make_table(500, key_bytes, seed=12, engine=e) for e in ("triton", "cuda")]
    keys = random_keys(500, key_bytes)
    for mine, other in (tables, tables[::-1]):
        mine.update(keys, ids(*range(500)))
        other.view.words.copy_(mine.view.words)
        other.view.records.copy_(mine.view.records)
        other.view.meta.copy_(mine.view.meta)
        assert other.find(keys).tolist() == list(range(500))
        other.check()
        mine.clear()
        other.clear()
