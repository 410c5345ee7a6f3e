"""Threads, and processes that were forked: an error or a right answer, never a race."""

import os
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import numpy as np
import pytest
from support.indexes import device_backends
from support.managers import admit, full, make_manager, make_request, snapshot

from kvgpu.batch.manager import BatchManager
from kvgpu.errors import ConcurrentUseError, DeviceError


class Gate:
    """A metrics collector that holds whoever allocates inside the manager."""

    def __init__(self):
        self.inside, self.leave = Event(), Event()

    def on_block_allocated(self, block):
        self.inside.set()
        assert self.leave.wait(30)

    def on_block_accessed(self, block):
        pass

    def on_block_evicted(self, block):
        pass


CALLS = {
    "get_computed_blocks": lambda m, b, r: m.get_computed_blocks(r),
    "allocate_slots": lambda m, b, r: m.allocate_slots(r, 9),
    "free": lambda m, b, r: m.free(r),
    "evict_blocks": lambda m, b, r: m.evict_blocks([1]),
    "reset_prefix_cache": lambda m, b, r: m.reset_prefix_cache(),
    "take_events": lambda m, b, r: m.take_events(),
    "check": lambda m, b, r: m.check(),
    "track": lambda m, b, r: b.track([r]),
    "match": lambda m, b, r: b.match(),
    "allocate_batch": lambda m, b, r: b.allocate_batch(np.array([0]), 5),
    "append_batch": lambda m, b, r: b.append_batch(np.array([0]), [1]),
    "free_batch": lambda m, b, r: b.free_batch(np.array([0])),
    "sync": lambda m, b, r: b.sync(),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_second_thread_gets_an_error_and_changes_nothing(call):
    gate = Gate()
    manager = make_manager(full(4), metrics_collector=gate)
    batch = BatchManager(manager, 4, 100)
    waiting = make_request("waiting", 20, 4)
    batch.track([waiting])
    first, second = make_request("first", 5, 4), make_request("second", 9, 4)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(admit, manager, first)
        assert gate.inside.wait(30)
        before = snapshot(manager)
        with pytest.raises(ConcurrentUseError, match=call):
            CALLS[call](manager, batch, second)
        assert snapshot(manager) == before
        gate.leave.set()
        assert running.result() is not None
    CALLS[call](manager, batch, second)  # now that the other thread has left
    manager.check()


def test_a_manager_can_be_handed_from_thread_to_thread():
    manager = make_manager(full(4))
    for turn in range(3):
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(admit, manager, make_request(f"r{turn}", 9, 4)).result()
    manager.check()


def test_a_collector_may_ask_the_manager_that_called_it():
    manager = make_manager(full(4))

    class Curious(Gate):
        def on_block_allocated(self, block):
            assert manager.take_events() == []

    manager.block_pool.allocator.metrics_collector = Curious()
    manager.slots.arrays = None
    assert admit(manager, make_request("a", 9, 4)) is not None


def in_a_fork(action):
    """Exit status of a forked process: 0 if the action returned true."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            status = 0 if action() else 1
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_goes_on_with_a_copy():
    manager, request = make_manager(full(4)), make_request("a", 17, 4)
    admit(manager, request)
    before = snapshot(manager)

    def goes_on():
        manager.free(request)
        return manager.get_computed_blocks(make_request("b", 17, 4))[1] == 16

    assert in_a_fork(goes_on) == 0
    assert snapshot(manager) == before


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@device_backends
def test_a_device_refuses_a_forked_process(backend):
    manager, request = make_manager(full(4), backend=backend), make_request("a", 17, 4)
    admit(manager, request)
    assert manager.get_computed_blocks(request)[1] == 16

    def refuses():
        try:
            manager.get_computed_blocks(request)
        except DeviceError as error:
            return "spawn" in str(error)
        return False

    assert in_a_fork(refuses) == 0
    assert manager.get_computed_blocks(request)[1] == 16
