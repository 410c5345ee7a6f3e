"""The extension in C serves usual calls, leaves all others to Python with nothing changed, and keeps no object."""

import copy
import gc
import sys
import threading
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from support.managers import admit, chunked, decode, full, make_manager, make_request, snapshot, window

from kvgpu import native
from kvgpu.allocation import native_calls

pytestmark = pytest.mark.skipif(native.Calls is None, reason="the extension was not built, or is switched off")

MODELS = {
    "full": ((full(4),), {}),
    "full, eagle, statistics": ((full(4),), {"use_eagle": True, "log_stats": True}),
    "no caching": ((full(4),), {"enable_caching": False}),
    "full and windows": ((full(4), window(4, 8), window(4, 5)), {}),
    "full and chunked": ((full(4), chunked(4, 8)), {"log_stats": True}),
}


def plain_request(name, num_tokens, first=0):
    """A request with its hashes in a list."""
    request = make_request(name, list(range(first, first + num_tokens)), 4)
    request.block_hashes = list(request.block_hashes)
    return request


def used_manager(model="full", **more):
    """A manager that has served a request, so that compiled code knows the width of hashes."""
    specs, options = MODELS[model]
    manager = make_manager(*specs, num_blocks=60 * len(specs), max_model_len=400, **options, **more)
    for name in range(3):
        request = plain_request(f"used{name}", 90, 1000 * name)
        admit(manager, request)
        manager.free(request)
    return manager


def serve(manager, name, first=0):
    """One request from its lookup to its end; what all calls returned."""
    request, seen = plain_request(name, 22, first), []
    hits, num_hits = manager.get_computed_blocks(request)
    seen.append((hits.get_block_ids(), num_hits))
    seen.append(manager.allocate_slots(request, 22 - num_hits, num_hits, hits).get_block_ids())
    request.num_computed_tokens = 22
    for step in range(9):
        request.append_output_token_ids(step)
        request.block_hashes = list(request.block_hashes)
        seen.append(manager.allocate_slots(request, 1).get_block_ids())
        request.num_computed_tokens += 1
    seen += [manager.get_num_common_prefix_blocks(name), manager.get_block_ids(name)]
    manager.free(request)
    return seen


@pytest.mark.parametrize("model", MODELS)
def test_usual_calls_never_come_to_python(model, monkeypatch):
    manager = used_manager(model)
    served = []

    def asked(*call):
        raise AssertionError("Python was asked")

    for turn in range(2):
        served += [serve(manager, f"r{turn}{name}", name % 3) for name in range(6)]
        if not MODELS[model][1].get("enable_caching", True):
            continue
        monkeypatch.setattr(manager.lookups, "get_computed_blocks", asked)
        monkeypatch.setattr(manager.slots, "get_num_common_prefix_blocks", asked)
        monkeypatch.setattr(manager.slots, "allocate_slots", asked)
        monkeypatch.setattr(manager.slots, "free", asked)
    monkeypatch.undo()
    manager.check()
    without = used_manager(model)
    without.native = None
    assert [serve(without, f"r{turn}{name}", name % 3) for turn in range(2) for name in range(6)] == served
    assert snapshot(without) == snapshot(manager)
    assert without.make_prefix_cache_stats() == manager.make_prefix_cache_stats()


def test_an_extension_built_from_other_sources_is_not_used(monkeypatch, caplog):
    assert native_calls.agrees()
    native_calls.agrees.cache_clear()
    monkeypatch.setitem(native_calls.LAYOUT, "slots", (0, 1))
    try:
        assert make_manager(full(4)).native is None
        assert "install kvgpu again" in caplog.text
    finally:
        native_calls.agrees.cache_clear()


@pytest.mark.parametrize("state", ["inside", "torn", "events", "foreign"])
def test_calls_are_left_to_python_while_something_is_not_usual(state):
    manager, request = used_manager(), plain_request("a", 22)
    admit(manager, request)
    calls, before = manager.native, snapshot(manager)
    other = make_manager(full(4)).block_pool.blocks[1]
    {
        "inside": lambda: manager.turn.holders.update({-1: None}),
        "torn": lambda: setattr(manager.turn, "torn", True),
        "events": lambda: manager.block_pool.events.switch(True),
        "foreign": lambda: manager.block_pool.state.id_of(other),
    }[state]()
    found = (calls.free(request), calls.get_num_common_prefix_blocks("a"), calls.get_block_ids("a"))
    assert found == (NotImplemented,) * 3
    looked_up = calls.get_computed_blocks(request)
    if state == "events":  # which a lookup never causes
        assert looked_up[1] == 20
    else:
        assert looked_up is NotImplemented
    request.append_output_token_ids([7] * 4)
    assert calls.allocate_slots(request, (4, 0, None, 0, 0, False, 0, False, 0, 0, 0, ())) is NotImplemented
    assert snapshot(manager) == before


@pytest.mark.parametrize("state", ["events", "mirrors", "has_odd_names"])
def test_lookups_do_not_mind_what_is_no_business_of_theirs(state):
    manager, request = used_manager(), plain_request("a", 22)
    admit(manager, request)
    if state == "events":
        manager.block_pool.events.switch(True)
    else:
        setattr(manager.block_pool.block_tables, state, 1)
    answers = [find(request) for find in (manager.native.get_computed_blocks, manager.lookups.get_computed_blocks)]
    assert [(blocks.get_block_ids(), num_hits) for blocks, num_hits in answers] == [(([1, 2, 3, 4, 5],), 20)] * 2


ODD = [None, -1, 0, 2**31, 2**63, -(2**70), True, 1.5, "4", b"", [], [b"x"], (), np.int64(4), np.arange(3), object()]


class Rising:
    """Attributes that raise an error when they are read."""

    def __getattr__(self, name):
        raise ValueError(name)


@pytest.mark.parametrize("seed", range(3))
def test_odd_requests_and_arguments_are_left_to_python(seed):
    """What C does not understand it must not touch; Python's own checks are tested elsewhere."""
    rng = np.random.default_rng(seed)
    manager, kinds = used_manager("full and windows"), Counter()
    calls, state = manager.native, snapshot(manager)
    request = plain_request("a", 22)
    names = ("request_id", "block_hashes", "num_tokens", "num_computed_tokens", "num_prompt_tokens")
    for _ in range(2000):
        facts = {name: getattr(request, name) for name in names}
        facts["skip_reading_prefix_cache"] = False
        name = list(facts)[int(rng.integers(len(facts)))]
        given = [22, 0, None, 0, 0, False, 0, False, 0, 0, 0, ()]
        if rng.random() < 0.5:
            facts[name] = ODD[int(rng.integers(len(ODD)))]
        else:
            given[int(rng.integers(len(given)))] = ODD[int(rng.integers(len(ODD)))]
        odd = SimpleNamespace(**facts)
        if rng.random() < 0.1:
            odd = ODD[int(rng.integers(len(ODD)))] if rng.random() < 0.5 else Rising()
        got = calls.allocate_slots(odd, tuple(given))
        kinds[type(got)] += 1
        if got is NotImplemented or got is None:
            assert snapshot(manager) == state
        else:
            assert calls.free(odd) is None
            state = snapshot(manager)
        for answer in (
            calls.get_computed_blocks(odd),
            calls.get_num_common_prefix_blocks(odd),
            calls.get_block_ids(odd),
            calls.free(odd),
        ):
            kinds[type(answer)] += 1
        assert snapshot(manager) == state
    manager.check()
    assert kinds[type(NotImplemented)] > 1000
    assert len(kinds) > 2


def test_an_interrupt_while_a_request_is_read_comes_out():
    class Interrupted:
        skip_reading_prefix_cache = False
        request_id = "a"

        @property
        def block_hashes(self):
            raise KeyboardInterrupt

        num_computed_tokens = property(block_hashes.fget)

    manager = used_manager()
    before = snapshot(manager)
    for call in (manager.get_computed_blocks, lambda request: manager.allocate_slots(request, 1)):
        with pytest.raises(KeyboardInterrupt):
            call(Interrupted())
    assert snapshot(manager) == before


def test_a_request_that_changes_while_it_is_read_is_served_as_it_was_read():
    """A property may run any code, and change the list of hashes."""
    manager, hashes = used_manager(), list(plain_request("a", 90).block_hashes)

    class Changing:
        skip_reading_prefix_cache, request_id, num_computed_tokens, num_prompt_tokens = False, "a", 0, 90
        block_hashes = hashes

        @property
        def num_tokens(self):
            hashes.clear()
            return 90

    request = Changing()
    assert manager.get_computed_blocks(request) == (manager.empty_kv_cache_blocks, 0)
    assert manager.native.allocate_slots(request, (90, 0, None, 0, 0, False, 0, False, 0, 0, 0, ())) is NotImplemented
    manager.check()


@pytest.mark.parametrize("model", MODELS)
def test_nothing_is_left_behind(model):
    """Objects that a call makes are given back: their number does not grow with the number of calls."""
    manager = used_manager(model)

    def rounds(count):
        for name in range(count):
            serve(manager, "again", name % 3)
            manager.native.get_computed_blocks(None)
            manager.native.allocate_slots(plain_request("b", 9), (1, 8, 5, 0, 0, False, 0, False, 0, 0, 0, ()))
            manager.take_new_block_ids()
        gc.collect()
        return sys.getallocatedblocks()

    rounds(20)
    before = rounds(20)
    assert rounds(200) - before < 100


def test_who_looks_at_blocks_that_are_freed_goes_on_to_see_them():
    manager, request = used_manager(), plain_request("a", 22)
    admit(manager, request)
    held = manager.get_blocks("a")
    ids = held.get_block_ids()
    assert manager.native.free(request) is None
    admit(manager, plain_request("b", 22, 500))
    assert held.get_block_ids() == ids
    manager.check()


def test_a_copy_has_calls_of_its_own():
    manager = used_manager()
    twin, untouched = copy.deepcopy(manager), snapshot(manager)
    assert twin.native is not manager.native
    assert serve(twin, "a") == serve(copy.deepcopy(manager), "a")
    assert snapshot(manager) == untouched
    twin.check()


def test_a_second_thread_is_refused_or_waits_for_nothing():
    """Calls of two threads never mix: one that comes while another is inside is refused by Python."""
    manager, failures = used_manager("full and windows"), []

    def run(first):
        for name in range(200):
            try:
                request = plain_request(f"{first}{name}", 22, first)
                hits, num_hits = manager.get_computed_blocks(request)
                if manager.allocate_slots(request, 22 - num_hits, num_hits, hits) is not None:
                    manager.free(request)
            except Exception as error:
                failures.append(error)

    threads = [threading.Thread(target=run, args=(first,)) for first in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {type(failure).__name__ for failure in failures} <= {"ConcurrentUseError", "ArgumentError"}
    manager.check()


def test_decoding_is_served_in_c_and_covered_calls_return_the_shared_object():
    manager, request = used_manager(), plain_request("a", 5)
    admit(manager, request)
    decode(manager, request, 2)
    request.append_output_token_ids(1)
    given = (1, 0, None, 0, 0, False, 0, False, 0, 0, 0, ())
    assert manager.native.allocate_slots(request, given) is manager.empty_kv_cache_blocks
    assert manager.native.cache_blocks(request, request.num_tokens) is None
    assert manager.native.cache_blocks(request, 400) is NotImplemented
    assert manager.native.cache_blocks(request, -1) is NotImplemented
    assert manager.native.cache_blocks(plain_request("unknown", 5), 1) is NotImplemented
