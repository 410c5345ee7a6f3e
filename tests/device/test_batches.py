"""Batches that contradict themselves or the table: all of a batch or nothing, and the error later."""

import pytest
from support.device.tables import every_engine, ids, make_table, random_keys, to_device, torch
from support.slot_hashes import key_of_hash

from kvgpu.errors import ArgumentError, BlockIdError, InvariantError
from kvgpu.layout import META_GATE

KEYS = random_keys(8)


def keys(*numbers):
    return KEYS[list(numbers)].contiguous()


def state(table):
    return [part.clone() for part in (table.view.words, table.view.records, table.view.meta)]


def unchanged(table, before):
    return all(torch.equal(a, b) for a, b in zip(before, state(table), strict=True))


@pytest.fixture
def table(engine):
    """Blocks 0 to 3 under keys 0 to 3, of eight blocks."""
    table = make_table(8, engine=engine)
    table.update(keys(0, 1, 2, 3), ids(0, 1, 2, 3))
    return table


TWICE = "key twice"
TWO_KEYS = "first under two keys"
WRONG_OLD = "not what is first"

BAD = {
    "a new key twice": (keys(4, 5, 4), ids(4, 5, 6), None, TWICE),
    "a known key twice": (keys(0, 0), ids(4, 5), None, TWICE),
    "a key leaves twice": (keys(0, 0), ids(-1, -1), None, TWICE),
    "a key leaves and enters": (keys(0, 0), ids(-1, 4), None, TWICE),
    "a key twice that changes nothing": (keys(0, 0), ids(0, 0), None, TWICE),
    "a block under two new keys": (keys(4, 5), ids(4, 4), None, TWO_KEYS),
    "a block stays and enters": (keys(0, 4), ids(0, 0), None, TWO_KEYS),
    "a block that is in under another key": (keys(4), ids(2), None, TWO_KEYS),
    "a block that takes the place of another": (keys(1), ids(2), None, TWO_KEYS),
    "two keys lose one block": (keys(0, 1), ids(-1, -1), ids(0, 0), TWO_KEYS),
    "a block that is not first": (keys(0), ids(-1), ids(1), WRONG_OLD),
    "a block under an absent key": (keys(4), ids(-1), ids(1), WRONG_OLD),
    "no block under a known key": (keys(0), ids(4), ids(-1), WRONG_OLD),
}


@every_engine
class TestBatches:
    @pytest.mark.parametrize("name", BAD)
    def test_a_batch_that_cannot_be_is_left_out(self, table, name):
        changed, new, old, message = BAD[name]
        before = state(table)
        with pytest.raises(ArgumentError, match=message):
            table.update(changed, new, old=old)
        assert unchanged(table, before)
        table.check()

    @pytest.mark.parametrize(
        ("changed", "new", "message"), [(keys(4, 5, 4), ids(4, 5, 6), TWICE), (keys(4, 5), ids(4, 4), TWO_KEYS)]
    )
    def test_a_rebuild_that_cannot_be_keeps_what_was_there(self, table, changed, new, message):
        before = state(table)
        with pytest.raises(ArgumentError, match=message):
            table.rebuild(changed, new)
        assert unchanged(table, before)

    def test_a_rebuild_with_a_block_out_of_range_keeps_what_was_there(self, table):
        before = state(table)
        with pytest.raises(BlockIdError):
            table.rebuild(keys(4, 5), ids(4, 8))
        assert unchanged(table, before)

    def test_a_rebuild_may_move_blocks_to_other_keys(self, table):
        assert table.rebuild(keys(1, 0), ids(0, 1)) == 2
        assert table.find(keys(0, 1, 2)).tolist() == [1, 0, -1]
        table.check()

    def test_one_key_in_two_groups_is_no_key_twice(self, table):
        assert table.update(keys(4, 4), ids(4, 5), ids(1, 2)) == 6

    def test_blocks_may_change_places(self, table):
        assert table.update(keys(0, 1), ids(1, 0)) == 4
        assert table.find(keys(0, 1)).tolist() == [1, 0]
        table.check()

    def test_a_block_may_enter_in_the_batch_in_which_it_leaves(self, table):
        assert table.update(keys(4, 0), ids(0, -1)) == 4
        assert table.find(keys(0, 4)).tolist() == [-1, 0]

    def test_a_key_may_be_given_the_block_that_it_has(self, table):
        assert table.update(keys(0, 1), ids(0, 1)) == 4

    def test_a_block_that_left_long_ago_may_enter(self, table):
        table.update(keys(0), ids(-1))
        assert table.update(keys(5), ids(0)) == 4

    def test_keys_of_one_slot_hash_are_told_apart(self, table):
        seed = table.view.seed
        equal = to_device([key_of_hash(seed, 77, [i, 0, 0, 0], 3) for i in range(4)])
        assert table.update(equal, ids(4, 5, 6, 7)) == 8
        with pytest.raises(ArgumentError, match=TWICE):
            table.update(equal[[0, 1, 2, 0]], ids(-1, -1, -1, -1))

    def test_the_next_batch_is_not_left_out(self, table):
        table.update_async(keys(4, 4), ids(4, 5))
        table.update_async(keys(6), ids(6))
        with pytest.raises(ArgumentError, match=TWICE):
            table.size()
        assert table.find(keys(4, 6)).tolist() == [-1, 6]

    def test_a_launch_that_fails_leaves_the_gate_open(self, table, monkeypatch):
        def fail(*arguments):
            raise KeyboardInterrupt

        monkeypatch.setattr(table.memory.engine, "launch_update", fail)
        table.view.meta[META_GATE] = 0
        with pytest.raises(KeyboardInterrupt):
            table.update_async(keys(4, 4), ids(4, 5))
        assert int(table.view.meta[META_GATE]) == 0

    def test_what_is_not_validated_is_noticed_when_it_fails(self, table):
        table.update_async(keys(0), ids(5), old=ids(6), validate=False)
        with pytest.raises(InvariantError, match="rebuild"):
            table.size()


@pytest.mark.parametrize("count", [1, 31, 32, 33, 300, 700])
@pytest.mark.parametrize("place", ["first", "middle", "last"])
def test_one_repeated_key_is_found_in_a_batch_of_any_size(count, place):
    table, many = make_table(800, 16), random_keys(count + 1, 16)
    original = {"first": 0, "middle": count // 2, "last": count - 1}[place]
    assert table.update(many, ids(*range(count + 1))) == count + 1
    table.clear()
    many[count] = many[original]
    with pytest.raises(ArgumentError, match=TWICE):
        table.update(many, ids(*range(count + 1)))
    assert table.size() == 0
