"""Tokens that request objects get late: at `sync`, when somebody needs them, when a row can keep no more."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.batches import make_batch, requests_of, track
from support.managers import full, make_request

from kvgpu.batch.rows.pending_tokens import SPARE


@pytest.fixture
def batch():
    return make_batch(full(4), max_hashes=400)


def num_tokens(batch):
    """Of the request objects, and of their rows."""
    known = batch.rows.records["num_tokens"][batch.rows.all()].tolist()
    return [request.num_tokens for request in requests_of(batch)], known


def test_a_request_does_not_get_tokens_that_its_row_can_keep(batch):
    rows = track(batch, 4, 6)
    for _ in range(2):
        batch.append_batch(rows, [7, 7])
    assert num_tokens(batch) == ([4, 6], [6, 8])


def test_a_request_that_hashes_for_itself_gets_its_tokens_when_they_fill_a_block(batch):
    rows = batch.track([make_request("salted", 6, 4, cache_salt="salt")])
    batch.append_batch(rows, [7])
    assert num_tokens(batch) == ([6], [7])
    batch.append_batch(rows, [8])
    assert num_tokens(batch) == ([8], [8])


def test_a_request_gets_its_tokens_when_its_row_can_keep_no_more(batch):
    rows = track(batch, 4)
    batch.append_batch(rows, [7] * (SPARE + 4), [SPARE + 4])
    assert num_tokens(batch)[0] == [4]
    batch.append_batch(rows, [8])
    assert num_tokens(batch) == ([4 + SPARE + 4], [4 + SPARE + 5])


def test_tokens_that_fill_a_block_are_hashed(batch):
    rows = track(batch, 6)
    batch.append_batch(rows, [7, 8, 9], [3])
    twin = make_request("twin", [0] * 6 + [7, 8, 9], 4)
    assert list(batch.rows.hashes.of(int(rows[0]))) == list(twin.block_hashes)


def test_sync_gives_requests_the_hashes_of_their_tokens(batch):
    rows = track(batch, 6)
    batch.append_batch(rows, [7, 8, 9], [3])
    batch.sync()
    (request,) = requests_of(batch)
    twin = make_request("twin", request.all_token_ids, 4)
    assert list(request.block_hashes) == list(twin.block_hashes)


def test_sync_gives_requests_tokens_and_what_was_computed(batch):
    rows = track(batch, 4, 5)
    batch.allocate_batch(rows, 4)
    batch.append_batch(rows, [7, 8])
    batch.sync(rows[1:])
    assert [(r.num_tokens, r.num_computed_tokens) for r in requests_of(batch)] == [(4, 0), (6, 4)]


def test_sync_without_rows_is_about_all(batch):
    rows = track(batch, 4, 5)
    batch.append_batch(rows, [7, 8])
    batch.sync()
    assert [r.all_token_ids[-1] for r in requests_of(batch)] == [7, 8]


def test_an_untracked_request_has_all_its_tokens(batch):
    rows = track(batch, 4)
    (request,) = requests_of(batch)
    batch.append_batch(rows, [7])
    batch.untrack(rows)
    assert request.all_token_ids[-1] == 7


def test_extending_keeps_the_order_of_tokens(batch):
    rows = track(batch, 4)
    (request,) = requests_of(batch)
    batch.append_batch(rows, [7])
    batch.sync()
    request.append_output_token_ids([8, 9])
    batch.extend()
    batch.append_batch(rows, [10])
    batch.sync()
    assert request.all_token_ids[4:] == [7, 8, 9, 10]


def test_rows_may_get_different_numbers_of_tokens_or_none(batch):
    rows = track(batch, 4, 4, 4)
    batch.append_batch(rows, [1, 2, 3], [2, 0, 1])
    batch.sync()
    assert [r.all_token_ids[4:] for r in requests_of(batch)] == [[1, 2], [], [3]]


def test_a_row_given_to_another_request_has_no_tokens_left_over(batch):
    rows = track(batch, 4)
    batch.append_batch(rows, [7])
    batch.untrack(rows)
    rows = batch.track([make_request("other", 4, 4)])
    batch.append_batch(rows, [8])
    batch.sync()
    assert requests_of(batch)[0].all_token_ids[4:] == [8]


def test_no_rows_may_get_no_tokens(batch):
    batch.append_batch(np.zeros(0, np.int64), [], [])
    batch.append_batch(np.zeros(0, np.int64), [])


@pytest.mark.parametrize("count", [SPARE + 3, SPARE + 4, SPARE + 5, 3 * SPARE])
def test_more_tokens_than_a_row_keeps_arrive_in_order(batch, count):
    rows = track(batch, 4, 4)
    batch.append_batch(rows, [5, 6])
    batch.append_batch(rows, [*range(count), 9], [count, 1])
    batch.sync()
    assert [r.all_token_ids[4:] for r in requests_of(batch)] == [[5, *range(count)], [6, 9]]


@pytest.mark.parametrize("dtype", [np.int32, np.uint8, np.int64])
def test_tokens_may_be_integers_of_any_width(batch, dtype):
    rows = track(batch, 4, 4)
    batch.append_batch(rows, np.array([7, 200], dtype), np.array([1, 1], dtype))
    batch.sync()
    assert [r.all_token_ids[4:] for r in requests_of(batch)] == [[7], [200]]


@settings(max_examples=50, deadline=None)
@given(steps=st.lists(st.lists(st.integers(0, 90), min_size=3, max_size=3), max_size=8))
def test_any_appends_end_in_what_the_request_would_have_been_given(steps):
    batch = make_batch(full(4), max_hashes=1000)
    rows = track(batch, 3, 4, 5)
    twins = [make_request(f"t{i}", r.all_token_ids, 4) for i, r in enumerate(requests_of(batch))]
    for counts in steps:
        tokens = [list(range(count)) for count in counts]
        batch.append_batch(rows, [t for part in tokens for t in part], counts)
        for twin, part in zip(twins, tokens, strict=True):
            twin.append_output_token_ids(part)
        assert num_tokens(batch)[1] == [twin.num_tokens for twin in twins]
        assert len(batch.rows.hashes) == sum(len(twin.block_hashes) for twin in twins)
    batch.sync()
    for request, twin in zip(requests_of(batch), twins, strict=True):
        assert request.all_token_ids == twin.all_token_ids
        assert list(request.block_hashes) == list(twin.block_hashes)
