"""Appending to many rows when one of them is at fault: all have got their tokens, or none has."""

import pytest
from support.batches import make_batch, refused, state_of
from support.hash_chains import chain
from support.hashed_requests import Failing
from support.managers import full, make_request

from kvgpu.batch.rows.pending_tokens import SPARE
from kvgpu.errors import ArgumentError
from kvgpu.hashing import functions as hashing
from kvgpu.hashing.request_hasher import get_request_block_hasher
from kvgpu.request import Request

SIZE = 4
by_fault = pytest.mark.parametrize("fault", [ZeroDivisionError, KeyboardInterrupt])


class Foreign:
    """A request of another engine, which takes tokens before it looks at them, or after."""

    def __init__(self, request_id, tokens, fault=None, first=False):
        self.request_id, self.all_token_ids, self.block_hashes = request_id, list(tokens), []
        self.skip_reading_prefix_cache, self.num_computed_tokens = False, 0
        self.fault, self.first = None, first
        self.append_output_token_ids([])
        self.fault = fault

    @property
    def num_tokens(self):
        return len(self.all_token_ids)

    def append_output_token_ids(self, tokens):
        if self.fault is not None and not self.first:
            raise self.fault("on purpose")
        self.all_token_ids += tokens
        if self.fault is not None:
            raise self.fault("on purpose")
        self.block_hashes += chain(hashing.sha256, self.all_token_ids, SIZE)[len(self.block_hashes) :]


def some_requests(function):
    """Hashed from their rows, by themselves, by a function, by several hashers, and by none of ours."""
    hasher, other = (get_request_block_hasher(SIZE, function) for _ in range(2))
    return [
        Request("plain", [1, 2, 3], block_hasher=hasher),
        Request("salted", [1, 2, 3], block_hasher=hasher, cache_salt="a"),
        Request("other", [1, 2, 3, 4, 5], block_hasher=other),
        Request("other salted", [1, 2, 3], block_hasher=other, cache_salt="b"),
        Request("any function", [1, 2, 3], block_hasher=lambda r: other(r)),
        Foreign("foreign", [1, 2, 3]),
    ]


def assert_served(batch, requests, tokens):
    """Every request, and its row, is what it would be alone."""
    batch.sync()
    twins = some_requests(hashing.sha256)
    for request, twin in zip(requests, twins, strict=True):
        twin.append_output_token_ids(list(tokens))
        row = batch.rows.row_of(request.request_id)
        assert list(request.all_token_ids) == list(twin.all_token_ids)
        assert list(request.block_hashes) == list(twin.block_hashes)
        assert list(batch.rows.hashes.of(row)) == list(twin.block_hashes)
        assert batch.rows.num_tokens[row] == twin.num_tokens


@by_fault
@pytest.mark.parametrize("before", [0, 1, SPARE - 1, SPARE, SPARE + 3], ids=lambda n: f"{n} before")
@pytest.mark.parametrize("count", [1, 6, SPARE + 30], ids=lambda n: f"{n} tokens")
def test_a_hash_function_that_fails_at_any_call_leaves_all_as_before(fault, before, count):
    first, tokens = list(range(before)), list(range(900, 900 + count))

    def made(function):
        batch = make_batch(full(SIZE), max_hashes=4000)
        requests = some_requests(function)
        rows = batch.track(requests)
        batch.append_batch(rows, first * len(rows), [before] * len(rows))
        return batch, requests, (rows, tokens * len(rows), [count] * len(rows))

    counting, function = Failing(fault), Failing(fault)
    twin, _, arguments = made(counting)
    counting.calls = 0
    twin.append_batch(*arguments)
    batch, requests, arguments = made(function)
    calls = range(counting.calls)
    for at in {*calls[:: 1 + len(calls) // 12], *calls[-1:]}:
        function.calls, function.at = 0, at
        with refused(batch, fault):
            batch.append_batch(*arguments)
    function.at = None
    batch.append_batch(*arguments)
    assert_served(batch, requests, first + tokens)


@pytest.mark.parametrize("function", [hashing.sha256, hashing.kvgpu128, hashing.xxhash_cbor])
def test_a_salt_that_cannot_be_encoded_leaves_all_as_before(function):
    """It was given to a request that was made already."""
    batch = make_batch(full(SIZE))
    requests = [make_request(name, 3, SIZE, function, cache_salt=name) for name in "ab"]
    requests.append(make_request("c", 3, SIZE, function))
    rows = batch.track(requests)
    requests[1].cache_salt = "\ud800"
    with refused(batch, ArgumentError, "request b: cache_salt"):
        batch.append_batch(rows, [7, 8, 9])
    batch.append_batch(rows[[0, 2]], [7, 9])
    batch.allocate_batch(rows[[0, 2]], 4)
    assert [request.num_tokens for request in requests] == [4, 3, 3]
    assert [len(batch.rows.hashes.of(row)) for row in rows.tolist()] == [1, 0, 1]


@pytest.mark.parametrize("width", [8, 16])
def test_hashes_of_another_width_leave_all_as_before(width):
    batch = make_batch(full(SIZE))
    odd = get_request_block_hasher(SIZE, lambda value: bytes(width))
    requests = [make_request("a", 4, SIZE), Request("b", [1, 2, 3], block_hasher=odd, cache_salt="s")]
    rows = batch.track(requests)
    with refused(batch, ArgumentError, "of one width"):
        batch.append_batch(rows, [7, 8])


@by_fault
@pytest.mark.parametrize("count", [8, SPARE + 30], ids=["room", "no room"])
def test_a_request_of_another_engine_that_fails_stays_and_the_others_are_served(fault, count):
    batch = make_batch(full(SIZE), max_hashes=4000)
    requests = [Foreign("bad", [1, 2]), *some_requests(hashing.sha256)]
    rows = batch.track(requests)
    batch.append_batch(rows, [5] * len(rows))
    requests[0].fault = fault
    with pytest.raises(fault) as error:
        batch.append_batch(rows, [7] * (count * len(rows)), [count] * len(rows))
    assert "the others have got theirs" in error.value.__notes__[0]
    requests[0].fault = None
    assert batch.rows.num_tokens[rows[0]] == 3
    batch.append_batch(rows[:1], [7] * count, [count])
    assert_served(batch, requests[1:], [5] + [7] * count)
    batch.sync()
    assert requests[0].all_token_ids == [1, 2, 5] + [7] * count
    assert len(batch.rows.hashes.of(int(rows[0]))) == (3 + count) // SIZE


def test_a_request_of_another_engine_that_fails_with_its_tokens_has_them():
    batch = make_batch(full(SIZE))
    bad, good = Foreign("bad", [1, 2, 3], first=True), Foreign("good", [1, 2, 3])
    rows = batch.track([bad, good])
    bad.fault = ZeroDivisionError
    with pytest.raises(ZeroDivisionError):
        batch.append_batch(rows, [7, 8])
    assert (bad.all_token_ids, good.all_token_ids) == ([1, 2, 3, 7], [1, 2, 3, 8])
    assert batch.rows.num_tokens[rows].tolist() == [4, 4]
    assert [len(batch.rows.hashes.of(row)) for row in rows.tolist()] == [0, 1]


@by_fault
@pytest.mark.parametrize("call", ["sync", "untrack", "extend"])
def test_tokens_that_a_request_does_not_take_stay_pending(fault, call):
    batch = make_batch(full(SIZE))
    bad, good = Foreign("bad", [1, 2]), Foreign("good", [1, 2])
    rows = batch.track([bad, make_request("ours", 2, SIZE, cache_salt="s"), good])
    batch.append_batch(rows, [7, 8, 9])
    bad.fault = fault
    with pytest.raises(fault):
        getattr(batch, call)(rows)
    assert [request.num_tokens for request in batch.rows.requests[:3]] == [2, 3, 3]
    before = state_of(batch)
    bad.fault = None
    getattr(batch, call)(rows)
    assert (bad.all_token_ids, good.all_token_ids) == ([1, 2, 7], [1, 2, 9])
    assert before["rows"]["num_tokens"] == [3, 3, 3]
