"""A call that an exception from outside cuts short: nothing is lost, nothing stays locked."""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from support.interrupts import AtLine, Interrupt, every_line
from support.managers import (
    CPU_BACKENDS,
    accounts_balance,
    admit,
    chunked,
    full,
    make_manager,
    make_request,
    mamba,
    window,
)

from kvgpu.batch.manager import BatchManager
from kvgpu.config.cache_hints import HintLimits
from kvgpu.hashing.map_keys import make_block_hash_with_group_id
from kvgpu.metrics import KVCacheMetricsCollector

GROUPS = {
    "full": (full(4),),
    "windows": (full(4), window(4, 8)),
    "mamba": (full(4), mamba(4, "align")),
    "chunks": (chunked(4, 8),),
}
OPTIONS = {
    "plain": {},
    "told": {"enable_kv_cache_events": True, "log_stats": True, "metrics_collector": True},
    "hinted": {"hints": HintLimits(), "eviction": "slru"},
}
STEP = int(os.environ.get("KVGPU_INTERRUPT_STEP", "41"))
"""Lines between those at which a call is interrupted, other ones of each: 1 for every line."""

per_manager = pytest.mark.parametrize(
    ("groups", "options", "backend"),
    [(groups, options, backend) for groups in GROUPS for options in OPTIONS for backend in CPU_BACKENDS],
)


class Served:
    """A small pool that is full of cached blocks, with a request that runs and one that waits."""

    def __init__(self, groups, options, backend):
        given = dict(OPTIONS[options])
        if given.pop("metrics_collector", None):
            given["metrics_collector"] = KVCacheMetricsCollector(1.0)
        self.manager = make_manager(*GROUPS[groups], num_blocks=30, backend=backend, **given)
        for name in range(6):
            request = make_request(f"old{name}", [name * 50 + i for i in range(20)], 4)
            if admit(self.manager, request) is not None:
                self.manager.new_step_starts()
                self.manager.free(request)
        self.running = make_request("running", 14, 4)
        admit(self.manager, self.running, delay_cache_blocks=True)
        self.waiting = make_request("waiting", [*range(12), *range(90, 100)], 4)
        self.manager.new_step_starts()
        self.given = self.manager.block_pool.get_new_blocks(2)
        self.taken = []

    def is_sound(self):
        """Everything agrees, another thread may come in, and after both requests are freed all blocks are free."""
        manager = self.manager
        with ThreadPoolExecutor(1) as threads:
            threads.submit(manager.check).result()
        manager.free(self.running)
        manager.free(self.waiting)
        pool = manager.block_pool
        for blocks in (self.given, self.taken, pool.blocks[3:9]):
            pool.free_blocks([b for b in blocks if pool.holders.handed_out[b.block_id]])
        manager.check()
        assert accounts_balance(manager)
        assert manager.block_pool.get_num_free_blocks() == manager.block_pool.num_gpu_blocks - 1
        assert manager.block_pool.block_tables.num_used() == 0
        again = make_request("again", 25, 4)
        assert admit(manager, again) is not None
        manager.free(again)
        manager.check()


CALLS = {
    "get_computed_blocks": lambda s: s.manager.get_computed_blocks(s.waiting),
    "admit": lambda s: admit(s.manager, s.waiting),
    "grow": lambda s: s.manager.allocate_slots(s.running, 10),
    "cache": lambda s: s.manager.cache_blocks(s.running, 14),
    "free": lambda s: s.manager.free(s.running),
    "evict": lambda s: s.manager.evict_blocks(range(30)),
    "remove_skipped": lambda s: s.manager.remove_skipped_blocks("running", 14),
    "reset": lambda s: (s.manager.free(s.running), s.manager.reset_prefix_cache()),
    "take blocks": lambda s: setattr(s, "taken", s.manager.block_pool.get_new_blocks(9)),
    "touch": lambda s: s.manager.block_pool.touch(s.manager.block_pool.blocks[3:9]),
    "give back": lambda s: s.manager.block_pool.free_blocks(s.given),
}


@per_manager
@pytest.mark.parametrize("call", CALLS)
def test_an_interrupt_at_any_line_loses_nothing(groups, options, backend, call):
    for _, served in every_line(lambda: Served(groups, options, backend), CALLS[call], STEP):
        served.is_sound()


class First:
    """A pool that has seen no hash yet."""

    def __init__(self, backend):
        self.manager = make_manager(full(4), backend=backend)
        self.request = make_request("first", 9, 4)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_an_interrupt_of_the_first_request_of_a_pool_loses_nothing(backend):
    """Hashes in records cannot be read before their width is known."""
    keys = [make_block_hash_with_group_id(h, 0) for h in First(backend).request.block_hashes]
    for _, first in every_line(lambda: First(backend), lambda s: admit(s.manager, s.request)):
        first.manager.check()
        for block in first.manager.block_pool.blocks:
            assert block.block_hash in (None, *keys)
        first.manager.free(first.request)
        again = make_request("again", 9, 4)
        assert admit(first.manager, again) is not None
        first.manager.check()


class Batched(Served):
    """The same with requests in a batch."""

    def __init__(self, groups, options, backend):
        super().__init__(groups, options, backend)
        self.batch = BatchManager(self.manager, 4, 100)
        self.row = self.batch.track([self.running])
        self.more = [make_request(f"more{i}", 9 + i, 4) for i in range(2)]

    def is_sound(self):
        with ThreadPoolExecutor(1) as threads:
            threads.submit(self.batch.match, np.zeros(0, np.int64)).result()
        for request in self.more:
            self.manager.free(request)
        super().is_sound()


BATCH_CALLS = {
    "admit": lambda s: s.batch.allocate_batch(s.batch.track(s.more), 100),
    "grow": lambda s: s.batch.allocate_batch(s.row, 10),
    "append": lambda s: s.batch.append_batch(s.row, [1, 2, 3], [3]),
    "free": lambda s: s.batch.free_batch(s.row, preempt=True),
    "untrack": lambda s: s.batch.untrack(s.row),
}


@per_manager
@pytest.mark.parametrize("call", BATCH_CALLS)
def test_an_interrupt_of_a_batch_loses_nothing(groups, options, backend, call):
    for _, served in every_line(lambda: Batched(groups, options, backend), BATCH_CALLS[call], STEP):
        served.is_sound()


@pytest.mark.parametrize("error", [RuntimeError, MemoryError, SystemError, KeyboardInterrupt])
def test_any_exception_from_outside_is_survived(error):
    served = Served("windows", "plain", "host")
    with pytest.raises(error), AtLine(60, error):
        admit(served.manager, served.waiting)
    served.is_sound()


@pytest.mark.parametrize("times", [1, 2, 3])
def test_an_interrupt_that_compiled_code_was_busy_for_comes_out_as_itself(times):
    """Compiled code that returns while an exception is pending becomes a SystemError, and so does its caller then."""
    served = Served("full", "plain", "host")
    wrapped = Interrupt()
    for _ in range(times):
        cause, wrapped = wrapped, SystemError("returned a result with an exception set")
        wrapped.__cause__ = cause

    def interrupted(name):
        raise wrapped

    served.manager.native = None
    served.manager.slots.arrays.free = interrupted
    with pytest.raises(Interrupt):
        served.manager.free(served.running)
    del served.manager.slots.arrays.free
    served.is_sound()
