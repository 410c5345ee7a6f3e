"""Hashing requests in bulk gives the same hashes as hashing block by block."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.hash_chains import chain
from support.hashed_requests import (
    FUNCTIONS,
    MANY,
    SERIALISED,
    SOURCES,
    WIDE_EDGES,
    by_blocks,
    by_function,
    by_size,
    drawn_tokens,
    everything,
    extras_of,
    is_tagged,
    item,
    kinds_of_extras,
    salted,
    unhashed,
)
from support.managers import make_request

from kvgpu.hashing import functions as hashing
from kvgpu.hashing.request_hasher import get_request_block_hasher
from kvgpu.request import Request


@pytest.mark.parametrize("source", SOURCES)
@by_blocks
@by_size
@by_function
def test_hashing_in_bulk_equals_hashing_block_by_block(name, size, blocks, source):
    tokens = drawn_tokens(size * blocks + size - 1)
    hash_blocks = get_request_block_hasher(size, FUNCTIONS[name])
    request = Request("r", SOURCES[source](tokens), block_hasher=hash_blocks)
    assert request.block_hashes == chain(FUNCTIONS[name], tokens, size)


@pytest.mark.parametrize("source", ["list", "int64"])
@by_blocks
@by_size
@pytest.mark.parametrize("name", SERIALISED)
def test_tokens_of_64_bits_are_hashed_in_bulk_as_block_by_block(name, size, blocks, source):
    tokens = drawn_tokens(size * blocks, edges=WIDE_EDGES)
    hash_blocks = get_request_block_hasher(size, FUNCTIONS[name])
    request = Request("r", SOURCES[source](tokens), block_hasher=hash_blocks)
    assert request.block_hashes == chain(FUNCTIONS[name], tokens, size)


@pytest.mark.parametrize("size", [1000, 5500, 7000])
@pytest.mark.parametrize("name", SERIALISED)
def test_blocks_too_long_for_one_frame_are_hashed_like_any_other(name, size):
    tokens = drawn_tokens(MANY * size, edges=WIDE_EDGES * 700)
    request = make_request("r", tokens, size, FUNCTIONS[name])
    assert request.block_hashes == chain(FUNCTIONS[name], tokens, size)


@pytest.mark.parametrize("kind", [*kinds_of_extras(16, MANY), "everything"])
@by_blocks
@by_size
@by_function
def test_extra_keys_enter_hashes_in_bulk_as_block_by_block(name, size, blocks, kind):
    every = {**kinds_of_extras(size, blocks), "everything": everything(size, blocks)}
    attributes, tokens = every[kind], drawn_tokens(size * blocks + size // 2)
    request = make_request("r", tokens, size, FUNCTIONS[name], **attributes)
    extras = extras_of(name, attributes, size, blocks)
    assert request.block_hashes == chain(FUNCTIONS[name], tokens, size, extras)


@by_blocks
@by_size
@by_function
def test_a_prompt_of_embeddings_is_hashed_as_tokens_of_id_0(name, size, blocks):
    attributes = {"prompt_embeds": kinds_of_extras(size, blocks)["embeddings"]["prompt_embeds"]}
    hash_blocks = get_request_block_hasher(size, FUNCTIONS[name])
    request = Request("r", None, block_hasher=hash_blocks, **attributes)
    tokens = [0] * len(attributes["prompt_embeds"])
    extras = extras_of(name, attributes, size, len(tokens) // size)
    assert request.block_hashes == chain(FUNCTIONS[name], tokens, size, extras)


@pytest.mark.parametrize("name", SERIALISED)
def test_a_long_salt_is_hashed_in_bulk_as_block_by_block(name):
    salt, tokens = "salt" * 20_000, drawn_tokens(16 * MANY)
    request = make_request("r", tokens, 16, FUNCTIONS[name], cache_salt=salt)
    assert request.block_hashes == chain(FUNCTIONS[name], tokens, 16, [(salt,)])


# Requests that grow


@pytest.mark.parametrize("source", SOURCES)
@by_size
@by_function
def test_growing_token_by_token_equals_hashing_at_once(name, size, source):
    tokens = drawn_tokens(size * 14 + 1)
    hash_blocks = get_request_block_hasher(size, FUNCTIONS[name])
    request = Request("r", SOURCES[source](tokens[: 2 * size + 1]), block_hasher=hash_blocks)
    for token in tokens[2 * size + 1 :]:
        request.append_output_token_ids(token)
    assert request.block_hashes == chain(FUNCTIONS[name], tokens, size)


@by_function
@settings(max_examples=20, deadline=None)
@given(
    cuts=st.lists(st.integers(0, 16 * MANY), max_size=6).map(sorted),
    as_array=st.booleans(),
    attributes=st.sampled_from([{}, *list(kinds_of_extras(3, MANY).values())[:2]]),
)
def test_growing_in_chunks_equals_hashing_at_once(name, cuts, as_array, attributes):
    tokens = drawn_tokens(16 * MANY)
    ends = [*cuts, len(tokens)]
    first = tokens[: ends[0]]
    given_first = np.array(first, np.int32) if as_array else first
    hash_blocks = get_request_block_hasher(3, FUNCTIONS[name])
    request = Request("r", given_first, block_hasher=hash_blocks, **attributes)
    for begin, end in pairwise(ends):
        request.append_output_token_ids(tokens[begin:end])
    extras = extras_of(name, attributes, 3, len(tokens) // 3)
    assert request.block_hashes == chain(FUNCTIONS[name], tokens, 3, extras)


@by_function
def test_an_extension_by_many_blocks_looks_at_the_last_item_only(name):
    tokens, both = drawn_tokens(16 * MANY), [item("first", 32, 3), item("last", 36, 20)]
    request = make_request("r", tokens[:16], 16, FUNCTIONS[name], mm_features=both)
    request.append_output_token_ids(tokens[16:])
    items = [("last", 4), ("last", -12)]
    keys = [("mm", *key, None) for key in items] if is_tagged(name) else items
    extras = [None, None, (keys[0],), (keys[1],)]
    assert request.block_hashes == chain(FUNCTIONS[name], tokens, 16, extras)


@by_function
def test_a_wide_token_later_leaves_the_hashes_before(name):
    tokens = drawn_tokens(16 * MANY)
    hash_blocks = get_request_block_hasher(16, FUNCTIONS[name])
    request = Request("r", np.array(tokens, np.int32), block_hasher=hash_blocks)
    if name in SERIALISED:
        tokens += [2**40, *drawn_tokens(16 * MANY)]
        request.append_output_token_ids(tokens[16 * MANY :])
    assert request.block_hashes == chain(FUNCTIONS[name], tokens, 16)


def test_hashing_again_adds_nothing():
    request = make_request("r", 16 * MANY, 16, hashing.sha256)
    before = list(request.block_hashes)
    request.block_hasher.update([request])
    assert (list(request.block_hashes), request.block_hasher(request)) == (before, [])


# Many requests at once


def mixed_requests(name, size):
    """Short and long requests with their extra keys, in lists and arrays, some with hashes already."""
    requests = []
    lengths = [0, size - 1, size, 40 * size, 1, 7 * size + 1, 300 * size, 2 * size, 0, 5 * size]
    for place, length in enumerate(lengths):
        make = list(SOURCES.values())[place % len(SOURCES)]
        attributes = {}
        if place % 3 == 0 and length:
            kinds = list(kinds_of_extras(size, max(1, length // size)).values())
            attributes = kinds[(place // 3) % 4]
        request = unhashed(str(place), make(drawn_tokens(length, place)), **attributes)
        requests.append((request, extras_of(name, attributes, size, length // size)))
    return requests


def hash_in_part(request, extras, size, function, blocks):
    request.block_hashes.extend(chain(function, request.all_token_ids, size, extras)[:blocks])


@by_size
@by_function
def test_many_requests_at_once_are_each_hashed_as_alone(name, size):
    pairs = mixed_requests(name, size)
    get_request_block_hasher(size, FUNCTIONS[name]).update([request for request, _ in pairs])
    for request, extras in pairs:
        expected = chain(FUNCTIONS[name], request.all_token_ids, size, extras)
        assert request.block_hashes == expected


@pytest.mark.parametrize("blocks", [1, 3])
@by_size
@by_function
def test_requests_hashed_in_part_go_on_where_they_are(name, size, blocks):
    # No items: hashing more blocks of a request looks at its last item only.
    pairs = [
        (unhashed(str(n), np.array(drawn_tokens(n * size, n), np.int32), cache_salt=salt), salt)
        for n, salt in [(9, None), (30, "salt"), (4, None), (1, "salt"), (3, None)]
    ]
    pairs = [(request, [salt and (salted(name, salt),)]) for request, salt in pairs]
    for request, extras in pairs[::2]:
        hash_in_part(request, extras, size, FUNCTIONS[name], blocks)
    get_request_block_hasher(size, FUNCTIONS[name]).update([request for request, _ in pairs])
    for request, extras in pairs:
        expected = chain(FUNCTIONS[name], request.all_token_ids, size, extras)
        assert request.block_hashes == expected


@by_function
def test_tokens_of_32_and_64_bits_may_be_hashed_together(name):
    tokens = [drawn_tokens(16 * n, n) for n in (9, 20, 3)]
    if name in SERIALISED:
        tokens[1][5] = 2**40
    requests = [unhashed("wide", np.array(tokens[1])), unhashed("list", tokens[2])]
    requests.insert(0, unhashed("narrow", np.array(tokens[0], np.int32)))
    get_request_block_hasher(16, FUNCTIONS[name]).update(requests)
    found = [list(request.block_hashes) for request in requests]
    assert found == [chain(FUNCTIONS[name], ids, 16) for ids in tokens]


@by_function
def test_requests_hashed_together_grow_apart(name):
    tokens = [drawn_tokens(16 * 10, n) for n in range(3)]
    requests = [unhashed(str(n), ids[:80]) for n, ids in enumerate(tokens)]
    hash_blocks = get_request_block_hasher(16, FUNCTIONS[name])
    hash_blocks.update(requests)
    for request, ids in zip(requests, tokens, strict=True):
        request.append_unhashed(ids[80:])
        hash_blocks.update([request])
    found = [list(request.block_hashes) for request in requests]
    assert found == [chain(FUNCTIONS[name], ids, 16) for ids in tokens]


@by_function
def test_no_requests_or_none_with_a_full_block_may_be_hashed(name):
    hash_blocks = get_request_block_hasher(16, FUNCTIONS[name])
    short = [unhashed("a", [1, 2]), unhashed("b", np.arange(15)), unhashed("c", [])]
    hash_blocks.update([])
    hash_blocks.update(short)
    assert [len(request.block_hashes) for request in short] == [0, 0, 0]
