"""`KVCacheBlocks`: what the manager hands to the scheduler."""

import pytest
from support.managers import admit, full, make_manager, make_request, window

from kvgpu.blocks.kv_cache_blocks import KVCacheBlocks
from kvgpu.blocks.state import KVCacheBlock
from kvgpu.errors import ArgumentTypeError, GroupCountError


def blocks_of(*groups):
    """Blocks that belong to no pool."""
    return KVCacheBlocks(tuple([KVCacheBlock(i) for i in ids] for ids in groups))


def admitted(tokens=10):
    """A manager with full attention and a window, and the blocks of a request in it."""
    manager = make_manager(full(4), window(4, 8))
    admit(manager, make_request("a", tokens, 4))
    return manager, manager.get_blocks("a")


def test_block_ids_are_plain_lists_per_group():
    _, blocks = admitted()
    assert blocks.get_block_ids() == ([1, 2, 3], [4, 5, 6])
    assert {type(i) for group in blocks.get_block_ids() for i in group} == {int}


def test_no_blocks_are_none_where_that_is_allowed():
    empty = blocks_of([], [])
    assert empty.get_block_ids() == ([], [])
    assert empty.get_block_ids(allow_none=True) is None
    assert blocks_of([1], []).get_block_ids(allow_none=True) == ([1], [])


def test_adding_joins_group_by_group():
    assert (blocks_of([1], [2]) + blocks_of([3, 4], [])).get_block_ids() == ([1, 3, 4], [2])


def test_adding_blocks_of_a_pool_leaves_the_parts_alone():
    manager, blocks = admitted()
    free = [manager.block_pool.blocks[i] for i in (8, 9)]
    assert (blocks + KVCacheBlocks((free, []))).get_block_ids() == ([1, 2, 3, 8, 9], [4, 5, 6])
    assert manager.get_block_ids("a") == ([1, 2, 3], [4, 5, 6])


def test_adding_another_number_of_groups_is_refused():
    with pytest.raises(GroupCountError, match="1 groups cannot be added to blocks of 2"):
        _ = blocks_of([1]) + blocks_of([1], [2])


@pytest.mark.parametrize("odd", [None, 5, ([1],), (3,), ((KVCacheBlock(1), None),), [iter(())]])
def test_something_else_than_blocks_is_refused(odd):
    blocks = KVCacheBlocks(odd)
    for call in (
        blocks.get_block_ids,
        blocks.get_unhashed_block_ids_all_groups,
        blocks.get_unhashed_block_ids,
        lambda: blocks + KVCacheBlocks(([],)),
        lambda: KVCacheBlocks(([],)) + blocks,
    ):
        with pytest.raises(ArgumentTypeError):
            call()


def test_unhashed_blocks_are_those_that_are_not_full():
    manager = make_manager(full(4))
    admit(manager, make_request("a", 10, 4))
    assert manager.get_blocks("a").get_unhashed_block_ids() == [3]


def test_unhashed_blocks_of_several_groups_need_the_other_name():
    _, blocks = admitted()
    with pytest.raises(GroupCountError, match="get_unhashed_block_ids_all_groups"):
        blocks.get_unhashed_block_ids()


def test_unhashed_blocks_per_group_leave_out_the_null_block():
    manager, _ = admitted(14)
    manager.remove_skipped_blocks("a", 14)
    blocks = manager.get_blocks("a")
    assert blocks.get_block_ids()[1][0] == 0
    assert blocks.get_unhashed_block_ids_all_groups() == [[4], [8]]


def test_a_new_empty_has_as_many_groups():
    assert blocks_of([1], [2], [3]).new_empty().get_block_ids() == ([], [], [])


def test_results_are_equal_if_all_their_blocks_are():
    manager, blocks = admitted()
    assert blocks == manager.get_blocks("a")
    assert blocks == KVCacheBlocks(tuple(list(group) for group in blocks.blocks))
    assert blocks != manager.empty_kv_cache_blocks


def test_blocks_of_a_result_are_the_blocks_of_the_pool():
    manager, blocks = admitted()
    assert blocks.blocks[1][2] is manager.block_pool.blocks[6]


def test_what_a_lookup_found_does_not_follow_the_request():
    manager = make_manager(full(4))
    request = make_request("a", 10, 4)
    new = admit(manager, request)
    request.append_output_token_ids([7] * 8)
    manager.allocate_slots(request, 8)
    assert new.get_block_ids() == ([1, 2, 3],)


def test_ids_of_some_groups():
    first, second = KVCacheBlock(1), KVCacheBlock(2)
    blocks = KVCacheBlocks(([first], [], [second]))
    assert blocks.get_block_ids(group_ids=[2, 0]) == ([2], [1])
    assert blocks.get_block_ids(True, group_ids=[1]) is None
    with pytest.raises(GroupCountError, match=r"groups \[3\] are asked for"):
        blocks.get_block_ids(group_ids=[3])
