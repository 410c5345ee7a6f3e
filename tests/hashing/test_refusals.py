"""Token ids that a hash function does not accept are refused before anything changes."""

import numpy as np
import pytest
from support.batches import make_batch
from support.hash_chains import chain
from support.hashed_requests import FUNCTIONS, MANY, SOURCES, drawn_tokens, unhashed
from support.managers import full, make_request

from kvgpu.errors import ArgumentError, ArgumentTypeError, ConfigError
from kvgpu.hashing.kvgpu128.function import Kvgpu128
from kvgpu.hashing.request_hasher import get_request_block_hasher
from kvgpu.request import Request

# Tokens that the hash function does not accept

BAD = [
    (2**31, ArgumentError),
    (-(2**31) - 1, ArgumentError),
    (2**70, ArgumentError),
    (True, ArgumentTypeError),
    (1.5, ArgumentTypeError),
    ("a", ArgumentTypeError),
    (None, ArgumentTypeError),
]
by_bad = pytest.mark.parametrize(("bad", "error"), BAD)
keyed = pytest.mark.parametrize("name", ["kvgpu128", "a key of its own"])


def with_one(tokens, place, bad):
    tokens[place] = bad
    return tokens


@by_bad
@pytest.mark.parametrize("lengths", [(1, 1, 1), (12, MANY, 9)], ids=["few blocks", "many blocks"])
@keyed
def test_a_bad_token_in_one_of_many_requests_leaves_all_without_hashes(name, lengths, bad, error):
    requests = [unhashed(str(n), drawn_tokens(16 * n, n)) for n in lengths]
    requests[1].all_token_ids[3] = bad
    with pytest.raises(error):
        get_request_block_hasher(16, FUNCTIONS[name]).update(requests)
    assert [len(request.block_hashes) for request in requests] == [0, 0, 0]


@keyed
def test_a_bad_token_in_an_array_of_one_of_many_leaves_all_without_hashes(name):
    arrays = [np.array(drawn_tokens(16 * n, n)) for n in (12, MANY, 9)]
    arrays[1][100] = 2**40
    requests = [unhashed(str(n), array) for n, array in enumerate(arrays)]
    with pytest.raises(ArgumentError):
        get_request_block_hasher(16, FUNCTIONS[name]).update(requests)
    assert [len(request.block_hashes) for request in requests] == [0, 0, 0]


@pytest.mark.parametrize("place", [0, 7, 8, 23], ids=lambda place: f"place {place}")
@by_bad
@pytest.mark.parametrize("source", ["list", "int32"])
def test_a_bad_token_in_a_block_that_becomes_full_is_refused_and_not_appended(source, bad, error, place):
    tokens = drawn_tokens(24)
    hash_blocks = get_request_block_hasher(16, Kvgpu128(bytes(32)))
    request = Request("r", SOURCES[source](tokens), block_hasher=hash_blocks)
    before = list(request.block_hashes)
    with pytest.raises(ArgumentError):
        request.append_output_token_ids(with_one(drawn_tokens(30), place, bad))
    assert (request.all_token_ids, list(request.block_hashes)) == (tokens, before)


@pytest.mark.parametrize("source", ["list", "int32"])
def test_a_bad_token_that_fills_no_block_is_refused_when_it_comes(source):
    hash_blocks = get_request_block_hasher(16, Kvgpu128(bytes(32)))
    request = Request("r", SOURCES[source](drawn_tokens(24)), block_hasher=hash_blocks)
    with pytest.raises(ArgumentError):
        request.append_output_token_ids(2**31)
    request.append_output_token_ids(drawn_tokens(8))
    assert len(request.block_hashes) == 2


@by_bad
@keyed
def test_a_request_goes_on_after_a_bad_token(name, bad, error):
    tokens = drawn_tokens(31)
    request = make_request("r", tokens, 16, FUNCTIONS[name])
    with pytest.raises(error):
        request.append_output_token_ids([bad])
    request.append_output_token_ids(5)
    assert request.block_hashes == chain(FUNCTIONS[name], [*tokens, 5], 16)


@pytest.mark.parametrize("bad", [2**31, 2**70, True])
@keyed
def test_a_bad_token_behind_the_full_blocks_is_treated_alike_however_many_there_are(name, bad):
    hash_blocks = get_request_block_hasher(16, FUNCTIONS[name])
    refused = []
    for blocks in (0, 1, 2, 7, 8, MANY):
        request = unhashed("r", [*drawn_tokens(16 * blocks), bad])
        try:
            hash_blocks.update([request])
        except ArgumentError:
            refused.append(blocks)
    assert refused in ([], [0, 1, 2, 7, 8, MANY])


@keyed
def test_a_bad_token_behind_the_full_blocks_is_treated_alike_in_lists_and_arrays(name):
    hash_blocks = get_request_block_hasher(16, FUNCTIONS[name])
    refused = []
    for make in (list, np.array):
        request = unhashed("r", make([*drawn_tokens(16 * MANY), 2**31]))
        try:
            hash_blocks.update([request])
        except ArgumentError:
            refused.append(make)
    assert refused in ([], [list, np.array])


@pytest.mark.parametrize("source", ["list", "int64"])
@keyed
def test_a_prompt_with_a_bad_token_in_no_full_block_is_refused(name, source):
    tokens = SOURCES[source]([1, 2, 2**40])
    with pytest.raises(ArgumentError):
        Request("r", tokens, block_hasher=get_request_block_hasher(4, FUNCTIONS[name]))


@keyed
def test_a_batch_that_is_refused_for_a_bad_token_is_not_changed(name):
    batch = make_batch(full(4), max_hashes=100)
    requests = [make_request(each, 3, 4, FUNCTIONS[name]) for each in "ab"]
    rows = batch.track(requests)
    with pytest.raises(ArgumentError):
        batch.append_batch(rows, [7, 2**31])
    batch.sync()
    assert batch.rows.records["num_tokens"][rows].tolist() == [3, 3]
    assert [request.all_token_ids for request in requests] == [[0, 1, 2]] * 2


@pytest.mark.parametrize("size", [0, -16])
def test_a_block_size_below_one_token_is_refused(size):
    with pytest.raises(ConfigError, match=f"at least 1 token, got {size}"):
        get_request_block_hasher(size, Kvgpu128(bytes(32)))
