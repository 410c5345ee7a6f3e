"""Real signals at random moments of real calls: their handler raises in the middle."""

import gc
import os
import random
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.interrupts import Interrupt
from support.managers import accounts_balance, admit, full, make_manager, make_request, window

from kvgpu.batch.manager import BatchManager

NUM_SIGNALS = int(os.environ.get("KVGPU_SIGNALS", "60"))
LONGEST_US = 400


def serve(manager, name):
    """Singly and in a batch, from the first lookup to the end."""
    request = make_request(f"{name}", [hash(name) % 7 * 50 + i for i in range(30)], 4)
    admit(manager, request)
    request.append_output_token_ids(5)
    manager.allocate_slots(request, 1)
    manager.free(request)
    batch = BatchManager(manager, 4, 100)
    requests = [make_request(f"{name}.{i}", 20 + i, 4) for i in range(3)]
    rows = batch.track(requests)
    batch.allocate_batch(rows, 100)
    batch.append_batch(rows, [1, 2, 3])
    batch.allocate_batch(rows, 1)
    batch.free_batch(rows)
    batch.untrack(rows)


@pytest.mark.parametrize("backend", ["host", "reference"])
def test_signals_lose_nothing_and_lock_nothing(backend):
    rng = random.Random(7)
    manager = make_manager(full(4), window(4, 8), num_blocks=60, backend=backend)
    for name in ("first", "first", "second"):  # compiled and loaded, also what hits need
        serve(manager, name)

    def raise_interrupt(*_):
        raise Interrupt

    before = signal.signal(signal.SIGALRM, raise_interrupt)
    gc.disable()  # what is raised in callbacks of the collector is dropped
    raised = 0
    try:
        for turn in range(NUM_SIGNALS):
            try:
                while True:
                    if signal.getitimer(signal.ITIMER_REAL)[0] == 0:  # again, if what the handler raised was dropped
                        signal.setitimer(signal.ITIMER_REAL, rng.randrange(1, LONGEST_US) / 1e6)
                    serve(manager, f"r{turn}")
            except Interrupt:
                raised += 1
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
            with ThreadPoolExecutor(1) as threads:
                threads.submit(manager.check).result()
            for single in manager.coordinator.single_type_managers:
                for name in list(single.req_to_blocks):
                    manager.coordinator.free(name)
            manager.check()
            assert accounts_balance(manager)
            assert manager.block_pool.get_num_free_blocks() == 59
            assert manager.block_pool.block_tables.num_used() == 0
    finally:
        gc.enable()
        signal.signal(signal.SIGALRM, before)
    assert raised == NUM_SIGNALS
