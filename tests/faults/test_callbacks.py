"""Code of others that raises in the middle of a call: the call is complete, and raises when it is."""

import numpy as np
import pytest
from support.managers import CPU_BACKENDS, accounts_balance, admit, full, make_manager, make_request, snapshot, window

from kvgpu.batch.manager import BatchManager
from kvgpu.events import builders as event_builders


class Fault(Exception):
    """What a callback raises."""


class Interrupt(BaseException):
    """What a signal handler raises while a callback runs."""


class Collector:
    """A metrics collector that raises at its k-th call, counted from 0."""

    def __init__(self):
        self.left, self.error = -1, Fault

    def _called(self, _=None):
        self.left -= 1
        if self.left == -1:
            raise self.error

    on_block_allocated = on_block_accessed = on_block_evicted = reset = _called


def fill(manager):
    """Leave a pool full of cached blocks."""
    for name in range(4):
        request = make_request(f"old{name}", [name * 50 + i for i in range(20)], 4)
        admit(manager, request)
        manager.free(request)


def admit_waiting(manager):
    admit(manager, make_request("a", [*range(12), *range(90, 105)], 4))


def admit_in_a_batch(manager):
    batch = BatchManager(manager, 4, 100)
    requests = [make_request(name, [*range(12), *range(90, 97)], 4) for name in "ab"]
    batch.allocate_batch(batch.track(requests), 100)


CALLS = {
    "admit": admit_waiting,
    "batch": admit_in_a_batch,
    "evict": lambda manager: manager.evict_blocks(range(12)),
    "reset": lambda manager: manager.reset_prefix_cache(),
    "touch": lambda manager: manager.block_pool.touch(manager.block_pool.blocks[1:6]),
}


def after(call, backend, left, error, **options):
    """What a manager is like after a call, in the k-th callback of which an error is raised; and whether one was."""
    collector = Collector()
    manager = make_manager(
        full(4), window(4, 8), num_blocks=20, backend=backend, metrics_collector=collector, **options
    )
    fill(manager)
    collector.left, collector.error = left, error
    raised = False
    try:
        CALLS[call](manager)
    except error:
        raised = True
    manager.check()
    assert accounts_balance(manager)
    return manager, raised


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("error", [Fault, Interrupt])
@pytest.mark.parametrize("call", CALLS)
def test_a_collector_that_raises_at_any_call_leaves_the_call_complete(call, error, backend):
    undisturbed, raised = after(call, backend, 10**6, error)
    assert not raised
    expected, left = snapshot(undisturbed), 0
    while True:
        manager, raised = after(call, backend, left, error)
        if not raised:
            break
        assert snapshot(manager) == expected
        left += 1
    assert left >= 1


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_blocks_taken_by_hand_go_back_if_the_collector_raises(backend):
    """Who called gets an exception in place of the blocks, and could not free them."""
    collector = Collector()
    manager = make_manager(full(4), num_blocks=10, backend=backend, metrics_collector=collector)
    for left in range(3):
        collector.left = left
        with pytest.raises(Fault):
            manager.block_pool.get_new_blocks(3)
        assert manager.block_pool.get_num_free_blocks() == 9
        manager.check()


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("error", [Fault, Interrupt])
@pytest.mark.parametrize("maker", ["block_stored", "block_removed"])
def test_an_event_that_cannot_be_made_is_left_out(backend, error, maker, monkeypatch):
    def broken(*_):
        raise error

    manager = make_manager(full(4), num_blocks=12, backend=backend, enable_kv_cache_events=True)
    first = make_request("first", range(40), 4)
    admit(manager, first)
    manager.free(first)
    manager.take_events()
    with monkeypatch.context() as patch:
        patch.setattr(event_builders.EventBuilder, maker, broken)
        with pytest.raises(error):
            admit(manager, make_request("second", range(100, 120), 4))
    kinds = {type(event).__name__ for event in manager.take_events()}
    assert kinds == {"BlockStored", "BlockRemoved"} - {
        {"block_stored": "BlockStored", "block_removed": "BlockRemoved"}[maker]
    }
    assert len(manager.get_block_ids("second")[0]) == 5
    manager.check()


def test_the_first_of_several_faults_comes_out_and_none_is_kept():
    collector = Collector()
    manager = make_manager(full(4), num_blocks=10, metrics_collector=collector)
    faults = iter([Fault("first"), Fault("second")])

    def raises(_):
        raise next(faults)

    collector.on_block_allocated = raises
    with pytest.raises(Fault, match="first"):
        manager.allocate_slots(make_request("a", 8, 4), 8)
    collector.on_block_allocated = lambda _: None
    assert manager.allocate_slots(make_request("b", 8, 4), 8) is not None
    manager.check()


def test_freeing_needs_no_memory(monkeypatch):
    """Arrays that cannot be made, as when memory has ended."""
    manager = make_manager(full(4), window(4, 8), num_blocks=40)
    requests = [make_request(name, 30, 4) for name in "ab"]
    for request in requests:
        admit(manager, request)
    watched = manager.get_blocks("b")
    batch = BatchManager(manager, 4, 100)
    rows = batch.track(requests[:1])

    def no_memory(*_, **__):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(np, "empty", no_memory)
        patch.setattr(np, "concatenate", no_memory)
        manager.free(requests[1])
        batch.free_batch(rows)
    assert manager.block_pool.get_num_free_blocks() == 39
    assert watched.blocks is not None
    manager.check()
