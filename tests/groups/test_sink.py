"""Attention sinks: blocks that belong to no request."""

import pytest
from support.cache_groups import hit_in, make_group
from support.managers import (
    HEADS,
    accounts_balance,
    admit,
    free_order,
    held,
    make_manager,
    make_request,
    per_backend,
    window,
)

from kvgpu.config.specs import SinkFullAttentionSpec
from kvgpu.errors import ConfigError


def sink(block_size, sink_len):
    return SinkFullAttentionSpec(block_size, **HEADS, sink_len=sink_len)


@pytest.mark.parametrize(("sink_len", "blocks"), [(4, [1]), (12, [1, 2, 3])])
def test_sink_blocks_leave_the_pool_at_construction(sink_len, blocks):
    group = make_group(sink(4, sink_len))
    assert [block.block_id for block in group.sink_blocks] == blocks
    assert group.block_pool.get_num_free_blocks() == 99 - len(blocks)


@per_backend
def test_requests_never_get_sink_blocks(backend):
    manager = make_manager(sink(4, 8), num_blocks=6, backend=backend)
    for tokens in ([1] * 12, [2] * 12):
        request = make_request("a", tokens, 4)
        admit(manager, request)
        assert set(held(manager, request)) == {3, 4, 5}
        manager.free(request)
    assert set(free_order(manager)) == {3, 4, 5}
    assert accounts_balance(manager)


def test_sink_blocks_are_no_part_of_what_a_request_needs():
    group = make_group(sink(4, 8))
    assert group.get_num_blocks_to_allocate("a", 12, [], 0, 12) == 3


def test_it_hits_like_full_attention():
    spec = sink(2, 2)
    assert hit_in(spec, "TTFT") == [1, 2]


@per_backend
def test_sink_blocks_do_not_keep_the_cache_from_being_reset(backend):
    manager = make_manager(sink(4, 8), window(4, 8), num_blocks=20, backend=backend)
    request = make_request("a", 12, 4)
    admit(manager, request)
    assert manager.reset_prefix_cache() is False
    manager.free(request)
    assert manager.reset_prefix_cache() is True
    assert [manager.block_pool.blocks[i].ref_cnt for i in (1, 2)] == [1, 1]


@pytest.mark.parametrize("sink_len", [None, 0, -4, 6, "8", 8.0])
def test_the_sink_must_be_a_positive_multiple_of_the_block(sink_len):
    with pytest.raises(ConfigError, match="sink_len"):
        make_group(sink(4, sink_len))


def test_a_pool_that_is_smaller_than_the_sink_is_refused():
    with pytest.raises(ConfigError, match="3 sink blocks do not fit into 2 free blocks"):
        make_group(sink(4, 12), num_blocks=3)
