"""Ordering, holding back and counting the requests of a queue."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.managers import admit, full, make_manager, make_request

from kvgpu.batch.ordering import held_back, longest_prefix_first, num_that_fit
from kvgpu.batch.queries import BatchQueries
from kvgpu.errors import ArgumentError


def test_the_longest_prefix_goes_first_and_equals_keep_their_order():
    assert longest_prefix_first([0, 32, 16, 32, 0], [1] * 5, 10).tolist() == [1, 3, 2, 0, 4]


def test_who_waited_too_long_goes_before_all_the_longest_wait_first():
    waited = [11, 1, 30, 10, 12]
    assert longest_prefix_first([0, 64, 0, 16, 32], waited, 10).tolist() == [2, 4, 0, 1, 3]


def test_an_empty_queue_has_an_empty_order():
    assert longest_prefix_first([], [], 10).tolist() == []


@settings(max_examples=100, deadline=None)
@given(queue=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9)), max_size=20))
def test_the_order_is_that_of_sorting_by_age_class_then_key(queue):
    hits, waited = [h for h, _ in queue], [w for _, w in queue]
    expected = sorted(range(len(queue)), key=lambda i: (waited[i] <= 5, -waited[i] if waited[i] > 5 else -hits[i], i))
    assert longest_prefix_first(hits, waited, 5).tolist() == expected


@pytest.mark.parametrize(("needed", "free", "count"), [([], 5, 0), ([3, 3, 3], 8, 2), ([3, 3], 6, 2), ([7], 6, 0)])
def test_requests_fit_as_long_as_their_blocks_add_up_to_the_free_ones(needed, free, count):
    assert num_that_fit(needed, free) == count


def queue_of(*prompts):
    """Queries that track requests of these tokens (blocks of 4), and their rows."""
    manager = make_manager(full(4), num_blocks=60)
    queries = BatchQueries(manager, 16, 200)
    requests = [make_request(f"r{i}", tokens, 4) for i, tokens in enumerate(prompts)]
    return manager, queries, queries.track(requests)


SHARED = list(range(16))


def held(manager, queries, rows):
    hits = queries.match(rows).num_tokens // 4
    return held_back(queries.rows, rows, hits).tolist()


def test_a_request_waits_for_an_earlier_one_that_fills_its_prefix():
    assert held(*queue_of(SHARED + [90] * 9, SHARED + [91] * 9, [92] * 20)) == [False, True, False]


def test_who_is_held_back_holds_nobody_back():
    longer = [*SHARED, *range(50, 66)]
    assert held(*queue_of(SHARED + [90] * 5, longer, longer)) == [False, True, True]
    assert held(*queue_of(longer[:20], longer + [1] * 5)) == [False, True]


def test_a_prefix_that_is_cached_already_holds_nobody_back():
    manager, queries, rows = queue_of(SHARED + [90] * 9, SHARED + [91] * 9)
    admit(manager, make_request("old", SHARED + [93] * 5, 4))
    assert held(manager, queries, rows) == [False, False]


def test_a_request_without_a_full_block_is_not_held_back():
    assert held(*queue_of([1, 2, 3], [1, 2, 3])) == [False, False]


@pytest.mark.parametrize(("hit_hashes", "second"), [([0, 0], True), ([1, 2], True), ([2, 1], False), ([3, 3], True)])
def test_who_is_past_a_place_holds_nobody_back_there(hit_hashes, second):
    _, queries, rows = queue_of(SHARED + [90] * 9, SHARED + [91] * 9)
    assert held_back(queries.rows, rows, hit_hashes).tolist() == [False, second]


def test_who_may_not_be_held_back_holds_back_others():
    first = [*SHARED, 90]
    _, queries, rows = queue_of(first, [*SHARED, *range(50, 58)], [*SHARED, *range(50, 58), 1])
    assert held_back(queries.rows, rows, [0, 0, 4]).tolist() == [False, True, False]
    may_wait = [True, False, True]
    assert held_back(queries.rows, rows, [0, 0, 4], may_wait).tolist() == [False, False, True]


@settings(max_examples=60, deadline=None)
@given(
    queue=st.lists(
        st.tuples(st.lists(st.integers(0, 1), max_size=4), st.integers(0, 4), st.booleans()), min_size=1, max_size=8
    )
)
def test_held_back_is_who_finds_its_missing_prefix_ahead_of_one_in_front(queue):
    _, queries, rows = queue_of(*([bit for bit in bits for _ in range(4)] for bits, _, _ in queue))
    expected = []
    for bits, missing, may in queue:
        prefix = bits[: missing + 1]
        expected.append(
            may
            and len(prefix) == missing + 1
            and any(
                front[: missing + 1] == prefix and at <= missing and not held
                for (front, at, _), held in zip(queue, expected, strict=False)
            )
        )
    _, missing, may_wait = zip(*queue, strict=True)
    assert held_back(queries.rows, rows, missing, may_wait).tolist() == expected


def test_rows_that_are_not_tracked_are_refused():
    _, queries, _ = queue_of(SHARED)
    with pytest.raises(ArgumentError, match="not tracked"):
        held_back(queries.rows, np.array([5]), [0])


@pytest.mark.parametrize("many", [50, 2**31, 2**63 - 1])
def test_more_hits_than_a_request_has_hashes_hold_nobody_back(many):
    """A place that a sum of 64 bits cannot hold must not lead compiled code out of the hashes."""
    requests = [make_request(name, SHARED + [90] * 9, 4) for name in "ab"]
    for request in requests:
        request.block_hashes = list(request.block_hashes)
    queries = BatchQueries(make_manager(full(4)), 8, 64)
    rows = queries.track(requests)
    assert held_back(queries.rows, rows, [0, many]).tolist() == [False, False]
    assert held_back(queries.rows, rows, [many, many]).tolist() == [False, False]
