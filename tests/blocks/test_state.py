"""Records of blocks, and `KVCacheBlock`, the view of one."""

import numpy as np
import pytest
from support.indexes import ids_of

from kvgpu.blocks.block_list import BlockList
from kvgpu.blocks.record import BLOCK_RECORD, NO_IDS
from kvgpu.blocks.state import BlockState, KVCacheBlock
from kvgpu.compiled.cache_lines import CACHE_LINE
from kvgpu.errors import ArgumentError, ArgumentTypeError, BlockStateError
from kvgpu.hashing.map_keys import make_block_hash_with_group_id

MAX_GROUP = 2**31 - 1


def key(width=32, group=0, fill=7):
    return make_block_hash_with_group_id(bytes([fill]) * width, group)


@pytest.fixture
def state():
    return BlockState(4)


def test_a_record_fills_one_cache_line():
    assert BLOCK_RECORD.itemsize == CACHE_LINE
    assert [BlockState(n).records.ctypes.data % CACHE_LINE for n in range(1, 20)] == [0] * 19


def test_there_is_one_record_more_than_blocks(state):
    assert len(state.records) == 5


def test_the_view_of_a_block_is_always_the_same_object(state):
    assert state.view(2) is state.view(2)
    assert state.view(np.int32(2)) is state.view(2)
    assert state.view(2) is not state.view(3)


def test_a_new_block_has_no_users_and_no_hash(state):
    block = state.view(3)
    assert (block.block_id, block.ref_cnt, block.block_hash, block.is_null) == (3, 0, None, False)


def test_a_view_shows_the_count_of_users(state):
    state.free.uses["ref_cnt"][1] = 5
    assert state.view(1).ref_cnt == 5


def test_users_are_counted_up_and_down(state):
    block = state.view(1)
    block.incr_ref()
    block.incr_ref()
    block.decr_ref()
    assert block.ref_cnt == 1
    assert state.free.uses["ref_cnt"].tolist() == [0, 1, 0, 0, 0]


@pytest.mark.parametrize("group", [0, 1, MAX_GROUP])
@pytest.mark.parametrize("width", [16, 32])
def test_a_hash_is_shown_as_it_was_set(state, width, group):
    state.view(1).block_hash = key(width, group)
    assert state.view(1).block_hash == key(width, group)
    assert state.view(2).block_hash is None


@pytest.mark.parametrize("hash_bytes", [b"", b"x", b"hash0", b"x" * 20, b"x" * 64])
@pytest.mark.parametrize("first", [None, 16, 32])
def test_a_hash_of_odd_width_is_shown_as_it_was_set(state, first, hash_bytes):
    if first:
        state.view(0).block_hash = key(first)
    odd = make_block_hash_with_group_id(hash_bytes, 3)
    state.view(1).block_hash = odd
    assert state.view(1).block_hash == odd


@pytest.mark.parametrize(("first", "second"), [(16, 32), (32, 16)])
def test_hashes_of_two_widths_can_be_held_at_once(state, first, second):
    state.view(0).block_hash = key(first)
    state.view(1).block_hash = key(second)
    assert [state.view(i).block_hash for i in (0, 1)] == [key(first), key(second)]


def test_a_group_that_no_record_can_hold_is_shown_as_it_was_set(state):
    state.view(1).block_hash = key(32, 2**32 - 1)
    assert state.view(1).block_hash == key(32, 2**32 - 1)


def test_a_hash_of_zeros_is_a_hash(state):
    state.view(1).block_hash = key(32, fill=0)
    assert state.view(1).block_hash == bytes(36)


@pytest.mark.parametrize("second", [key(), key(fill=9), b"10"])
@pytest.mark.parametrize("first", [key(), b"hash0"])
def test_setting_a_hash_twice_is_an_error_and_keeps_the_first(state, first, second):
    state.view(1).block_hash = first
    with pytest.raises(BlockStateError):
        state.view(1).block_hash = second
    assert state.view(1).block_hash == first


@pytest.mark.parametrize("first", [key(), b"hash0"])
def test_a_block_can_get_another_hash_after_a_reset(state, first):
    block = state.view(1)
    block.block_hash = first
    block.reset_hash()
    assert block.block_hash is None
    block.block_hash = key(fill=9)
    assert block.block_hash == key(fill=9)


@pytest.mark.parametrize("first", [None, key(), key(width=7)])
@pytest.mark.parametrize("second", [None, key(fill=8), key(width=9)])
def test_the_raw_attribute_replaces_a_hash(state, first, second):
    block = state.view(1)
    block._block_hash = first
    assert (block._block_hash, block.block_hash) == (first, first)
    block._block_hash = second
    assert (block._block_hash, block.block_hash) == (second, second)


def test_a_hash_set_by_the_raw_attribute_is_not_set_over(state):
    block = state.view(1)
    block._block_hash = key()
    with pytest.raises(BlockStateError):
        block.block_hash = key(fill=8)
    assert block._block_hash == key()


def test_forgetting_all_keys_forgets_their_width_too(state):
    for block, width in enumerate((32, 16, 5)):
        state.view(block).block_hash = key(width)
    state.forget_keys()
    assert [state.view(i).block_hash for i in range(4)] == [None] * 4
    assert state.adopt_width(16)
    assert not state.adopt_width(32)


def test_the_first_regular_hash_decides_the_width(state):
    assert not state.adopt_width(5)
    assert state.adopt_width(32)
    assert [state.adopt_width(width) for width in (5, 16, 32, 64)] == [False, False, True, False]


def test_the_words_of_a_coarse_key_are_those_of_its_last_hash(state):
    state.adopt_width(16)
    last = bytes(range(16))
    words, group = state.words_of(make_block_hash_with_group_id(b"a" * 16 + last, 9))
    assert words.tobytes() == last + bytes(16)
    assert group == 9


@pytest.mark.parametrize("bad", [b"", b"10", b"hash0", key(17), key(16, 2**31), bytes(4)])
def test_keys_that_no_record_can_hold_have_no_words(state, bad):
    state.adopt_width(16)
    assert state.words_of(bad) is None


def test_a_coarse_block_shows_all_of_its_hashes(state):
    state.adopt_width(16)
    blob = bytes(range(64))
    state.set_key(1, make_block_hash_with_group_id(blob[48:], 2))
    state.records["flags"][1] |= 32
    state.coarse[1] = (blob, 32, 64)
    assert state.view(1).block_hash == make_block_hash_with_group_id(blob[32:], 2)


def test_a_null_block_is_known_by_its_state(state):
    state.null_id = 2
    assert [state.view(i).is_null for i in range(4)] == [False, False, True, False]


def test_marking_a_block_as_no_null_block_leaves_the_null_block_null(state):
    state.null_id = 0
    state.view(2).is_null = False
    assert state.view(0).is_null


def test_a_block_made_by_hand_belongs_to_no_pool():
    block, other = KVCacheBlock(3, ref_cnt=2), KVCacheBlock(block_id=3)
    block.block_hash = b"hash0"
    assert (block.block_id, block.ref_cnt, block.block_hash) == (3, 2, b"hash0")
    assert (other.ref_cnt, other.block_hash) == (0, None)
    assert (block.prev_free_block, block.next_free_block) == (None, None)


@pytest.mark.parametrize("block_id", ["3", 3.0, None, True])
def test_a_block_made_by_hand_has_an_integer_as_its_id(block_id):
    with pytest.raises(ArgumentTypeError, match="block_id"):
        KVCacheBlock(block_id)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ref_cnt", "1"),
        ("ref_cnt", 2**31),
        ("ref_cnt", [1]),
        ("is_null", np.zeros(2)),
        ("block_hash", 5),
        ("block_hash", [1, 2]),
    ],
)
def test_what_an_attribute_does_not_take_is_refused(state, name, value):
    before = state.records.tobytes(), state.free.uses.tobytes()
    with pytest.raises(ArgumentError):
        setattr(state.view(1), name, value)
    assert (state.records.tobytes(), state.free.uses.tobytes()) == before


@pytest.mark.parametrize("name", ["prev_free_block", "next_free_block"])
def test_neighbours_in_the_queue_follow_from_its_order(state, name):
    with pytest.raises(AttributeError):
        setattr(state.view(1), name, state.view(2))


def test_a_block_made_by_hand_can_be_marked_null():
    block = KVCacheBlock(0)
    block.is_null = True
    assert block.is_null
    block.is_null = False
    assert not block.is_null


def test_blocks_are_compared_by_identity(state):
    assert KVCacheBlock(1) != KVCacheBlock(1)
    assert len({state.view(1), state.view(1), state.view(2)}) == 2


def test_the_text_of_a_block_names_id_users_and_hash(state):
    state.view(1).block_hash = b"hash0"
    text = repr(state.view(1))
    assert "block_id=1" in text
    assert "ref_cnt=0" in text
    assert "hash0" in text


def test_blocks_become_ids(state):
    blocks = [state.view(i) for i in (3, 1, 1)]
    for sequence in (blocks, iter(blocks), BlockList(state, ids_of(3, 1, 1)), ids_of(3, 1, 1)):
        ids = state.ids_of(sequence)
        assert ids.dtype == np.int32
        assert ids.tolist() == [3, 1, 1]
    assert state.ids_of([]).tolist() == NO_IDS.tolist() == []


def test_blocks_of_other_pools_have_negative_ids_that_lead_back(state):
    stranger, second = KVCacheBlock(1), BlockState(4).view(1)
    ids = state.ids_of([stranger, state.view(1), second, stranger])
    assert ids[0] == ids[3] < 0
    assert ids[1] == 1
    assert [state.view(int(i)) for i in ids] == [stranger, state.view(1), second, stranger]
