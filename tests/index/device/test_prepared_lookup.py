"""Lookups that are prepared once: each asks for what it was given, in the table as it is, or says that it failed."""

from contextlib import nullcontext

import numpy as np
import pytest
from support.device.tables import torch
from support.indexes import device_backends, erase, insert, make_index, random_rows

from kvgpu.device import graphs
from kvgpu.errors import DeviceError, InvariantError
from kvgpu.hashing.hash_arena import HashArena
from kvgpu.index.device import prepared_lookup
from kvgpu.index.request_spans import RequestSpans
from kvgpu.layout import META_STATUS, STATUS_WORD_NOT_FOUND
from kvgpu.rules.plan import HitQuery, HitRule, PrefixPlan
from kvgpu.rules.plan_words import FULL, SLIDING_WINDOW

PLAN = PrefixPlan((HitQuery(HitRule(FULL, 1, 1), (0,)),))
TWO = PrefixPlan((HitQuery(HitRule(FULL, 1, 1), (0,)), HitQuery(HitRule(SLIDING_WINDOW, 1, 1, extent=2), (0,))))
REQUESTS = 200

pytestmark = device_backends


@pytest.fixture
def arena():
    """The hashes of requests that have four each and are all equal."""
    arena = HashArena(4 * REQUESTS)
    arena.words[:] = np.tile(random_rows(4), (REQUESTS, 1))
    return arena


@pytest.fixture
def index(backend):
    index = make_index(backend, 8)
    insert(index, [1, 2, 3], random_rows(3))
    return index


def hits(index, arena, limits, plan=PLAN):
    begins = 4 * np.arange(len(limits))
    found = index.match_batch(plan, arena, RequestSpans.in_arena(begins, begins + 4, limits))
    assert found.lengths[:, 0].tolist() == found.num_tokens.tolist()
    return found.num_tokens.tolist()


@pytest.mark.parametrize("plan", [PLAN, TWO], ids=["one launch", "two"])
def test_batches_of_all_sizes_are_answered_one_after_the_other(index, arena, plan):
    rng = np.random.default_rng(0)
    for count in (3, 70, 1, 64, 65, 200, 2, 128):
        limits = rng.integers(0, 5, count)
        assert hits(index, arena, limits, plan) == np.minimum(limits, 3).tolist()


def test_requests_of_an_earlier_batch_have_no_hashes_any_longer(index, arena):
    hits(index, arena, [4] * 60)
    words = index.spans_for(60).words.reshape(4, 64)
    hits(index, arena, [4] * 2)
    assert words[:2].tolist() == [[0, 4] + [0] * 62, [4, 8] + [0] * 62]


def test_without_a_graph_only_the_requests_there_are_get_programs(index, arena, monkeypatch):
    launched, start = [], prepared_lookup.start_checked_prefix

    def noted(memory, plan, words, keys, spans, *others):
        launched.append([len(numbers) for numbers in spans])
        start(memory, plan, words, keys, spans, *others)

    monkeypatch.setattr(prepared_lookup, "start_checked_prefix", noted)
    assert hits(index, arena, [4, 1, 0]) == [3, 1, 0]
    assert launched == [[1] * 3, [3] * 3]


def test_spans_that_are_filled_in_place_are_what_is_looked_up(index, arena):
    for limits in ([4, 2, 1], [0, 3, 2]):
        spans = index.spans_for(3)
        spans.begins[:], spans.ends[:], spans.max_lengths[:] = [0, 4, 8], [4, 8, 12], limits
        assert index.match_batch(PLAN, arena, spans).num_tokens.tolist() == np.minimum(limits, 3).tolist()
    assert index.spans_for(3) is spans


def test_spans_of_the_caller_are_looked_up_too_and_stay_its_own(index, arena):
    given = RequestSpans.in_arena([0, 4], [4, 8], [4, 2])
    assert index.match_batch(PLAN, arena, given).num_tokens.tolist() == [3, 2]
    index.spans_for(2).begins[:] = 7
    assert given.begins.tolist() == [0, 4]


def test_results_stay_what_they_were(index, arena):
    begins = 4 * np.arange(2)
    first = index.match_batch(PLAN, arena, RequestSpans.in_arena(begins, begins + 4, [2, 3]))
    hits(index, arena, [0, 0])
    assert first.num_tokens.tolist() == [2, 3]


def test_changes_reach_a_prepared_lookup(index, arena):
    assert hits(index, arena, [4, 4]) == [3, 3]
    erase(index, 2)
    assert hits(index, arena, [4, 4]) == [1, 1]
    arena.words[1] = random_rows(9)[8]
    arena.wrote(1, 2)
    insert(index, [2], random_rows(3)[1])
    assert hits(index, arena, [4, 4]) == [1, 3]


def test_another_arena_and_another_table_are_prepared_for_anew(index, arena):
    hits(index, arena, [4])
    other = arena.grown(5 * REQUESTS)
    assert hits(index, other, [4]) == [3]
    index._copy, index._stale = None, True
    assert hits(index, other, [4, 4]) == [3, 3]
    assert len(index._lookups._made) == 1


def test_only_so_many_lookups_are_kept(index, arena, monkeypatch):
    monkeypatch.setattr(prepared_lookup, "MOST_PREPARED", 2)
    for count in (64, 128, 200, 64):
        assert hits(index, arena, [4] * count) == [3] * count
        assert len(index._lookups._made) <= 2


def test_what_the_device_has_noticed_is_reported_once(index, arena):
    hits(index, arena, [4])
    index._copy.view.meta[META_STATUS] = STATUS_WORD_NOT_FOUND
    with pytest.raises(InvariantError):
        hits(index, arena, [4])
    assert hits(index, arena, [4]) == [3]


def test_a_lookup_without_a_result_is_a_failure_and_the_next_one_answers(index, arena, monkeypatch):
    hits(index, arena, [4])
    monkeypatch.setattr(prepared_lookup, "PATIENCE", 0.01)
    (lookup,) = index._lookups._made.values()
    lookup._graph = lambda: None
    with pytest.raises(DeviceError, match="without a result"):
        hits(index, arena, [4])
    assert hits(index, arena, [4]) == [3]


def test_nothing_is_prepared_for_no_requests(index, arena):
    assert hits(index, arena, np.zeros(0, np.int64)) == []
    assert torch.is_tensor(index.flush().view.words)
    assert not index._lookups._made


class Stream:
    """A stream that does nothing."""

    def wait_stream(self, other):
        pass


class Graph:
    """A graph whose capture begins, or fails."""

    def __init__(self, fails):
        self.fails, self.replayed, self.open = fails, 0, False

    def capture_begin(self, capture_error_mode):
        assert capture_error_mode == "thread_local"
        if self.fails:
            raise RuntimeError("not permitted")
        self.open = True

    def capture_end(self):
        self.open = False

    def replay(self):
        self.replayed += 1


@pytest.mark.parametrize("fails", [False, True], ids=["captured", "not captured"])
def test_launches_that_cannot_be_captured_are_started_one_by_one(monkeypatch, caplog, backend, fails):
    graph, seen = Graph(fails), []
    for name, value in {
        "CUDAGraph": lambda: graph,
        "Stream": Stream,
        "current_stream": Stream,
        "device": lambda device: nullcontext(),
        "stream": lambda stream: nullcontext(),
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    replay = graphs.prepared(lambda: seen.append(graph.open), torch.device("cuda"))
    if fails:
        assert replay is None
    else:
        replay()
    assert (seen, graph.replayed) == (([], 0) if fails else ([True], 1))
    assert ("one by one" in caplog.text) is fails
