"""`BlockTables` and `CachedCounts`: mappings of requests, kept as rows of the store until asked for."""

import numpy as np
import pytest

from kvgpu.block_tables.by_request import BlockTables, CachedCounts
from kvgpu.block_tables.request_blocks import RequestBlocks
from kvgpu.block_tables.store import NUM_CACHED, BlockTableStore
from kvgpu.blocks.state import BlockState


@pytest.fixture
def store():
    return BlockTableStore()


@pytest.fixture
def tables(store):
    return BlockTables(BlockState(20), store)


def adopted(tables, store, name="a", ids=(3, 4)):
    """A row that a batch has filled."""
    row = store.open()
    store.append(row, np.array(ids, np.int32))
    store.tables[row, NUM_CACHED] = 1
    tables.adopt([name], [row])
    return row


def ids_of(blocks):
    return [block.block_id for block in blocks]


class TestTables:
    def test_a_missing_request_gets_an_empty_list(self, tables):
        assert (ids_of(tables["a"]), list(tables)) == ([], ["a"])

    def test_asking_with_get_makes_nothing(self, tables):
        assert (tables.get("a"), tables.get("a", 5), list(tables)) == (None, 5, [])

    def test_an_adopted_row_is_read_as_blocks(self, tables, store):
        adopted(tables, store)
        assert ids_of(tables["a"]) == ids_of(tables.get("a")) == [3, 4]

    def test_a_request_has_one_list_however_often_it_is_asked_for(self, tables, store):
        adopted(tables, store)
        assert tables["a"] is tables.get("a") is tables.values()[0]

    def test_asking_for_the_row_makes_no_list(self, tables, store):
        row = adopted(tables, store)
        assert tables.table_id_of("a") == row
        assert type(dict.get(tables, "a")) is int

    @pytest.mark.parametrize("asked", [False, True])
    def test_the_row_is_the_same_before_and_after_asking(self, tables, store, asked):
        row = adopted(tables, store)
        if asked:
            assert isinstance(tables["a"], RequestBlocks)
        assert tables.table_id_of("a") == row

    def test_values_and_items_are_lists_of_blocks(self, tables, store):
        adopted(tables, store, "a", [1])
        adopted(tables, store, "b", [2])
        assert [ids_of(blocks) for blocks in tables.values()] == [[1], [2]]
        assert [(name, ids_of(blocks)) for name, blocks in tables.items()] == [("a", [1]), ("b", [2])]

    @pytest.mark.parametrize("asked", [False, True])
    def test_a_request_that_leaves_hands_its_row_over(self, tables, store, asked):
        row = adopted(tables, store)
        if asked:
            assert ids_of(tables["a"]) == [3, 4]
        assert (tables.leave("a"), "a" in tables, store.num_used()) == (row, False, 1)

    def test_a_list_goes_on_when_its_request_has_left(self, tables, store):
        adopted(tables, store)
        blocks = tables["a"]
        store.close(tables.leave("a"))
        assert (ids_of(blocks), blocks.num_cached, len(blocks)) == ([3, 4], -1, 2)

    @pytest.mark.parametrize("asked", [False, True])
    def test_popping_gives_the_row_back(self, tables, store, asked):
        adopted(tables, store)
        if asked:
            assert ids_of(tables["a"]) == [3, 4]
        assert (ids_of(tables.pop("a")), store.num_used()) == ([3, 4], 0)

    def test_popping_a_missing_request_is_as_of_a_dict(self, tables):
        assert tables.pop("a", None) is None
        with pytest.raises(KeyError):
            tables.pop("a")

    def test_deleting_gives_the_row_back(self, tables, store):
        adopted(tables, store)
        del tables["a"]
        assert (list(tables), store.num_used()) == ([], 0)

    def test_rows_are_those_of_all_requests(self, tables, store):
        rows = [adopted(tables, store, "a"), adopted(tables, store, "b")]
        assert ids_of(tables["a"]) == [3, 4]
        assert tables.table_ids() == rows

    def test_a_list_of_the_caller_is_written_back_to(self, tables, store):
        state = tables._state
        mine = [state.view(1)]
        tables["a"] = mine
        tables["a"].extend_ids(np.array([2], np.int32))
        assert (ids_of(mine), store.mirrors) == ([1, 2], 1)
        del tables["a"]
        assert store.mirrors == 0


class TestCounts:
    def test_a_request_counts_once_it_runs(self, tables, store):
        counts = CachedCounts(tables)
        assert tables["new"].num_cached == -1
        adopted(tables, store)
        assert (dict(counts), len(counts), "new" in counts) == ({"a": 1}, 1, False)

    def test_asking_for_an_unknown_request_makes_no_table(self, tables):
        counts = CachedCounts(tables)
        assert (counts.get("a"), "a" in counts, list(tables)) == (None, False, [])

    def test_setting_a_count_makes_the_request_run(self, tables):
        counts = CachedCounts(tables)
        counts["a"] = 0
        assert (dict(counts), list(tables)) == ({"a": 0}, ["a"])

    def test_deleting_a_count_keeps_the_blocks(self, tables, store):
        adopted(tables, store)
        counts = CachedCounts(tables)
        del counts["a"]
        assert (dict(counts), ids_of(tables["a"])) == ({}, [3, 4])

    def test_deleting_an_unknown_count_is_an_error(self, tables):
        with pytest.raises(KeyError):
            del CachedCounts(tables)["a"]
