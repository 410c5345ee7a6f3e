"""The embedded workload."""

from collections import Counter

import numpy as np
import pytest

from kvgpu.replay.ideal import ideal_hits
from kvgpu.replay.traces.workload import BLOCK_TOKENS, conversations

ARRAYS = ["arrival_ms", "input_length", "output_length", "offsets", "ids"]


@pytest.fixture(scope="module")
def trace():
    return conversations(60, 3, seed=1)


def paths(trace):
    return [tuple(trace.ids_of(i).tolist()) for i in range(len(trace))]


@pytest.mark.parametrize("name", ARRAYS)
def test_equal_seeds_give_equal_traces(trace, name):
    assert np.array_equal(getattr(conversations(60, 3, seed=1), name), getattr(trace, name))


def test_other_seeds_give_other_traces(trace):
    assert paths(conversations(60, 3, seed=2)) != paths(trace)


def test_every_conversation_begins_with_one_of_the_system_prompts(trace):
    assert len({path[0] for path in paths(trace)}) == 3


def test_the_first_system_prompt_is_the_most_popular():
    firsts = Counter(path[0] for path in paths(conversations(300, 3)))
    assert max(firsts, key=firsts.__getitem__) == 0


def test_system_prompts_are_shared_between_conversations(trace):
    first_turns = {path[0]: Counter() for path in paths(trace)}
    for path in paths(trace):
        first_turns[path[0]][path[10]] += 1
    assert all(len(followers) == 1 for followers in first_turns.values())


def test_equal_ids_stand_for_equal_prefixes(trace):
    before = {}
    for path in paths(trace):
        for end, id in enumerate(path):
            assert before.setdefault(id, path[:end]) == path[:end]


def test_a_turn_continues_what_was_said_before(trace):
    all_paths = paths(trace)
    continued = [p for p in all_paths if any(len(q) < len(p) and p[: len(q)] == q for q in all_paths)]
    assert len(continued) > len(all_paths) // 3


def test_a_turn_holds_what_was_generated_before(trace):
    by_path = dict(zip(paths(trace), trace.output_length.tolist(), strict=True))
    for path in by_path:
        before = next((path[:n] for n in range(len(path) - 1, 0, -1) if path[:n] in by_path), None)
        if before is not None:
            assert (len(path) - len(before)) * BLOCK_TOKENS > by_path[before]


def test_every_prompt_has_the_ids_it_needs(trace):
    counts = np.diff(trace.offsets)
    assert np.array_equal(counts, -(-trace.input_length // BLOCK_TOKENS))


def test_requests_come_in_the_order_of_their_arrival(trace):
    assert (np.diff(trace.arrival_ms) >= 0).all()


def test_every_request_has_a_prompt_and_an_output(trace):
    assert trace.input_length.min() >= 1
    assert trace.output_length.min() >= 1


@pytest.mark.parametrize("count", [1, 5])
def test_each_conversation_has_at_least_one_turn(count):
    assert len(conversations(count, 1)) >= count


def test_most_of_it_is_worth_caching():
    trace = conversations()
    assert ideal_hits(trace, BLOCK_TOKENS).sum() > trace.input_length.sum() / 2
