"""Lookups in the capture of a CUDA graph, where nothing runs that is started: nothing may be taken as sent."""

from contextlib import contextmanager

import numpy as np
import pytest
from support.device.tables import torch
from support.indexes import asked, erase, insert, make_index, random_rows
from support.managers import admit, full, make_manager, make_request

from kvgpu.batch.queries import BatchQueries
from kvgpu.device import tensors
from kvgpu.errors import ArgumentError
from kvgpu.hashing.hash_arena import HashArena
from kvgpu.kernels import longest_prefix, triton_engine
from kvgpu.rules.plan import HitQuery, HitRule, PrefixPlan
from kvgpu.rules.plan_words import FULL

PLAN = PrefixPlan((HitQuery(HitRule(FULL, 1, 1), (0,)),))
OTHER_PLAN = PrefixPlan((HitQuery(HitRule(FULL, 2, 2), (0,)),))
LAUNCHERS = [
    (triton_engine, "launch_find"),
    (triton_engine, "launch_update"),
    (triton_engine, "launch_leading_run"),
    (triton_engine, "launch_probe"),
    (longest_prefix, "launch_decide"),
]


@contextmanager
def capture():
    """What is started is noted, not run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tensors, "is_capturing", lambda device: True)
        for module, name in LAUNCHERS:
            patch.setattr(module, name, lambda *arguments: None)
        yield


ONE = asked(3)


@pytest.fixture
def arena():
    """The hashes of two requests that are equal."""
    arena = HashArena(6)
    arena.words[:] = np.tile(random_rows(3), (2, 1))
    return arena


@pytest.fixture
def index(arena):
    """Blocks 1 to 3, which a lookup has brought to the device."""
    index = make_index("triton", 8)
    insert(index, [1, 2, 3], random_rows(3))
    assert hits(index, arena) == [3]
    return index


def hits(index, arena, spans=ONE):
    """What a lookup finds that waits, behind one that does not, which captures need before them."""
    index.start_batch(PLAN, arena, spans)
    return index.match_batch(PLAN, arena, spans).num_tokens.tolist()


def evict(index, arena):
    erase(index, 2)


def write(index, arena):
    arena.words[1] = random_rows(5)[4]
    arena.wrote(1, 2)


def make_stale(index, arena):
    evict(index, arena)
    index.flush()
    index.clear()
    index.state.forget_keys()
    index.state.adopt_width(32)
    insert(index, [1], random_rows(1))


@pytest.mark.parametrize("change", [evict, write, make_stale])
def test_a_capture_with_something_to_send_is_refused_and_loses_nothing(index, arena, change):
    change(index, arena)
    pending = len(index.journal), arena.is_copied
    with capture(), pytest.raises(ArgumentError, match="once before the capture"):
        index.start_batch(PLAN, arena, ONE)
    assert (len(index.journal), arena.is_copied) == pending
    assert hits(index, arena) == [1]
    index.check()


@pytest.mark.parametrize(("plan", "spans"), [(OTHER_PLAN, ONE), (PLAN, asked(3, 3))], ids=["plan", "requests"])
def test_a_plan_or_more_requests_than_the_call_before_had_are_refused(index, arena, plan, spans):
    with capture(), pytest.raises(ArgumentError, match="before the capture"):
        index.start_batch(plan, arena, spans)
    assert hits(index, arena, spans) == [3] * spans.count


def test_an_arena_that_was_never_sent_is_refused(index, arena):
    other = arena.grown(7)
    with capture(), pytest.raises(ArgumentError, match="hashes"):
        index.start_batch(PLAN, other, ONE)
    assert hits(index, other) == [3]


def test_a_refused_capture_does_not_cost_the_copy(index, arena):
    evict(index, arena)
    table = index.flush()
    evict(index, arena)
    insert(index, [2], random_rows(3)[1])
    with capture(), pytest.raises(ArgumentError):
        index.start_batch(PLAN, arena, ONE)
    assert len(index.journal) == 1
    assert index.flush() is table


@pytest.mark.parametrize("change", [evict, write])
def test_changes_after_a_capture_reach_the_next_lookup(index, arena, change):
    with capture():
        index.start_batch(PLAN, arena, ONE)
    change(index, arena)
    assert hits(index, arena) == [1]


def test_the_results_own_the_spans_that_a_replay_reads(index, arena):
    hits(index, arena, asked(9, 8))
    with capture():
        out = index.start_batch(PLAN, arena, asked(2, 1))
    source = out.num_tokens.kvgpu_inputs[0]
    index.start_batch(PLAN, arena, asked(7, 7))
    with capture():
        other = index.start_batch(PLAN, arena, asked(5, 5))
    assert source.tolist() == [[0, 3], [3, 6], [2, 1]]
    assert other.num_tokens.kvgpu_inputs[0].data_ptr() != source.data_ptr()


def test_the_results_own_the_table_and_the_hashes_too(index, arena):
    copy, table = arena.copy, index.flush()
    out = table.prefix_buffers(1, 6)
    with capture():
        assert index.start_batch(PLAN, arena, ONE, out=out) is out
    assert any(kept is copy for kept in out.num_tokens.kvgpu_inputs)
    assert any(kept is table for kept in out.num_tokens.kvgpu_inputs)


def test_each_capture_needs_a_call_before(index, arena):
    with capture():
        index.start_batch(PLAN, arena, ONE)
        with pytest.raises(ArgumentError, match="spans"):
            index.start_batch(PLAN, arena, ONE)


@pytest.mark.parametrize(
    "wait",
    [
        lambda index, arena: index.match_batch(PLAN, arena, ONE),
        lambda index, arena: index.match(PLAN, arena.words, 3),
        lambda index, arena: index.check(),
    ],
    ids=["match_batch", "match", "check"],
)
def test_what_waits_cannot_be_captured(index, arena, wait):
    evict(index, arena)
    with capture(), pytest.raises(ArgumentError):
        wait(index, arena)
    assert len(index.journal) == 1
    assert hits(index, arena) == [1]


def test_auto_answers_by_the_host_in_a_capture(arena, monkeypatch):
    index = make_index("auto", 8)
    monkeypatch.setattr(index, "crossover", 2)
    insert(index, [1, 2, 3], random_rows(3))
    with capture():
        spans = index.spans_for(100)
        spans.begins[:], spans.ends[:], spans.max_lengths[:], spans.borrowed[:] = 0, 3, 3, 0
        assert index.match_batch(PLAN, arena, spans).num_tokens.tolist() == [3] * 100
        assert index.match(PLAN, arena.words, 3)[0] == 3
    assert index.crossover == 2


def test_memory_for_spans_is_pinned_before_a_capture_or_not_at_all(index):
    with capture():
        assert index.spans_for(64).count == 64
        with pytest.raises(ArgumentError, match="before it"):
            index.spans_for(65)
    assert index.spans_for(65).count == 65


def test_a_call_for_no_rows_brings_the_device_up_to_date():
    manager = make_manager(full(4), num_blocks=40, backend="triton")
    queries = BatchQueries(manager, 2, 50)
    admit(manager, make_request("a", 30, 4))
    rows = queries.track([make_request("b", 30, 4)])
    queries.match_async(rows)
    admit(manager, make_request("c", range(100, 130), 4))
    with capture(), pytest.raises(ArgumentError, match="once before"):
        queries.match_async(rows)
    queries.match_async(rows[:0])
    with capture():
        assert queries.match_async(rows).num_tokens.shape == (1,)


def test_nothing_is_captured_on_the_cpu():
    assert not tensors.is_capturing(torch.device("cpu"))
