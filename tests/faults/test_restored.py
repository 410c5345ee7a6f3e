"""A manager whose records and table disagree, whatever came over them: it says so once, and goes on."""

import pytest
from support.managers import admit, full, make_manager, make_request

from kvgpu.blocks.record import IN_TABLE
from kvgpu.errors import InvariantError
from kvgpu.events.messages import AllBlocksCleared
from kvgpu.layout import EMPTY_WORD, SLOTS_PER_BUCKET


@pytest.fixture
def manager():
    """With two cached blocks that are free, the first of which has a word in the table."""
    manager = make_manager(full(4), num_blocks=8, enable_kv_cache_events=True)
    request = make_request("old", 9, 4)
    admit(manager, request)
    manager.free(request)
    manager.block_pool.index.settle()
    manager.take_events()
    return manager


def hits(manager):
    return manager.get_computed_blocks(make_request("new", 9, 4))[1]


@pytest.fixture
def broken(manager):
    """The manager after a call that found no word for a block that it evicts."""
    manager.block_pool.index.table[:, :SLOTS_PER_BUCKET] = EMPTY_WORD
    with pytest.raises(InvariantError, match="disagree"):
        manager.block_pool.evict_blocks([1])
    return manager


def test_a_table_that_lost_its_words_is_made_again(broken):
    broken.free(make_request("old", 9, 4))
    broken.check()
    assert AllBlocksCleared() not in broken.take_events()
    assert admit(broken, make_request("new", 28, 4)) is not None


def test_records_that_nothing_can_be_made_of_are_forgotten_and_told(broken):
    records = broken.block_pool.state.records[:-1]
    records["same_next"][records["flags"] & IN_TABLE != 0] = 99
    assert hits(broken) == 0
    assert AllBlocksCleared() in broken.take_events()
    broken.check()
    assert broken.reset_prefix_cache()
