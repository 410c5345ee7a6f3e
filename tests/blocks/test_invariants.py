"""`check()` reports each kind of damage that is planted into the state."""

import numpy as np
import pytest
from support.managers import admit, full, held, make_manager, make_request, per_backend, window

from kvgpu.blocks.free_order import GAP, HEAD, NUM_FREE, TAIL
from kvgpu.blocks.record import COARSE, FIRST, HAS_HASH, ODD
from kvgpu.errors import InvariantError
from kvgpu.layout import OVERFLOW_WORD, SLOTS_PER_BUCKET, TAG_SHIFT

NUM_BLOCKS = 16


def busy_manager(backend):
    """Blocks 1 to 3 in use and cached under the keys of 4 to 6, which are in use too; 7, 8 are free."""
    manager = make_manager(full(4), num_blocks=NUM_BLOCKS, backend=backend)
    for name in ("a", "b"):
        manager.allocate_slots(make_request(name, 12, 4), 12)
    other = make_request("c", [9] * 8, 4)
    admit(manager, other)
    manager.free(other)
    return manager


@pytest.fixture
def manager(backend):
    manager = busy_manager(backend)
    manager.check()
    return manager


def records(manager):
    return manager.block_pool.state.records


def uses(manager):
    return manager.block_pool.state.free.uses


# Uses and queue


def lose_a_free_block(manager):
    free = manager.block_pool.state.free
    free.order[uses(manager)[10]["place"]] = GAP


def free_a_used_block(manager):
    uses(manager)[10]["ref_cnt"] = 1


def forget_a_user(manager):
    uses(manager)[1]["ref_cnt"] = 0


def count_a_user_too_many(manager):
    uses(manager)[2]["ref_cnt"] = 5


def hold_a_block_twice(manager):
    manager.coordinator.single_type_managers[0].req_to_blocks["a"].extend_ids(np.array([3], np.int32))


# Keys and chains


def forget_who_is_first(manager):
    records(manager)[1]["flags"] &= ~FIRST


def make_a_second_first(manager):
    records(manager)[4]["flags"] |= FIRST


def lose_a_hash(manager):
    records(manager)[4]["flags"] &= ~HAS_HASH


def misplace_an_odd_hash(manager):
    records(manager)[4]["flags"] |= ODD


def change_a_key(manager):
    records(manager)[1]["k0"] ^= 1


def chain_a_stranger(manager):
    records(manager)[4]["k3"] ^= 1


def change_a_group(manager):
    records(manager)[1]["group"] = 3


def leave_a_chain(manager):
    records(manager)[1]["same_next"] = 1


@per_backend
@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lose_a_free_block, "block 10 has no users and is not free"),
        (free_a_used_block, "block 10 is free with 1 users"),
        (forget_a_user, "block 1 has no users and is not free"),
        (forget_a_user, "block 1 is in 1 block tables, but counts 0 users"),
        (count_a_user_too_many, "block 2 is in 1 block tables, but counts 5 users"),
        (hold_a_block_twice, "block 3 is in 2 block tables, but counts 1 users"),
        (forget_who_is_first, "4 first blocks, but 5 keys are counted"),
        (make_a_second_first, "6 first blocks, but 5 keys are counted"),
        (lose_a_hash, "block 4 is in the table without a suitable hash"),
        (misplace_an_odd_hash, "block 4 is in the table without a suitable hash"),
        (change_a_key, "the key of block 1 leads to -1"),
        (change_a_group, "the key of block 1 leads to -1"),
        (chain_a_stranger, "block 4 is chained under the key of block 1"),
        (leave_a_chain, "8 blocks are in the table, 7 are reached"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_damage_is_reported(manager, damage, words):
    damage(manager)
    with pytest.raises(InvariantError, match=words):
        manager.check()


@per_backend
def test_a_block_that_is_queued_twice_is_reported(manager):
    _, order, words = manager.block_pool.state.free
    order[words[TAIL]] = order[words[HEAD]]
    words[TAIL] += 1
    words[NUM_FREE] += 1
    with pytest.raises(InvariantError, match="the free queue holds a block twice"):
        manager.check()


@per_backend
def test_all_damage_is_reported_at_once(manager):
    lose_a_free_block(manager)
    count_a_user_too_many(manager)
    change_a_key(manager)
    with pytest.raises(InvariantError) as report:
        manager.check()
    for words in ("block 10 has no users", "block 2 is in 1 block tables", "key of block 1"):
        assert words in str(report.value)


# Tables of the backends


def table_of(manager):
    return manager.block_pool.index.table


def word_of_block_1(manager):
    """Where the table has the word of block 1."""
    slots = table_of(manager)[:, :SLOTS_PER_BUCKET]
    ((bucket, slot),) = np.argwhere(slots & 0xFFFFFFFF == 1 + 1)
    return bucket, slot


def erase_a_word(manager):
    table_of(manager)[word_of_block_1(manager)] = 0


def change_a_tag(manager):
    table_of(manager)[word_of_block_1(manager)] ^= 1 << TAG_SHIFT


def name_another_block(manager):
    table_of(manager)[word_of_block_1(manager)] += 3


def count_an_overflow(manager):
    table_of(manager)[0, OVERFLOW_WORD] += 1


def miscount_keys(manager):
    manager.block_pool.index._num_keys += 1


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (erase_a_word, "4 words in the table and 0 led blocks, but 5 keys are counted"),
        (change_a_tag, "the word of block 1 has the tag of another key"),
        (name_another_block, "the key of block 1 leads to 4"),
        (count_an_overflow, "counter 0 of bucket 0 counts 1 overflows, has 0"),
        (miscount_keys, "5 words in the table and 0 led blocks, but 6 keys are counted"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_damage_to_the_compiled_table_is_reported(damage, words):
    manager = busy_manager("host")
    manager.block_pool.index.settle_for_good()
    damage(manager)
    with pytest.raises(InvariantError, match=words):
        manager.check()


def test_damage_to_the_dict_is_reported():
    manager = busy_manager("reference")
    chains = manager.block_pool.index._blocks
    next(chain for chain in chains.values() if chain == [1, 4]).reverse()
    with pytest.raises(InvariantError, match=r"key of blocks \[4, 1\] has first flags"):
        manager.check()


# What is no damage


@per_backend
def test_blocks_taken_directly_from_the_pool_are_in_no_table(manager):
    manager.block_pool.get_new_blocks(2)
    manager.check()


@per_backend
def test_a_successor_that_is_not_led_is_only_a_hint(manager):
    manager.block_pool.index.settle_for_good()
    records(manager)["successor"][:] = 3
    manager.check()


@per_backend
def test_null_blocks_in_block_tables_do_not_count(backend):
    manager = make_manager(window(4, 4), full(4), backend=backend)
    request = make_request("a", 20, 4)
    admit(manager, request)
    manager.remove_skipped_blocks("a", 20)
    assert held(manager, request)[:4] == [0, 0, 0, 0]
    manager.check()


@per_backend
def test_blocks_of_several_hash_blocks_are_sound(backend):
    manager = make_manager(full(8), window(4, 4), backend=backend)
    admit(manager, make_request("a", 20, 4))
    assert records(manager)["flags"][1] & COARSE
    manager.check()


@per_backend
def test_a_rebuilt_table_is_sound(manager):
    manager.block_pool.index.rebuild()
    manager.check()
