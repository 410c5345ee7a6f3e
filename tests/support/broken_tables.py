"""Plants one fault after the other into records and tables, and says how each call ended. Run by test_broken_tables."""

from collections.abc import Callable

import numpy as np
from support.managers import admit, full, make_manager, make_request

import kvgpu
from kvgpu.blocks.free_order import HEAD, NUM_FREE, TAIL
from kvgpu.blocks.state import BlockState
from kvgpu.errors import InvariantError
from kvgpu.index.host.index import HostIndex
from kvgpu.layout import OVERFLOW_WORD, SLOTS_PER_BUCKET

SIZE = 4
ROWS = np.random.default_rng(0).integers(-(2**63), 2**63 - 1, (30, 4))
FOREIGN_WORD = 2 << 32 | 1
"""Has an even tag, which no key has."""


SCENES: list[Callable[[], None]] = []


def scene(function):
    SCENES.append(function)
    return function


def make_index(count=20, entered=6, copies=1):
    """An index whose first blocks are in, with so many different keys as there are blocks to each."""
    state = BlockState(count)
    state.adopt_width(32)
    index = HostIndex(state)
    insert(index, range(entered), np.repeat(ROWS, copies, 0)[:entered])
    return index


def insert(index, ids, rows):
    index.insert(np.array(list(ids), np.int32), np.atleast_2d(rows), 1, 0, 0)


def fill(index):
    index.table[:, :SLOTS_PER_BUCKET] = FOREIGN_WORD


def make_led(backend="host"):
    """A manager with a request that holds blocks 1 to 6, of which all but the first are led."""
    manager = make_manager(full(SIZE), num_blocks=30, backend=backend)
    request = make_request("a", 6 * SIZE, SIZE)
    assert admit(manager, request) is not None
    return manager, request


@scene
def entering_into_a_full_table():
    index = make_index()
    fill(index)
    insert(index, [7], ROWS[7])


@scene
def settling_into_a_full_table():
    manager, _ = make_led()
    fill(manager.block_pool.index)
    manager.block_pool.index.settle()


@scene
def allocating_into_a_full_table():
    manager, _ = make_led()
    fill(manager.block_pool.index)
    admit(manager, make_request("b", range(100, 100 + 3 * SIZE), SIZE))


@scene
def a_step_of_a_batch_into_a_full_table():
    manager, _ = make_led()
    fill(manager.block_pool.index)
    batch = kvgpu.BatchManager(manager, 4, 40)
    rows = batch.track([make_request("b", range(100, 100 + 3 * SIZE), SIZE)])
    batch.allocate_batch(rows, 3 * SIZE)


@scene
def looking_up_where_every_bucket_has_overflowed():
    index = make_index()
    index.table[:, OVERFLOW_WORD] = -1
    assert index.first(ROWS[20], 0) == -1


@scene
def taking_out_what_has_no_word():
    index = make_index()
    index.table[:] = 0
    try:
        index.erase(np.array([3], np.int32))
    finally:
        assert not index.table.any(), "counts of buckets were changed"


@scene
def taking_out_of_a_ring_that_leads_out_of_the_pool():
    index = make_index(copies=3)
    index.state.records["same_next"][1] = 2**30
    index.erase(np.array([1], np.int32))


@scene
def taking_out_of_a_ring_that_skips_a_block():
    index = make_index(copies=3)
    index.state.records["same_next"][0] = 2
    index.erase(np.array([1], np.int32))


@scene
def entering_behind_a_block_that_does_not_exist():
    index = make_index()
    index.state.records["same_prev"][2] = -500
    insert(index, [7], ROWS[2])


@scene
def entering_a_block_that_is_in():
    index = make_index()
    insert(index, [3], ROWS[7])


@scene
def going_on_behind_a_ring_without_a_first_block():
    manager = make_manager(full(SIZE), num_blocks=30, backend="host")
    requests = [make_request(name, 2 * SIZE, SIZE) for name in "ab"]
    for request in requests:
        manager.allocate_slots(request, 2 * SIZE)
        request.num_computed_tokens = 2 * SIZE
    manager.block_pool.state.records["same_next"][4] = 4
    requests[1].append_output_token_ids(list(range(SIZE)))
    assert manager.allocate_slots(requests[1], SIZE) is not None


@scene
def reading_a_ring_that_never_comes_back():
    index = make_index(copies=3)
    index.state.records["same_next"][2] = 1
    index.chain(0)


@scene
def checking_many_rings_that_never_come_back():
    index = make_index(4000, 20, 2)
    rows = np.random.default_rng(1).integers(-(2**63), 2**63 - 1, (3900, 4))
    insert(index, range(20, 3920), rows)
    index.state.records["same_next"][20:3920] = np.roll(np.arange(20, 3920), -1)
    index.state.records["same_next"][3919] = 3919
    index.check()


@scene
def checking_a_free_queue_that_uses_more_slots_than_there_are():
    manager, _ = make_led()
    manager.block_pool.state.free.queue_words[TAIL] = 2**62
    manager.check()


@scene
def checking_a_free_queue_that_leads_out_of_the_pool():
    manager, _ = make_led()
    _, order, words = manager.block_pool.state.free
    order[words[HEAD]] = 2**30
    manager.check()


@scene
def checking_a_free_queue_that_counts_too_many():
    manager, _ = make_led()
    manager.block_pool.state.free.queue_words[NUM_FREE] = 2**31 - 1
    manager.check()


@scene
def checking_a_free_queue_that_counts_less_than_none():
    manager, _ = make_led()
    manager.block_pool.state.free.queue_words[NUM_FREE] = -1
    manager.check()


@scene
def taking_out_what_the_dict_does_not_have():
    manager, _ = make_led("reference")
    manager.block_pool.state.records["k0"][3] ^= 1
    manager.evict_blocks({3})


@scene
def a_call_after_one_that_saw_a_fault():
    """It is not forgotten, so that no later call trusts the table."""
    index = make_index()
    insert_one = [8], ROWS[8]
    try:
        entering = index.table.copy()
        fill(index)
        insert(index, [7], ROWS[7])
    except InvariantError:
        index.table[:] = entering
    insert(index, *insert_one)


@scene
def a_reset_after_a_fault():
    manager, request = make_led()
    fill(manager.block_pool.index)
    try:
        admit(manager, make_request("b", range(100, 100 + 3 * SIZE), SIZE))
    except InvariantError:
        manager.block_pool.prefix_cache.clear()
    manager.block_pool.index.check()
    assert manager.get_computed_blocks(request)[1] == 0


def main() -> None:
    """A line for each scene: its name, and the type of the error that ended it or `ended`."""
    for play in SCENES:
        result = "ended"
        try:
            play()
        except Exception as error:
            result = f"{type(error).__name__}: {error}"
        print(f"{play.__name__} {result}", flush=True)


if __name__ == "__main__":
    main()
