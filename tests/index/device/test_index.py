"""Indexes whose lookups are answered from a copy on a device, and the one that chooses."""

import logging
import sys

import pytest
from support.device.tables import torch
from support.indexes import erase, insert, make_index, match, random_rows
from support.managers import admit, full, make_manager, make_request

from kvgpu.batch.queries import BatchQueries
from kvgpu.device import tensors
from kvgpu.errors import ArgumentError, DeviceError, InvariantError
from kvgpu.hashing.hash_arena import HashArena
from kvgpu.index.device import index as device
from kvgpu.index.device.auto import AutoIndex, crossover_of
from kvgpu.index.request_spans import RequestSpans
from kvgpu.rules.plan import HitQuery, HitRule, PrefixPlan
from kvgpu.rules.plan_words import FULL

RULE = HitRule(FULL, 1, 1)
PLAN = PrefixPlan((HitQuery(RULE, (0,)),))


def lookup(index, rows):
    return match(index, RULE, (0,), rows, len(rows))[0]


@pytest.fixture
def index():
    index = make_index("triton", 8)
    insert(index, [1, 2, 3], random_rows(3))
    return index


def no_host(*arguments):
    raise AssertionError("the host answered")


def test_lookups_are_answered_by_the_device(index, monkeypatch):
    monkeypatch.setattr("kvgpu.index.host.index.match_one", no_host)
    assert lookup(index, random_rows(4)) == [1, 2, 3]


def test_changes_reach_the_device_before_the_next_lookup(index):
    assert lookup(index, random_rows(3)) == [1, 2, 3]
    erase(index, 2)
    assert lookup(index, random_rows(3)) == [1]
    insert(index, [4], random_rows(3)[1])
    assert lookup(index, random_rows(3)) == [1, 4, 3]
    index.check()


def test_a_flush_sends_only_what_changed(index, monkeypatch):
    lookup(index, random_rows(3))
    sent = []
    real = device.BlockHashTable.update_async

    def update(table, keys, new, groups, **options):
        sent.append(len(keys))
        real(table, keys, new, groups, **options)

    monkeypatch.setattr(device.BlockHashTable, "update_async", update)
    erase(index, 2)
    insert(index, [2], random_rows(5)[4])
    lookup(index, random_rows(3))
    lookup(index, random_rows(3))
    assert sent == [2]


def test_more_changes_than_blocks_are_sent_as_a_rebuild(index):
    lookup(index, random_rows(3))
    for _ in range(10):
        erase(index, 2)
        insert(index, [2], random_rows(3)[1])
    assert len(index.journal) <= 8
    assert lookup(index, random_rows(3)) == [1, 2, 3]
    index.check()


def test_hashes_of_another_width_after_a_reset_get_another_table(index):
    lookup(index, random_rows(3))
    index.clear()
    index.state.forget_keys()
    index.state.adopt_width(16)
    rows = random_rows(2)
    rows[:, 2:] = 0
    insert(index, [5, 6], rows)
    assert lookup(index, rows) == [5, 6]
    assert index.flush().key_bytes == 16
    index.check()


def test_check_finds_what_only_the_device_has_wrong(index):
    table = index.flush()
    table.view.records[2, 0] += 1
    with pytest.raises(InvariantError, match="on the device"):
        index.check()


def test_check_finds_a_change_that_the_device_missed(index):
    index.flush()
    erase(index, 2)
    index.journal.discard()
    with pytest.raises(InvariantError, match="other first blocks"):
        index.check()


def break_once(monkeypatch):
    """The next batch lookup fails as a CUDA call does."""
    real = device.BlockHashTable.longest_prefix_async
    failures = [RuntimeError("CUDA error: an illegal memory access was encountered")]

    def longest_prefix(*arguments, **options):
        if failures:
            raise failures.pop()
        return real(*arguments, **options)

    monkeypatch.setattr(device.BlockHashTable, "longest_prefix_async", longest_prefix)


def test_a_failure_of_the_device_is_a_typed_error_and_loses_nothing(index, monkeypatch):
    break_once(monkeypatch)
    with pytest.raises(DeviceError, match="illegal memory access"):
        lookup(index, random_rows(3))
    assert lookup(index, random_rows(3)) == [1, 2, 3]
    index.check()


def test_a_table_that_contradicts_the_host_is_made_anew(index):
    index.flush().view.words.zero_()
    erase(index, 2)
    with pytest.raises(InvariantError, match="rebuild"):
        lookup(index, random_rows(3))
    assert lookup(index, random_rows(3)) == [1]
    index.check()


def test_a_flush_that_fails_half_way_is_made_up_for(index, monkeypatch):
    lookup(index, random_rows(3))
    erase(index, 2)
    moved, failures = index._moved, [MemoryError("out of memory")]

    def fail_once(array):
        if failures:
            raise failures.pop()
        return moved(array)

    monkeypatch.setattr(index, "_moved", fail_once)
    queries = HashArena(3)
    queries.words[:] = random_rows(3)
    spans = RequestSpans.in_arena([0], [3], [3])
    with pytest.raises(DeviceError, match="out of memory"):
        index.match_batch(PLAN, queries, spans)
    assert index.match_batch(PLAN, queries, spans).num_tokens.tolist() == [1]


def test_a_lookup_on_another_stream_waits_for_the_one_before(index, monkeypatch):
    waited, streams = [], iter([0, 0, 5, 5, 7])
    monkeypatch.setattr(device, "wait_for_stream", lambda stream, _: waited.append(stream))
    monkeypatch.setattr(index, "_current_stream", lambda: next(streams))
    index._stream = None
    for _ in range(5):
        index.flush()
    assert waited == [0, 5]


def test_hashes_written_here_and_there_arrive_in_one_copy(index, monkeypatch):
    arena = HashArena(40)
    arena.words[:] = random_rows(40)
    plan = PrefixPlan((HitQuery(HitRule(FULL, 1, 1), (0,)),))
    spans = RequestSpans.in_arena([0], [40], [40])
    index.match_batch(plan, arena, spans)
    for begin, end in ((3, 5), (20, 21), (30, 34), (20, 22), (7, 7)):
        arena.words[begin:end] += 1
        arena.wrote(begin, end)
    moved = []
    monkeypatch.setattr(index, "_moved", lambda array, move=index._moved: moved.append(array.shape) or move(array))
    index.match_batch(plan, arena, spans)
    assert arena.copy.numpy().tolist() == arena.words[:, : arena.copy.shape[1]].tolist()
    assert moved == [(9,), (9, 4)]


def test_auto_does_not_leave_results_on_a_device_that_it_does_not_ask():
    manager = make_manager(full(4), num_blocks=40, backend="auto")
    admit(manager, make_request("a", 30, 4))
    queries = BatchQueries(manager, 2, 50)
    queries.track([make_request("b", 30, 4)])
    with pytest.raises(ArgumentError, match="on a device"):
        queries.match_async()


@pytest.fixture
def auto(monkeypatch):
    """An `auto` index that takes the interpreter for a GPU, from two blocks on."""
    index = make_index("auto", 8)
    monkeypatch.setattr(index, "crossover", 2)
    insert(index, [1, 2, 3], random_rows(3))
    return index


def test_auto_asks_the_device_from_the_crossover_on(auto, monkeypatch):
    monkeypatch.setattr("kvgpu.index.host.index.match_one", no_host)
    assert lookup(auto, random_rows(3)) == [1, 2, 3]
    with pytest.raises(AssertionError, match="the host answered"):
        lookup(auto, random_rows(1))


def test_auto_goes_on_with_the_host_after_a_failure(auto, monkeypatch, caplog):
    break_once(monkeypatch)
    with caplog.at_level(logging.WARNING):
        assert lookup(auto, random_rows(3)) == [1, 2, 3]
    assert "illegal memory access" in caplog.text
    assert auto.crossover is None
    erase(auto, 2)
    assert lookup(auto, random_rows(3)) == [1]
    auto.check()


def test_auto_without_a_gpu_is_the_host_and_says_why(monkeypatch):
    monkeypatch.setattr(device, "resolve_device", tensors.resolve_device)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    index = make_index("auto", 8)
    assert index.crossover is None
    assert index.reason
    insert(index, [1], random_rows(1))
    assert lookup(index, random_rows(2)) == [1]
    index.check()


def test_auto_without_pytorch_is_the_host_and_says_why(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    index = make_index("auto", 8)
    assert index.crossover is None
    assert "PyTorch" in index.reason
    insert(index, [1], random_rows(1))
    assert lookup(index, random_rows(2)) == [1]


@pytest.mark.parametrize(
    ("device_seconds", "host_seconds_per_block", "blocks"), [(25e-6, 5e-9, 5000), (1e-9, 1e-6, 1), (30e-6, 10e-9, 3000)]
)
def test_the_crossover_is_where_both_take_equally_long(device_seconds, host_seconds_per_block, blocks):
    assert crossover_of(device_seconds, host_seconds_per_block) == blocks


def test_the_crossover_can_be_given(monkeypatch):
    monkeypatch.setenv("KVGPU_CROSSOVER_BLOCKS", "77")
    monkeypatch.setattr(AutoIndex, "_is_worth_asking", lambda self: True)
    index = make_index("auto", 8)
    assert (index.crossover, index.reason) == (77, "KVGPU_CROSSOVER_BLOCKS")


def test_the_crossover_is_measured_on_a_sample_that_both_sides_answer(monkeypatch):
    monkeypatch.delenv("KVGPU_CROSSOVER_BLOCKS", raising=False)
    monkeypatch.setattr(AutoIndex, "_is_worth_asking", lambda self: True)
    monkeypatch.setattr("kvgpu.index.device.auto.SAMPLE_BLOCKS", 64)
    index = make_index("auto", 8)
    assert index.crossover >= 1
    assert index.reason.startswith("measured on")


def test_a_manager_hits_the_same_blocks_on_the_device_as_on_the_host():
    found = []
    for backend in ("host", "triton"):
        manager = make_manager(full(4), num_blocks=40, backend=backend)
        for name in ("a", "b"):
            admit(manager, make_request(name, 30, 4))
        blocks, hits = manager.get_computed_blocks(make_request("c", 30, 4))
        found.append((blocks.get_block_ids(), hits))
        manager.check()
    assert found[0] == found[1]
    assert found[0][1] == 28
