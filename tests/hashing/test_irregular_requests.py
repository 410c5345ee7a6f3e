"""Bulk hashing of irregular requests: unusual tokens and parents, custom hash functions, requests of other engines."""

from types import SimpleNamespace

import pytest
from support.hash_chains import chain
from support.hashed_requests import (
    FUNCTIONS,
    MANY,
    PICKLED,
    SERIALISED,
    SOURCES,
    Color,
    by_blocks,
    by_function,
    drawn_tokens,
    salted,
    unhashed,
)
from support.managers import make_request

from kvgpu.hashing import capabilities as functions
from kvgpu.hashing import functions as hashing
from kvgpu.hashing.block_hashes import BlockHashes
from kvgpu.hashing.inputs.token_ids import TokenIds
from kvgpu.hashing.request_hasher import RequestBlockHasher, get_request_block_hasher
from kvgpu.hashing.serialised import chains
from kvgpu.request import Request

# Tokens that are not plain integers of 64 bits


def one_truth_value(tokens):
    return [*tokens[:5], True, *tokens[6:]]


def one_false_at_the_end(tokens):
    return [*tokens[:-1], False]


def one_of_an_enum(tokens):
    return [*tokens[:5], Color.RED, *tokens[6:]]


def one_huge(tokens):
    return [*tokens[:5], 2**70, -(2**63) - 1, *tokens[7:]]


IRREGULAR = [
    *((name, odd) for name in SERIALISED for odd in (one_truth_value, one_false_at_the_end, one_huge)),
    *((name, odd) for name in PICKLED for odd in (one_of_an_enum,)),
]
irregular = pytest.mark.parametrize(("name", "odd"), IRREGULAR)


@irregular
@by_blocks
def test_irregular_tokens_are_hashed_by_the_real_serialiser(name, odd, blocks):
    tokens = odd(drawn_tokens(16 * blocks))
    request = make_request("r", tokens, 16, FUNCTIONS[name])
    assert list(request.block_hashes) == chain(FUNCTIONS[name], tokens, 16)


@irregular
def test_irregular_tokens_of_one_request_leave_the_others_as_they_are(name, odd):
    tokens = [drawn_tokens(16 * n, n) for n in (12, MANY, 3, 9)]
    tokens[1] = odd(tokens[1])
    requests = [unhashed(str(n), ids) for n, ids in enumerate(tokens)]
    get_request_block_hasher(16, FUNCTIONS[name]).update(requests)
    found = [list(request.block_hashes) for request in requests]
    assert found == [chain(FUNCTIONS[name], ids, 16) for ids in tokens]


@pytest.mark.parametrize("parent", [b"", b"p", b"p" * 20, b"p" * 255, b"p" * 300])
@pytest.mark.parametrize("name", SERIALISED)
def test_a_first_parent_may_have_any_width(monkeypatch, name, parent):
    monkeypatch.setattr(hashing, "NONE_HASH", hashing.BlockHash(parent))
    tokens = drawn_tokens(16 * MANY)
    request = make_request("r", tokens, 16, FUNCTIONS[name], cache_salt="p")
    assert request.block_hashes == chain(FUNCTIONS[name], tokens, 16, [("p",)])


@by_blocks
@pytest.mark.parametrize("name", PICKLED)
def test_a_salt_that_is_the_first_parent_itself_is_hashed_alike(name, blocks):
    # Pickle writes the second occurrence of an object as a reference.
    salt, tokens = hashing.NONE_HASH, drawn_tokens(16 * blocks)
    request = make_request("r", tokens, 16, FUNCTIONS[name], cache_salt=salt)
    assert request.block_hashes == chain(FUNCTIONS[name], tokens, 16, [(salt,)])


@pytest.mark.parametrize("name", SERIALISED)
def test_a_serialiser_that_is_not_trusted_is_called_block_by_block(monkeypatch, name):
    monkeypatch.setattr(chains, "trusted", lambda kind: False)
    functions.chains_called.cache_clear()
    try:
        tokens = drawn_tokens(16 * MANY)
        request = make_request("r", tokens, 16, FUNCTIONS[name])
    finally:
        functions.chains_called.cache_clear()
    assert request.block_hashes == chain(FUNCTIONS[name], tokens, 16)


# Custom hash functions


@by_blocks
@pytest.mark.parametrize("source", SOURCES)
def test_a_hash_function_of_ones_own_is_called_with_each_block(blocks, source):
    seen = []

    def spy(value):
        seen.append(value)
        return bytes([len(seen)]) * 32

    tokens = drawn_tokens(4 * blocks + 1)
    hash_blocks = get_request_block_hasher(4, spy)
    Request("r", SOURCES[source](tokens), cache_salt="s", block_hasher=hash_blocks)
    parents = [hashing.NONE_HASH, *(bytes([n + 1]) * 32 for n in range(blocks - 1))]
    extras = [("s",), *[None] * (blocks - 1)]
    blocks_of_tokens = [tuple(tokens[4 * n : 4 * n + 4]) for n in range(blocks)]
    assert seen == list(zip(parents, blocks_of_tokens, extras, strict=True))
    assert {type(token) for _, block, _ in seen for token in block} == {int}
    assert {type(block) for _, block, _ in seen} == {tuple}


def test_a_hash_function_of_ones_own_may_be_any_object_that_can_be_called():
    class Function:
        __hash__ = None

        def __call__(self, value):
            return hashing.sha256(value)

    tokens = drawn_tokens(16 * MANY)
    request = make_request("r", tokens, 16, Function())
    assert request.block_hashes == chain(hashing.sha256, tokens, 16)


# Requests of other engines


def foreign(tokens, hashes=(), **attributes):
    return SimpleNamespace(block_hashes=[*hashes], all_token_ids=tokens, num_tokens=len(tokens), **attributes)


@by_blocks
@by_function
def test_a_foreign_request_is_given_a_list_of_bytes(name, blocks):
    tokens = drawn_tokens(16 * blocks + 3)
    request = foreign(tokens)
    new = get_request_block_hasher(16, FUNCTIONS[name])(request)
    assert (type(new), {*map(type, new)}) == (list, {bytes})
    assert (new, request.block_hashes) == (chain(FUNCTIONS[name], tokens, 16), [])


@by_blocks
@by_function
def test_a_foreign_request_is_given_only_the_hashes_that_it_lacks(name, blocks):
    tokens = drawn_tokens(16 * (blocks + 2))
    expected = chain(FUNCTIONS[name], tokens, 16, [(salted(name, "s"),)])
    request = foreign(tokens, expected[:2], cache_salt="s")
    assert get_request_block_hasher(16, FUNCTIONS[name])(request) == expected[2:]


@by_blocks
@by_function
def test_the_list_of_a_foreign_request_is_extended_in_place(name, blocks):
    tokens = drawn_tokens(16 * blocks)
    request = foreign(tuple(tokens))
    held = request.block_hashes
    get_request_block_hasher(16, FUNCTIONS[name]).update([request])
    assert held is request.block_hashes
    assert (held, {*map(type, held)}) == (chain(FUNCTIONS[name], tokens, 16), {bytes})


@by_function
def test_foreign_requests_and_ones_of_our_own_may_be_hashed_together(name):
    tokens = [drawn_tokens(16 * n, n) for n in (5, 6, 7)]
    requests = [foreign(tokens[0]), unhashed("r", tokens[1]), foreign(TokenIds(tokens[2]))]
    get_request_block_hasher(16, FUNCTIONS[name]).update(requests)
    assert [list(request.block_hashes) for request in requests] == [chain(FUNCTIONS[name], ids, 16) for ids in tokens]


@by_blocks
def test_hashes_of_another_width_turn_the_array_into_a_list(blocks):
    tokens = drawn_tokens(16 * (blocks + 1))
    (first,) = chain(hashing.sha256, tokens[:16], 16)
    request = unhashed("r", tokens)
    request.block_hashes = BlockHashes([first])
    get_request_block_hasher(16, hashing.xxhash).update([request])
    assert type(request.block_hashes) is list
    assert request.block_hashes == [first, *chain(hashing.xxhash, tokens[16:], 16, parent=first)]


# The first parent


@by_blocks
@by_function
def test_the_none_hash_is_read_at_every_call(monkeypatch, name, blocks):
    tokens = drawn_tokens(16 * blocks)
    hash_blocks = RequestBlockHasher(16, FUNCTIONS[name])
    found = []
    for parent in (b"\x01" * 32, b"\x02" * 32, b"\x03" * 16):
        monkeypatch.setattr(hashing, "NONE_HASH", hashing.BlockHash(parent))
        found.append(hash_blocks(foreign(tokens)))
        assert found[-1] == chain(FUNCTIONS[name], tokens, 16, parent=parent)
    assert len({hashes[0] for hashes in found}) == 3
