"""One group: its hit is the hit, and what a single group may not be combined with."""

import pytest
from support.managers import admit, chunked, full, make_manager, make_request, mamba, per_backend, window

from kvgpu.coordinators.unitary import UnitaryKVCacheCoordinator
from kvgpu.errors import ConfigError


def hit(manager, tokens, size):
    """Length of the hit of a prompt of consecutive tokens."""
    return manager.get_computed_blocks(make_request("asks", tokens, size))[1]


def test_a_single_group_has_the_unitary_coordinator():
    assert isinstance(make_manager(full(4)).coordinator, UnitaryKVCacheCoordinator)


@per_backend
@pytest.mark.parametrize(("tokens", "expected"), [(48, 16), (37, 16), (49, 32), (16, 0)])
def test_eagle_drops_the_last_block_that_hit(backend, tokens, expected):
    manager = make_manager(full(16), use_eagle=True, backend=backend)
    admit(manager, make_request("a", tokens, 16))
    assert hit(manager, tokens, 16) == expected


def test_a_flagged_group_drops_without_the_option():
    manager = make_manager(full(16), eagle_groups=[0])
    admit(manager, make_request("a", 48, 16))
    assert hit(manager, 48, 16) == 16


@per_backend
def test_eagle_with_a_window_of_one_block_needs_two_cached_blocks(backend):
    manager = make_manager(window(16, 16), use_eagle=True, backend=backend)
    admit(manager, make_request("a", 48, 16))
    assert hit(manager, 48, 16) == 16
    manager.evict_blocks([1])
    assert hit(manager, 48, 16) == 0


@per_backend
def test_a_hit_of_a_window_is_null_in_front(backend):
    manager = make_manager(window(4, 8), backend=backend)
    admit(manager, make_request("a", 21, 4))
    blocks, _ = manager.get_computed_blocks(make_request("b", 21, 4))
    assert blocks.get_block_ids() == ([0, 0, 0, 4, 5],)


def test_every_full_block_is_cached_without_regard_to_the_scheduler_block():
    manager = make_manager(full(4), scheduler_block_size=16)
    admit(manager, make_request("a", 13, 4))
    assert hit(manager, 13, 4) == 12


@pytest.mark.parametrize("spec", [window(4, 8), chunked(4, 8), mamba(4)], ids=lambda spec: type(spec).__name__)
@pytest.mark.parametrize("ranks", ["dcp_world_size", "pcp_world_size"])
def test_context_parallelism_is_for_full_attention_only(spec, ranks):
    with pytest.raises(ConfigError, match="does not support context parallelism"):
        make_manager(spec, hash_block_size=8, scheduler_block_size=8, **{ranks: 2})


@pytest.mark.parametrize(("hash_size", "ranks"), [(2, 1), (8, 1), (4, 2)])
def test_the_hash_block_must_be_the_block_of_all_ranks(hash_size, ranks):
    with pytest.raises(ConfigError, match="must equal the block size"):
        make_manager(full(4), hash_block_size=hash_size, dcp_world_size=ranks)
