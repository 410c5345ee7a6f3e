"""What interrupts a call that the extension in C serves: no memory, a signal, code of names. No block is lost."""

import copy
import sys

import numpy as np
import pytest
from support.managers import admit, full, make_manager, make_request, snapshot, window

from kvgpu import native
from kvgpu.blocks.block_list import BlockList
from kvgpu.blocks.kv_cache_blocks import KVCacheBlocks
from kvgpu.compiled.addresses import address_of_code
from kvgpu.compiled.jit import jit
from kvgpu.errors import ArgumentError, InvariantError

pytestmark = pytest.mark.skipif(native.Calls is None, reason="the extension was not built, or is switched off")

REST = (0, None, 0, 0, False, 0, False, 0, 0, 0, ())


def plain_request(name, num_tokens, first=0):
    request = make_request(name, list(range(first, first + num_tokens)), 4)
    request.block_hashes = list(request.block_hashes)
    return request


@pytest.fixture(params=[1, 2], ids=["full", "full and window"])
def manager(request):
    specs = (full(4), window(4, 8))[: request.param]
    manager = make_manager(*specs, num_blocks=60 * len(specs), max_model_len=100)
    for first in (0, 300):
        earlier = plain_request(f"earlier{first}", 40, first)
        admit(manager, earlier)
        manager.get_num_common_prefix_blocks(earlier.request_id)
        manager.free(earlier)
    return manager


def held_counts(manager):
    """Users of all blocks, and what requests hold, as they are after the next call has restored the state."""
    manager.new_step_starts()
    manager.check()
    return snapshot(manager)


@pytest.mark.skipif(
    sys.version_info[:2] == (3, 12), reason="CPython 3.12 crashes after it had no memory to make a function"
)
@pytest.mark.parametrize("call", ["look up", "allocate", "go on", "free", "free what is looked at", "ids", "common"])
def test_a_call_without_memory_is_done_or_undone(manager, call):
    """Each allocation of CPython fails in turn."""
    memory = pytest.importorskip("_testcapi")
    failures = 0
    for nth in range(60):
        twin = copy.deepcopy(manager)
        new, running = plain_request("new", 22), plain_request("running", 22, 300)
        admit(twin, running)
        handed_out = twin.block_pool.get_new_blocks(3)
        if call == "go on":
            running.append_output_token_ids([1, 2, 3, 4])
            running.block_hashes = list(running.block_hashes)
        seen = twin.get_blocks("running") if call == "free what is looked at" else None
        calls = twin.native
        serve = {
            "look up": lambda c=calls, r=new: c.get_computed_blocks(r),
            "allocate": lambda c=calls, r=new: c.allocate_slots(r, (22, *REST)),
            "go on": lambda c=calls, r=running: c.allocate_slots(r, (4, *REST)),
            "ids": lambda c=calls: c.get_block_ids("running"),
            "common": lambda c=calls: c.get_num_common_prefix_blocks("running"),
        }.get(call, lambda c=calls, r=running: c.free(r))
        memory.set_nomemory(nth, nth + 1)
        try:
            serve()
        except MemoryError:
            failures += 1
        finally:
            memory.remove_mem_hooks()
        held_counts(twin)
        assert [block.ref_cnt for block in handed_out] == [1, 1, 1]
        del seen
    assert failures > 0


@jit
def _without_memory(address: int) -> int:
    return len(np.empty(address, np.int64))


@pytest.mark.parametrize("call", ["get_computed_blocks", "allocate_slots", "free"])
def test_compiled_code_without_memory_is_an_error_and_never_an_answer(manager, call, monkeypatch):
    from kvgpu.allocation import native_calls

    monkeypatch.setattr(native_calls, "address_of_code", lambda *_: address_of_code(_without_memory, 1))
    running = plain_request("running", 22)
    admit(manager, running)
    manager.native = native_calls.native_calls(manager.coordinator, manager.slots, manager.lookups)
    before = snapshot(manager)
    arguments = (plain_request("new", 22), 22) if call == "allocate_slots" else (running,)
    with pytest.raises(MemoryError):
        getattr(manager, call)(*arguments)
    assert manager.turn.torn == (call != "get_computed_blocks")
    if call != "free":
        assert held_counts(manager)["ref_cnt"] == before["ref_cnt"]


class Name:
    """A name that runs code when it is compared with one of equal hash."""

    def __init__(self, name, run):
        self.name, self.run = name, run

    def __hash__(self):
        return hash(self.name)

    def __eq__(self, other):
        if other is not self and other == self.name:
            self.run()
        return other is self


def test_names_that_run_code_are_left_to_python(manager):
    def do():
        if interrupts:
            raise KeyboardInterrupt

    odd, request, interrupts = plain_request("odd", 22), plain_request("a", 22), []
    odd.request_id = Name("a", do)
    assert admit(manager, odd) is not None
    assert manager.native.free(request) is NotImplemented
    assert manager.native.allocate_slots(request, (22, *REST)) is NotImplemented
    interrupts.append(True)
    with pytest.raises(KeyboardInterrupt):
        manager.native.allocate_slots(request, (22, *REST))
    manager.free(odd)
    manager.check()


def test_what_a_signal_handler_raises_while_a_request_is_read_comes_out(manager):
    class Late:
        request_id, skip_reading_prefix_cache = "late", False

        @property
        def num_computed_tokens(self):
            raise TimeoutError("of a handler")

        block_hashes = num_computed_tokens

    with pytest.raises(TimeoutError):
        manager.get_computed_blocks(Late())
    with pytest.raises(TimeoutError):
        manager.allocate_slots(Late(), 1)


def test_too_many_tokens_are_refused_by_python(manager):
    request = plain_request("a", 22)

    class Long:
        skip_reading_prefix_cache, request_id, block_hashes, num_tokens = False, "a", request.block_hashes, 2**31

    with pytest.raises(ArgumentError, match="num_tokens"):
        manager.get_computed_blocks(Long())


def test_what_is_broken_is_an_error_and_is_mended_by_the_next_call(manager):
    from kvgpu.blocks.index_meta import BROKEN

    manager.block_pool.state.meta[BROKEN] = 1
    with pytest.raises(InvariantError):
        manager.allocate_slots(plain_request("new", 22), 22)
    held_counts(manager)


def test_lists_of_others_are_left_to_python():
    class Own(BlockList):
        table_id, _store = 3, object()

    state = make_manager(full(4)).block_pool.state
    assert KVCacheBlocks((Own(state, np.arange(3, dtype=np.int32)),)).get_block_ids() == ([0, 1, 2],)
    assert native.block_ids((Own(state),)) is NotImplemented
    assert native.block_ids(None) is NotImplemented
    assert native.block_ids((object(),)) is NotImplemented


def test_a_copy_counts_its_own_free_blocks(manager):
    twin = copy.deepcopy(manager)
    before = twin.block_pool.get_num_free_blocks()
    admit(twin, plain_request("new", 22, 600))
    assert twin.block_pool.get_num_free_blocks() < before == manager.block_pool.get_num_free_blocks()
    twin.check()
