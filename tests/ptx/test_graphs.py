"""`match_async` in a captured graph, with kernels that run at the replay and not before."""

import numpy as np
import pytest
from support.device import launches
from support.device.tables import POISON
from support.indexes import asked, device_backends, erase, insert, make_index, random_rows
from support.managers import admit, full, make_manager, make_request
from support.ptx.kernel import schedule

from kvgpu.batch.queries import BatchQueries
from kvgpu.device import graphs
from kvgpu.hashing.hash_arena import HashArena
from kvgpu.rules.plan import HitQuery, HitRule, PrefixPlan
from kvgpu.rules.plan_words import FULL

PLAN = PrefixPlan((HitQuery(HitRule(FULL, 1, 1), (0,)),))

pytestmark = device_backends


@pytest.fixture
def arena():
    """The hashes of two requests that are equal."""
    arena = HashArena(6)
    arena.words[:] = np.tile(random_rows(3), (2, 1))
    return arena


@pytest.fixture
def index(backend, arena):
    """Blocks 1 to 3, which a lookup has brought to the device."""
    index = make_index(backend, 8)
    insert(index, [1, 2, 3], random_rows(3))
    assert hits(index, arena, 3) == [3]
    return index


def hits(index, arena, *limits):
    """What a lookup finds that waits, behind one that does not, which captures need before them."""
    index.start_batch(PLAN, arena, asked(*limits))
    return index.match_batch(PLAN, arena, asked(*limits)).num_tokens.tolist()


def captured(index, arena, *limits):
    """A graph that looks up requests with these limits, and what its replay writes to."""
    hits(index, arena, *limits)
    with launches.capture() as graph:
        out = index.start_batch(PLAN, arena, asked(*limits))
    out.num_tokens.fill_(POISON)
    return graph, out


def replayed(graph, out):
    graph.replay()
    return out.num_tokens.tolist()


def test_a_replay_answers_and_a_capture_does_not(index, arena):
    graph, out = captured(index, arena, 3, 2)
    assert out.num_tokens.tolist() == [POISON, POISON]
    assert replayed(graph, out) == [3, 2]


def test_an_eviction_between_capture_and_replay_is_seen_by_both(index, arena):
    graph, out = captured(index, arena, 3)
    erase(index, 2)
    assert hits(index, arena, 3) == [1]
    assert replayed(graph, out) == [1]
    insert(index, [2], random_rows(3)[1])
    assert hits(index, arena, 3) == [3]
    assert replayed(graph, out) == [3]
    index.check()


def test_a_replay_without_a_lookup_before_sees_the_table_as_it_was(index, arena):
    graph, out = captured(index, arena, 3)
    erase(index, 2)
    assert replayed(graph, out) == [3]
    index.flush()
    assert replayed(graph, out) == [1]


def test_a_graph_has_its_own_spans(index, arena):
    graph, out = captured(index, arena, 2, 1)
    other, other_out = captured(index, arena, 1, 3)
    assert hits(index, arena, 3, 3) == [3, 3]
    for _ in range(2):
        assert replayed(graph, out) == [2, 1]
        assert replayed(other, other_out) == [1, 3]


def test_a_replay_changes_nothing(index, arena):
    graph, out = captured(index, arena, 3)
    erase(index, 2)
    index.flush()
    for _ in range(3):
        replayed(graph, out)
    assert hits(index, arena, 3) == [1]
    index.check()


def test_the_queries_of_a_manager_are_captured(backend):
    manager = make_manager(full(4), num_blocks=40, backend=backend)
    queries = BatchQueries(manager, 2, 50)
    admit(manager, make_request("a", 30, 4))
    rows = queries.track([make_request("b", 30, 4), make_request("c", range(100, 130), 4)])
    queries.match_async(rows)
    with launches.capture() as graph:
        out = queries.match_async(rows)
    graph.replay()
    assert out.num_tokens.tolist() == queries.match(rows).num_tokens.tolist() == [28, 0]
    admit(manager, make_request("d", range(100, 130), 4))
    queries.match_async(rows[:0])
    graph.replay()
    assert out.num_tokens.tolist() == queries.match(rows).num_tokens.tolist() == [28, 28]
    manager.reset_prefix_cache()


def test_a_lookup_that_waits_is_a_graph_that_is_replayed(index, arena, monkeypatch):
    def prepared(start, device):
        with launches.capture() as graph:
            start()
        return graph.replay

    monkeypatch.setattr(graphs, "prepared", prepared)
    index._lookups.clear()
    counts = []
    for limits, changed in [((3, 2), None), ((1, 3), erase), ((3, 3), insert), ((2, 0), None)]:
        if changed is erase:
            erase(index, 2)
        elif changed is insert:
            insert(index, [2], random_rows(3)[1])
        found = index.match_batch(PLAN, arena, asked(*limits)).num_tokens.tolist()
        cached = 1 if changed is erase else 3
        assert found == [min(limit, cached) for limit in limits]
        counts.append(schedule.launches)
    # The last batch changes nothing before it: what is replayed is a lookup and the number behind it.
    assert counts[-1] - counts[-2] == 2
