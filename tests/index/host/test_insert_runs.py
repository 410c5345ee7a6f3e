"""Runs of blocks that lead to each other: what is found, what is settled, and what `check` says of broken ones."""

from itertools import pairwise

import numpy as np
import pytest
from support.managers import admit, cached_id, full, make_manager, make_request

from kvgpu.blocks.index_meta import CELLS, EAGER, FULL_CELL, NUM_LED
from kvgpu.blocks.record import COUNTED, FIRST, LEADS, LED
from kvgpu.errors import InvariantError
from kvgpu.hashing import functions as hashing
from kvgpu.hashing.block_hashes import BlockHashes
from kvgpu.hashing.functions import BlockHash
from kvgpu.hashing.map_keys import make_block_hash_with_group_id
from kvgpu.layout import SLOTS_PER_BUCKET

SIZE = 4


def words_in(index):
    """Words in the table."""
    return int(np.count_nonzero(index.table[:, :SLOTS_PER_BUCKET]))


def filled(num_blocks=9, hash_fn=hashing.sha256, **options):
    """A manager in which one request of so many blocks has got blocks 1, 2, and so on."""
    manager = make_manager(full(SIZE), num_blocks=64, backend="host", **options)
    request = make_request("a", list(range(num_blocks * SIZE)), SIZE, hash_fn)
    assert admit(manager, request) is not None
    return manager, request


@pytest.mark.parametrize("hash_fn", [hashing.sha256, hashing.sha256_cbor, hashing.kvgpu128])
def test_of_a_new_run_only_the_first_block_has_a_word(hash_fn):
    manager, _ = filled(9, hash_fn)
    index = manager.block_pool.index
    assert (words_in(index), len(index)) == (1, 9)
    manager.check()
    assert words_in(index) == 1


@pytest.mark.parametrize("hash_fn", [hashing.xxhash, lambda data: hashing.sha256(data)])
def test_hashes_that_may_not_say_what_came_before_have_a_word_each(hash_fn):
    manager, _ = filled(9, hash_fn)
    assert words_in(manager.block_pool.index) == 9
    manager.check()


def test_every_block_is_found_by_its_key_alone():
    manager, request = filled()
    ids = [cached_id(manager, h) for h in list(request.block_hashes)[::-1]]
    assert ids == list(range(9, 0, -1))
    assert words_in(manager.block_pool.index) == 9
    manager.check()


def test_settling_becomes_rarer():
    manager, _ = filled()
    index, meta = manager.block_pool.index, manager.block_pool.state.meta
    waits = []
    for name in range(60):
        index.settle()
        waits.append(int(meta[EAGER]))
        tokens = [1000 + name, *range(5 * SIZE)]
        request = make_request(f"r{name}", tokens, SIZE)
        assert admit(manager, request) is not None
        manager.free(request)
    raised = [after for before, after in pairwise(waits) if after > before]
    assert len(raised) >= 2
    assert raised == sorted(raised)
    manager.check()


def test_a_child_is_found_after_its_parent_has_left():
    manager, request = filled()
    hashes = list(request.block_hashes)
    manager.evict_blocks({4})
    assert [cached_id(manager, h) for h in hashes] == [1, 2, 3, None, 5, 6, 7, 8, 9]
    manager.check()


def test_a_parent_that_comes_back_leads_to_the_child_it_had():
    manager, request = filled()
    manager.evict_blocks({4})
    manager.free(request)
    again = make_request("b", list(range(9 * SIZE)), SIZE)
    assert admit(manager, again) is not None
    later = make_request("c", list(range(9 * SIZE + 1)), SIZE)
    _, hit = manager.get_computed_blocks(later)
    assert hit == 9 * SIZE
    manager.check()


def test_evicting_by_id_settles_no_other_block():
    manager, _ = filled()
    manager.evict_blocks({9})
    assert manager.block_pool.state.meta[NUM_LED] == 7
    assert words_in(manager.block_pool.index) == 1
    manager.check()


def test_a_second_child_of_a_block_is_found_beside_the_first():
    manager, request = filled()
    other = make_request("b", [*range(4 * SIZE), *range(100, 100 + 4 * SIZE)], SIZE)
    assert admit(manager, other) is not None
    for each, hit in ((request, 8), (other, 7)):
        assert manager.get_computed_blocks(each)[1] == hit * SIZE
    manager.check()


def test_a_duplicate_takes_the_place_of_a_led_block_that_leaves():
    manager = make_manager(full(SIZE), num_blocks=64, backend="host")
    requests = [make_request(name, list(range(6 * SIZE)), SIZE) for name in "ab"]
    for request in requests:
        # Neither has seen the other's blocks.
        assert manager.allocate_slots(request, request.num_tokens) is not None
    manager.check()
    first = manager.get_block_ids("a")[0]
    second = manager.get_block_ids("b")[0]
    manager.evict_blocks({first[2]})
    blocks, hit = manager.get_computed_blocks(make_request("c", list(range(6 * SIZE + 1)), SIZE))
    assert hit == 6 * SIZE
    assert blocks.get_block_ids()[0] == [*first[:2], second[2], *first[3:]]
    manager.check()


@pytest.mark.parametrize("place", [0, 4, 8], ids=["the first", "a middle one", "the last"])
def test_a_hash_may_be_changed_by_hand(place):
    """The block is taken out, whatever leads to it or is led by it, and may be entered again."""
    manager, request = filled()
    block = manager.block_pool.blocks[1 + place]
    key = block.block_hash
    block.reset_hash()
    block.block_hash = key
    hashes, others = list(request.block_hashes), list(range(1, 10))
    others[place] = None
    assert [cached_id(manager, h) for h in hashes] == others
    manager.block_pool.cached_block_hash_to_block.insert(key, block)
    assert [cached_id(manager, h) for h in hashes] == list(range(1, 10))
    manager.check()


def test_a_block_goes_on_after_one_whose_like_was_changed_by_hand():
    manager = make_manager(full(SIZE), num_blocks=64, backend="host")
    requests = [make_request(name, list(range(3 * SIZE)), SIZE) for name in "ab"]
    for request in requests:
        assert manager.allocate_slots(request, request.num_tokens) is not None
        request.num_computed_tokens = request.num_tokens
    block = manager.block_pool.blocks[manager.get_block_ids("a")[0][-1]]
    block.reset_hash()
    block.block_hash = make_block_hash_with_group_id(BlockHash(b"x" * 32), 0)
    requests[1].append_output_token_ids(list(range(SIZE)))
    assert manager.allocate_slots(requests[1], SIZE) is not None
    assert cached_id(manager, requests[1].block_hashes[-1]) == manager.get_block_ids("b")[0][-1]


def test_after_a_reset_blocks_are_led_again():
    manager, request = filled()
    manager.block_pool.index.settle_for_good()
    manager.free(request)
    assert manager.reset_prefix_cache()
    assert admit(manager, make_request("b", list(range(9 * SIZE)), SIZE)) is not None
    assert words_in(manager.block_pool.index) == 1
    manager.check()


def test_nothing_is_counted_when_nothing_is_cached():
    manager, request = filled()
    manager.block_pool.index.settle()
    manager.free(request)
    manager.evict_blocks(set(range(1, 10)))
    meta = manager.block_pool.state.meta
    assert meta[NUM_LED] == 0
    assert not meta[CELLS:].any()


def test_a_count_that_is_full_stays_so():
    manager, request = filled()
    cells = manager.block_pool.state.meta[CELLS:].view(np.uint8)
    cells[:] = FULL_CELL
    manager.block_pool.index.settle()
    manager.free(request)
    manager.evict_blocks(set(range(1, 10)))
    assert (cells == FULL_CELL).all()
    manager.check()


def test_blocks_are_led_even_if_the_filter_can_rule_nothing_out():
    manager = make_manager(full(SIZE), num_blocks=64, backend="host")
    manager.block_pool.state.meta[CELLS:].view(np.uint8)[:] = FULL_CELL
    request = make_request("a", list(range(9 * SIZE)), SIZE)
    assert admit(manager, request) is not None
    assert words_in(manager.block_pool.index) == 1
    other = make_request("b", [*range(4 * SIZE), *range(100, 100 + 4 * SIZE)], SIZE)
    assert admit(manager, other) is not None
    # The block that leads to another child leads to no second one.
    assert words_in(manager.block_pool.index) == 2
    for each, hit in ((request, 8), (other, 7)):
        assert manager.get_computed_blocks(each)[1] == hit * SIZE
    manager.check()


FAULTS = {
    "a led block with a second one of its key": ("same_next", 4, 2),
    "a led block that is not first": ("flags", 4, ~FIRST),
    "a led block with another before it": ("same_prev", 4, 7),
    "a block that leads to another": ("successor", 3, 7),
    "a block that does not say that it leads": ("flags", 3, ~LEADS),
    "a block that leads to none": ("flags", 9, LEADS),
    "a led block that does not say so": ("flags", 4, ~LED),
    "a led block that is counted": ("flags", 4, COUNTED),
    "a block with a word that is not counted": ("flags", 1, ~COUNTED),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_check_finds(fault):
    manager, _ = filled()
    name, block, value = FAULTS[fault]
    record = manager.block_pool.state.records[block]
    if name != "flags":
        record[name] = value
    elif value < 0:
        record[name] &= value
    else:
        record[name] |= value
    with pytest.raises(InvariantError):
        manager.block_pool.index.check()


@pytest.mark.parametrize("place", [NUM_LED, CELLS])
def test_check_finds_a_wrong_mark(place):
    manager, _ = filled()
    manager.block_pool.state.meta[place] += 1
    with pytest.raises(InvariantError):
        manager.block_pool.index.check()


def test_hashes_are_linked_as_long_as_a_hasher_makes_them():
    request = make_request("a", list(range(3 * SIZE)), SIZE)
    assert request.block_hashes.linked
    request.append_output_token_ids(range(SIZE))
    assert request.block_hashes.linked
    assert request.block_hashes.copy().linked
    request.block_hashes.extend([BlockHash(b"x" * 32)])
    assert not request.block_hashes.linked


def test_hashes_given_as_bytes_are_not_linked():
    assert BlockHashes().linked
    assert not BlockHashes([BlockHash(b"x" * 32)]).linked
