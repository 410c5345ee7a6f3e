"""A map of keys to blocks that belongs to no pool: blocks made by hand are found under any key."""

import pytest
from support.pools import make_coarse_key, make_key

from kvgpu.blocks.state import KVCacheBlock
from kvgpu.index.block_map import BlockHashToBlockMap


class TestMapOfItsOwn:
    @pytest.fixture
    def map(self):
        return BlockHashToBlockMap()

    @pytest.mark.parametrize("key", [b"10", b"hash0", b"", make_key(), make_coarse_key(1, 2)])
    def test_a_block_of_no_pool_is_found_under_any_key(self, map, key):
        block = KVCacheBlock(block_id=0)
        map.insert(key, block)
        assert map.get_one_block(key) is block
        assert map._cache[key] is block
        assert len(map) == 1

    def test_an_absent_key_has_no_block(self, map):
        assert map.get_one_block(b"10") is None
        assert map.pop(b"10", 0) is None
        assert len(map) == 0

    def test_a_second_block_makes_the_entry_a_dict_in_the_order_of_insertion(self, map):
        blocks = [KVCacheBlock(i) for i in (5, 0, 3)]
        for block in blocks:
            map.insert(b"10", block)
        assert list(map._cache[b"10"].items()) == [(5, blocks[0]), (0, blocks[1]), (3, blocks[2])]
        assert map.get_one_block(b"10") is blocks[0]
        assert len(map) == 1

    def test_popping_another_id_changes_nothing(self, map):
        block = KVCacheBlock(0)
        map.insert(b"10", block)
        assert map.pop(b"10", 1) is None
        assert map.get_one_block(b"10") is block

    def test_popping_another_id_of_several_changes_nothing(self, map):
        for i in (0, 1):
            map.insert(b"10", KVCacheBlock(i))
        assert map.pop(b"10", 2) is None
        assert list(map._cache[b"10"]) == [0, 1]

    def test_a_dict_of_one_stays_a_dict_and_an_emptied_one_disappears(self, map):
        blocks = [KVCacheBlock(i) for i in (0, 1)]
        for block in blocks:
            map.insert(b"10", block)
        assert map.pop(b"10", 0) is blocks[0]
        assert map._cache[b"10"] == {1: blocks[1]}
        assert map.pop(b"10", 1) is blocks[1]
        assert b"10" not in map._cache
        assert len(map) == 0

    def test_clearing_forgets_everything(self, map):
        map.insert(b"10", KVCacheBlock(0))
        map.clear()
        assert map.get_one_block(b"10") is None
        assert map._cache == {}
