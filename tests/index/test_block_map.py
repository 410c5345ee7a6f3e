"""The map of keys to blocks: regular keys in the index, odd ones and blocks of no pool beside it."""

import copy

import pytest
from support.managers import full, make_manager, make_request, per_backend
from support.pools import make_coarse_key, make_key

from kvgpu.block_pool import BlockPool
from kvgpu.blocks.state import KVCacheBlock
from kvgpu.errors import ArgumentTypeError, BlockIdError
from kvgpu.index.base import BlockIndex
from kvgpu.metrics import KVCacheMetricsCollector

NUM_BLOCKS = 12


@pytest.fixture
def pool(backend):
    return BlockPool(NUM_BLOCKS, True, 16, backend=backend)


@pytest.fixture
def map(pool):
    return pool.cached_block_hash_to_block


@pytest.fixture
def enter(pool, map):
    """Gives a block of the pool a key and puts it into the map."""

    def enter(block_id, key):
        block = pool.blocks[block_id]
        block.block_hash = key
        map.insert(key, block)
        return block

    return enter


@per_backend
class TestMapOfAPool:
    @pytest.mark.parametrize(
        "key",
        [make_key(), make_key(group=2**31 - 1), make_key(width=16), make_key(group=2**32 - 1), b"hash0"],
        ids=["regular", "last group", "half width", "group of no record", "odd"],
    )
    def test_a_block_of_the_pool_is_found_until_it_is_popped(self, map, enter, key):
        block = enter(3, key)
        assert map.get_one_block(key) is block
        assert map._cache[key] is block
        assert map.pop(key, 4) is None
        assert map.pop(key, 3) is block
        assert map.get_one_block(key) is None
        assert len(map) == 0

    @pytest.mark.parametrize("key", [make_key(), b"hash0"], ids=["regular", "odd"])
    def test_a_truth_value_is_the_id_that_it_equals(self, map, enter, key):
        block = enter(1, key)
        assert map.pop(key, False) is None
        assert map.pop(key, True) is block

    @pytest.mark.parametrize("key", [make_key(), b"hash0"], ids=["regular", "odd"])
    def test_popping_leaves_the_hash_on_the_block(self, map, enter, key):
        block = enter(3, key)
        map.pop(key, 3)
        assert block.block_hash == key

    @pytest.mark.parametrize("key", [make_key(), b"hash0"], ids=["regular", "odd"])
    def test_duplicates_are_a_dict_in_the_order_of_insertion(self, map, enter, key):
        blocks = {i: enter(i, key) for i in (5, 2, 7)}
        assert list(map._cache[key].items()) == list(blocks.items())
        assert map.get_one_block(key) is blocks[5]
        assert len(map) == 1

    @pytest.mark.parametrize("key", [make_key(), b"hash0"], ids=["regular", "odd"])
    @pytest.mark.parametrize("popped", [5, 2, 7])
    def test_a_duplicate_leaves_the_others_in_order(self, map, enter, key, popped):
        blocks = {i: enter(i, key) for i in (5, 2, 7)}
        assert map.pop(key, popped) is blocks.pop(popped)
        assert list(map._cache[key].items()) == list(blocks.items())
        assert map.get_one_block(key) is next(iter(blocks.values()))

    @pytest.mark.parametrize("key", [make_key(), b"hash0"], ids=["regular", "odd"])
    def test_a_dict_of_one_stays_a_dict_until_it_is_empty(self, map, enter, key):
        enter(5, key), enter(2, key)
        map.pop(key, 5)
        assert list(map._cache[key]) == [2]
        map.pop(key, 2)
        assert key not in map._cache

    def test_a_key_used_again_after_it_was_empty_starts_with_a_single_block(self, pool, map, enter):
        enter(5, make_key()), enter(2, make_key())
        map.pop(make_key(), 5), map.pop(make_key(), 2)
        map.insert(make_key(), pool.blocks[2])
        assert map._cache[make_key()] is pool.blocks[2]

    def test_groups_do_not_share_entries(self, map, enter):
        blocks = [enter(3, make_key(group=0)), enter(4, make_key(group=1))]
        assert [map.get_one_block(make_key(group=g)) for g in (0, 1, 2)] == [*blocks, None]

    @pytest.mark.parametrize("first", [make_key(7, width=32), make_key(7, width=16)], ids=["32", "16"])
    @pytest.mark.parametrize(
        "second",
        [
            make_key(width=32),
            make_key(width=16),
            make_coarse_key(1, 2),
            make_coarse_key(1, 2, 3),
            make_coarse_key(1, 2, width=16),
        ],
        ids=["32", "16", "2x32", "3x32", "2x16"],
    )
    def test_hashes_of_two_widths_live_side_by_side(self, pool, map, enter, first, second):
        blocks = [enter(3, first), enter(4, second)]
        assert [map.get_one_block(first), map.get_one_block(second)] == blocks
        assert set(map._cache) == {first, second}
        pool.check()

    def test_a_coarse_key_is_not_that_of_its_last_hash(self, map, enter):
        enter(3, make_key(2))
        assert map.get_one_block(make_coarse_key(1, 2)) is None

    def test_a_block_of_no_pool_joins_the_blocks_of_a_regular_key(self, pool, map, enter):
        block, stranger = enter(3, make_key()), KVCacheBlock(0)
        map.insert(make_key(), stranger)
        assert list(map._cache[make_key()].items()) == [(3, block), (0, stranger)]
        assert map.pop(make_key(), 3) is block
        assert map.get_one_block(make_key()) is stranger
        pool.check()

    def test_a_block_under_a_key_that_is_not_its_hash_is_found(self, pool, map, enter):
        block = enter(3, make_key(1))
        map.insert(make_key(2), block)
        assert [map.get_one_block(make_key(i)) for i in (1, 2)] == [block, block]
        pool.check()

    @pytest.mark.parametrize("popped", [0, 6, 11])
    def test_one_of_many_is_popped_without_a_look_at_the_others(self, pool, map, enter, popped, monkeypatch):
        blocks = {i: enter(i, make_key()) for i in range(NUM_BLOCKS)}
        monkeypatch.delattr(BlockIndex, "chain")
        monkeypatch.delattr(type(pool.index), "first")
        assert map.pop(make_key(), popped) is blocks.pop(popped)
        monkeypatch.undo()
        assert list(map._cache[make_key()].items()) == list(blocks.items())
        pool.check()

    @pytest.mark.parametrize("absent", [-1, NUM_BLOCKS, 2**40, "3", None])
    def test_an_id_of_no_block_pops_nothing(self, map, enter, absent):
        enter(3, make_key())
        assert map.pop(make_key(), absent) is None
        assert len(map) == 1

    @pytest.mark.parametrize("bad", [-1, NUM_BLOCKS, 2**40])
    def test_a_block_with_an_id_outside_the_pool_is_refused(self, pool, map, enter, bad):
        block = enter(3, make_key())
        with pytest.raises(BlockIdError, match=str(bad)):
            map.insert(make_key(), KVCacheBlock(bad))
        assert map._cache == {make_key(): block}
        pool.check()

    @pytest.mark.parametrize(("what", "block"), [("hash", KVCacheBlock(1)), (b"hash", None), (b"hash", 3)])
    def test_what_is_no_key_or_no_block_is_refused(self, map, what, block):
        with pytest.raises(ArgumentTypeError):
            map.insert(what, block)
        assert len(map) == 0

    def test_a_block_is_held_under_its_own_hash_only(self, pool, map, enter):
        held, stranger = enter(3, make_key()), KVCacheBlock(4)
        stranger.block_hash = make_key(2)
        assert map.holds(held)
        assert not map.holds(stranger)
        map.insert(make_key(2), stranger)
        assert map.holds(stranger)
        map.pop(make_key(), 3)
        assert not map.holds(held)

    def test_clearing_empties_regular_and_odd_entries(self, map, enter):
        enter(3, make_key()), enter(4, b"hash0")
        map.clear()
        assert len(map) == 0
        assert map.get_one_block(make_key()) is None
        assert map.get_one_block(b"hash0") is None


@per_backend
@pytest.mark.parametrize("beside", ["collector", "odd entry"])
def test_evicting_copies_of_one_prompt_reads_no_other_copies(backend, beside, monkeypatch):
    """Blocks are evicted one by one then; whoever asks for one prompt all the time pays for it alone."""
    collector = KVCacheMetricsCollector(1.0) if beside == "collector" else None
    manager = make_manager(full(4), num_blocks=30, backend=backend, metrics_collector=collector)
    if beside == "odd entry":
        manager.block_pool.cached_block_hash_to_block.insert(b"hash0", KVCacheBlock(0))
    monkeypatch.delattr(BlockIndex, "chain")
    for turn in range(40):
        request = make_request(f"r{turn}", 12, 4)
        assert manager.allocate_slots(request, 12) is not None
        manager.free(request)
    monkeypatch.undo()
    assert len(manager.block_pool.cached_block_hash_to_block) == 3 + (beside == "odd entry")
    assert manager.block_pool.allocator.num_evictions == 3 * 40 - 29
    manager.check()


@per_backend
class TestCacheView:
    def test_it_is_a_mapping_of_all_entries(self, map, enter):
        expected = {make_key(): enter(3, make_key()), b"hash0": enter(4, b"hash0")}
        assert dict(map._cache) == expected
        assert map._cache == expected
        assert len(map._cache) == 2
        assert make_key() in map._cache
        assert make_key(9) not in map._cache

    def test_an_absent_key_is_an_error(self, map):
        with pytest.raises(KeyError):
            map._cache[make_key()]
        with pytest.raises(KeyError):
            del map._cache[make_key()]

    def test_a_copy_is_a_snapshot(self, map, enter):
        block = enter(3, make_key())
        before = copy.copy(map._cache)
        enter(4, make_key())
        map.pop(make_key(), 3)
        assert before == {make_key(): block}
        assert map._cache != before

    @pytest.mark.parametrize("key", [make_key(), b"hash0"], ids=["regular", "odd"])
    def test_deleting_a_key_takes_all_its_blocks_out(self, pool, map, enter, key):
        enter(3, key), enter(4, key)
        del map._cache[key]
        assert map.get_one_block(key) is None
        pool.check()

    def test_entries_can_be_replaced(self, map, enter):
        enter(3, make_key())
        stranger, other = KVCacheBlock(0), KVCacheBlock(8)
        map._cache[make_key()] = stranger
        assert map.get_one_block(make_key()) is stranger
        map._cache[make_key()] = {8: other, 0: stranger}
        assert list(map._cache[make_key()].values()) == [other, stranger]

    def test_a_dict_of_one_that_is_set_stays_a_dict(self, map):
        stranger = KVCacheBlock(0)
        map._cache[make_key()] = {0: stranger}
        assert map._cache[make_key()] == {0: stranger}

    def test_clearing_it_clears_the_map(self, map, enter):
        enter(3, make_key()), enter(4, b"hash0")
        map._cache.clear()
        assert len(map) == 0

    def test_it_cannot_be_hashed(self, map):
        with pytest.raises(TypeError):
            hash(map._cache)

    def test_its_text_shows_the_keys(self, map, enter):
        enter(4, b"hash0")
        assert "hash0" in repr(map._cache)
