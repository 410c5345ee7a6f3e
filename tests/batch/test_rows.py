"""Rows of tracked requests: what they hold, what they refuse, and that nothing is half changed."""

import gc
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.managers import make_request

from kvgpu.batch.rows.requests import RequestRows
from kvgpu.errors import ArgumentError, ConfigError
from kvgpu.hashing import functions as hashing
from kvgpu.hashing.hash_arena import MAX_PIECES
from kvgpu.layout import KEY_WORDS


def hashes_in(rows, row):
    """Hashes of a row as its request has them."""
    return rows.hashes.of(row)[:]


def state(rows):
    return (
        rows.all().tolist(),
        [hashes_in(rows, row) for row in rows.all().tolist()],
        rows.num_tokens[rows.all()].tolist(),
        len(rows),
    )


def holds(rows, requests):
    """Each request's row has its hashes and tokens."""
    return state(rows)[1:3] == ([list(r.block_hashes) for r in requests], [r.num_tokens for r in requests])


@pytest.fixture(params=[False, True], ids=["copied", "lent"])
def rows(request):
    return RequestRows(4, 100, lends=request.param)


@pytest.fixture
def requests():
    return [make_request(name, size, 4) for name, size in (("a", 10), ("b", 3), ("c", 33))]


def test_a_tracked_request_has_its_hashes_and_tokens(rows, requests):
    assert rows.track(requests).tolist() == [0, 1, 2]
    assert holds(rows, requests)


def test_hashes_may_be_a_list_of_bytes(rows, requests):
    foreign = [
        SimpleNamespace(
            request_id=r.request_id,
            block_hashes=list(r.block_hashes),
            num_tokens=r.num_tokens,
            skip_reading_prefix_cache=False,
        )
        for r in requests
    ]
    rows.track(foreign)
    assert holds(rows, foreign)


def test_hashes_of_16_bytes_are_padded(rows):
    request = make_request("a", 9, 4, hashing.xxhash)
    rows.track([request])
    assert rows.hashes.width == 16
    assert (rows.hashes.of(0).keys[:, 2:] == 0).all()
    assert holds(rows, [request])


def test_extending_takes_over_what_requests_have_become(rows, requests):
    handed_out = rows.track(requests)
    requests[0].append_output_token_ids([1] * 9)
    requests[2].append_output_token_ids(7)
    rows.extend(handed_out)
    assert holds(rows, requests)


def test_a_row_can_be_given_to_another_request(rows, requests):
    handed_out = rows.track(requests)
    rows.untrack(handed_out[1:2])
    again = make_request("d", 20, 4)
    assert rows.track([again]).tolist() == [1]
    assert holds(rows, [requests[0], requests[2], again])


def words(count, fill):
    """Key words of so many hashes, all of one number."""
    return np.full((count, KEY_WORDS), fill, np.int64)


def test_what_is_lent_takes_no_place_in_the_arena(requests):
    rows = RequestRows(4, 100, lends=True)
    rows.track(requests)
    assert rows.hashes.arena.take_written() == []
    assert len(rows.hashes) == 10 // 4 + 33 // 4


def test_what_was_lent_stays_when_its_request_has_moved_on_and_left():
    rows = RequestRows(4, 10_000, lends=True)
    request = make_request("a", 4 * 50, 4)
    expected = list(request.block_hashes)
    handed_out = rows.track([request])
    request.append_output_token_ids([1] * 4 * 500)
    request.block_hashes = None
    gc.collect()
    make_request("other", 4 * 50, 4, hashing.sha256_cbor)
    assert hashes_in(rows, 0) == expected
    assert rows.hashes.last(handed_out) == expected[-1:]


def test_a_row_that_outgrows_its_request_takes_a_place_of_its_own(requests):
    rows = RequestRows(4, 100, lends=True)
    handed_out = rows.track(requests)
    rows.hashes.append(handed_out[[0, 2]], np.array([1, 2]), words(3, 7), ahead=True)
    as_bytes = words(1, 7).tobytes()
    for request, row, more in zip(requests, handed_out.tolist(), [1, 0, 2], strict=True):
        assert hashes_in(rows, row) == [*request.block_hashes, *[as_bytes] * more]
    rows.untrack(handed_out)
    assert len(rows.hashes) == 0
    rows.track([make_request("all", 4 * 100, 4)])


def test_rows_that_outgrow_their_requests_share_what_room_there_is():
    rows = RequestRows(4, 30, lends=True)
    gap, *requests = [make_request(name, 4 * 9, 4) for name in "abc"]
    gap.block_hashes = list(gap.block_hashes)
    handed_out = rows.track([gap, *requests])
    rows.hashes.append(handed_out[:1], np.array([1]), words(1, 7))
    rows.hashes.append(handed_out[1:], np.array([1, 1]), words(2, 7))
    as_bytes = words(1, 7).tobytes()
    for request, row in zip([gap, *requests], handed_out.tolist(), strict=True):
        assert hashes_in(rows, row) == [*request.block_hashes, as_bytes]


@pytest.mark.parametrize("copied", ["none", "the one with room", "both"])
def test_a_row_with_room_keeps_it_when_another_has_the_arena_packed(copied):
    rows = RequestRows(2, 17, lends=True)
    requests = [make_request("with room", 4 * 7, 4), make_request("without", 4 * 8, 4)]
    for request in requests[: ["none", "the one with room", "both"].index(copied)]:
        request.block_hashes = list(request.block_hashes)
    handed_out = rows.track(requests)
    rows.hashes.append(handed_out, np.array([1, 1]), words(2, 7))
    for request, row in zip(requests, handed_out.tolist(), strict=True):
        assert hashes_in(rows, row) == [*request.block_hashes, words(1, 7).tobytes()]


def test_hashes_that_become_a_list_are_no_longer_lent(requests):
    rows = RequestRows(4, 100, lends=True)
    handed_out = rows.track(requests)
    requests[0].append_output_token_ids([1] * 9)
    requests[0].block_hashes = list(requests[0].block_hashes)
    rows.extend(handed_out)
    assert holds(rows, requests)


def test_the_arena_is_packed_when_its_end_is_reached():
    rows = RequestRows(4, 30)
    kept, left = make_request("kept", 16, 4), make_request("left", 32, 4)
    handed_out = rows.track([left, kept])
    rows.untrack(handed_out[:1])
    other = make_request("other", 4 * 26, 4)
    rows.track([other])
    assert holds(rows, [kept, other])
    assert rows.hashes.epoch == 1


def test_a_row_can_grow_into_the_last_place_of_the_arena():
    rows = RequestRows(2, 100)
    long, other = make_request("long", 4 * 60, 4), make_request("other", 4 * 5, 4)
    handed_out = rows.track([long, other])
    long.append_output_token_ids([1] * 4 * 35)
    rows.extend(handed_out[:1])
    assert holds(rows, [long, other])
    assert len(rows.hashes) == 100


def test_changes_that_nobody_asks_for_do_not_pile_up():
    rows = RequestRows(700, 10_000)
    rows.hashes.arena.copy = rows.hashes.arena.words.copy()
    requests = [make_request(f"r{i}", 4 * 7, 4) for i in range(700)]
    for part in (requests, requests[::2], requests):
        handed_out = rows.track(part)
        rows.untrack(handed_out[np.arange(len(part)) % 3 > 0])
        rows.untrack(handed_out[::3])
    assert len(rows.hashes.arena.take_written()) <= MAX_PIECES


def test_a_piece_that_is_given_back_is_handed_out_again():
    rows = RequestRows(2, 1000)
    begins = set()
    for turn in range(20):
        handed_out = rows.track([make_request(f"r{turn}", 4 * 7, 4)])
        begins.add(int(rows.records["begin"][handed_out[0]]))
        rows.untrack(handed_out)
    assert begins == {0}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows, requests: rows.track([requests[0]]), "tracked already"),
        (lambda rows, requests: rows.track([make_request("x", 5, 4)] * 2), "twice"),
        (lambda rows, requests: rows.track([make_request("x", 5, 4), make_request("y", 5, 4)]), "rows"),
        (lambda rows, requests: rows.track([make_request("x", 4 * 99, 4)]), "arena"),
        (lambda rows, requests: rows.track([make_request("x", 5, 4, hashing.xxhash)]), "widths"),
        (lambda rows, requests: rows.untrack(np.array([3])), "not tracked"),
        (lambda rows, requests: rows.untrack(np.array([0, 0])), "twice"),
        (lambda rows, requests: rows.extend(np.array([-1])), "not tracked"),
        (lambda rows, requests: rows.extend(np.array([0.0])), "integers"),
        (lambda rows, requests: rows.valid(np.array([[0]])), "integers"),
        (lambda rows, requests: rows.grow(3, 100), "only grow"),
    ],
)
def test_bad_input_changes_nothing(rows, requests, change, message):
    rows.track(requests)
    before = state(rows)
    with pytest.raises(ArgumentError, match=message):
        change(rows, requests)
    assert state(rows) == before


def test_a_request_that_became_shorter_is_refused(rows, requests):
    handed_out = rows.track(requests)
    requests[0].append_output_token_ids([1] * 9)
    requests[2].all_token_ids.pop()
    before = state(rows)
    with pytest.raises(ArgumentError, match="shorter"):
        rows.extend(handed_out)
    assert state(rows) == before


@pytest.mark.parametrize("capacity", [(0, 5), (5, 0)])
def test_capacities_are_at_least_one(capacity):
    with pytest.raises(ConfigError):
        RequestRows(*capacity)


def test_growing_keeps_all_rows_and_counts_an_epoch(rows, requests):
    rows.track(requests)
    rows.grow(8, 500)
    more = [make_request(f"m{i}", 40, 4) for i in range(5)]
    rows.track(more)
    assert holds(rows, requests + more)
    assert rows.hashes.epoch == 1


@pytest.mark.parametrize("lends", [False, True])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_sequence_of_calls_keeps_what_requests_have(lends, data):
    rows, alive = RequestRows(6, 60, lends), {}
    for step in range(data.draw(st.integers(1, 15))):
        what = data.draw(st.sampled_from(["track", "extend", "untrack"]))
        if what == "track" and len(alive) < 6:
            request = make_request(f"r{step}", data.draw(st.integers(1, 30)), 4)
            if data.draw(st.booleans()):
                request.block_hashes = list(request.block_hashes)
            try:
                alive[int(rows.track([request])[0])] = request
            except ArgumentError:
                assert len(rows.hashes) + len(request.block_hashes) > 60
        elif what == "untrack" and alive:
            row = data.draw(st.sampled_from(sorted(alive)))
            rows.untrack(np.array([row]))
            del alive[row]
        elif what == "extend" and alive:
            row = data.draw(st.sampled_from(sorted(alive)))
            before = state(rows)
            alive[row].append_output_token_ids([5] * data.draw(st.integers(0, 12)))
            try:
                rows.extend(np.array([row]))
            except ArgumentError:
                assert state(rows) == before
                rows.untrack(np.array([row]))
                del alive[row]
        assert {row: hashes_in(rows, row) for row in rows.all().tolist()} == {
            row: list(request.block_hashes) for row, request in alive.items()
        }
