"""Counts below 0: refused, unless an engine comes to some and expects that nothing happens."""

import pytest
from support.managers import admit, chunked, full, make_manager, make_request, mamba, per_backend, snapshot, window

from kvgpu.errors import ArgumentError

MODELS = {
    "full": (full(4),),
    "window": (window(4, 8),),
    "chunked": (chunked(4, 8),),
    "mamba": (mamba(4),),
    "full and window": (full(4), window(4, 8)),
}


@pytest.fixture(params=MODELS)
def held(request, backend):
    """A manager, and a request that holds blocks."""
    manager = make_manager(*MODELS[request.param], num_blocks=60, max_model_len=100, backend=backend)
    request = make_request("a", 22, 4)
    assert admit(manager, request)
    request.num_computed_tokens = 22
    return manager, request


@per_backend
class TestCounts:
    @pytest.mark.parametrize(("num_computed", "num_new"), [(-1, 3), (-40, 1), (22, -1), (-5, -5)])
    def test_are_refused(self, held, num_computed, num_new):
        manager, request = held
        request.num_computed_tokens, before = num_computed, snapshot(manager)
        with pytest.raises(ArgumentError):
            manager.allocate_slots(request, num_new)
        with pytest.raises(ArgumentError):
            manager.cache_blocks(request, -1)
        assert snapshot(manager) == before

    @pytest.mark.parametrize(("num_computed", "num_new"), [(-1, 3), (-40, 1), (20, -1), (-5, -5)])
    def test_do_nothing_if_the_engine_expects_it(self, held, num_computed, num_new):
        manager, request = held
        manager.slots.lowest = -1000
        request.num_computed_tokens, before = num_computed, manager.get_block_ids("a")
        assert [len(ids) for ids in manager.allocate_slots(request, num_new).get_block_ids()] == [0] * len(before)
        manager.cache_blocks(request, num_computed)
        assert [len(ids) for ids in manager.get_block_ids("a")] == [len(ids) for ids in before]
        manager.check()

    def test_have_a_bound_even_then(self, held):
        manager, request = held
        manager.slots.lowest = -1000
        request.num_computed_tokens, before = -1001, snapshot(manager)
        with pytest.raises(ArgumentError, match="-1000"):
            manager.allocate_slots(request, 1)
        assert snapshot(manager) == before
