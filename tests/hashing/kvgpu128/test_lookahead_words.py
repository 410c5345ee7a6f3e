"""Tokens after a block are words of it in kvgpu128: its definition, and what is told apart (fact B6)."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.definitions.kvgpu128 import KEY, PARENT, assert_all_differ, definition, drawn_tokens

from kvgpu.errors import ArgumentError, ConfigError
from kvgpu.hashing.bulk.chains import Blocks
from kvgpu.hashing.kvgpu128.function import Kvgpu128

token_ids = st.sampled_from([0, 1, -1, 2**31 - 1, -(2**31)]) | st.integers(-(2**31), 2**31 - 1)


@pytest.fixture(scope="module")
def fn():
    return Kvgpu128(KEY)


@settings(max_examples=80, deadline=None)
@given(
    tokens=st.lists(token_ids, max_size=40).map(tuple),
    extra=st.none() | st.lists(st.tuples(st.text(max_size=3), st.integers(-9, 9)), max_size=2).map(tuple),
    following=st.lists(token_ids, min_size=1, max_size=30).map(tuple),
)
def test_any_block_has_the_hash_of_the_definition(tokens, extra, following):
    assert Kvgpu128(KEY)((PARENT, tokens, (extra, *following))) == definition()(PARENT, tokens, extra, following)


@pytest.mark.parametrize("lookahead", [1, 2, 3, 17])
@pytest.mark.parametrize("size", [1, 15, 16, 27, 28, 64])
@pytest.mark.parametrize("salted", [False, True])
def test_bulk_hashes_are_those_of_the_definition(fn, size, lookahead, salted):
    count = 9
    tokens = drawn_tokens(count * size + lookahead)
    extras = [(("salt", "s"),) if salted and block % 2 else None for block in range(count)]
    keys = fn.hashes(Blocks([tokens], [count], count, size, [PARENT], extras if salted else None, lookahead=lookahead))
    parent, listed = PARENT, tokens.tolist()
    for block in range(count):
        end = (block + 1) * size
        parent = definition()(parent, listed[end - size : end], extras[block], listed[end : end + lookahead])
        assert keys[block].tobytes()[:16] == parent


def test_tokens_of_a_block_and_those_after_it_are_told_apart(fn):
    values = [
        ((1, 2, 3), None),
        ((1, 2), (None, 3)),
        ((1,), (None, 2, 3)),
        ((1, 2), (None, 3, 0)),
        ((1, 2, 3), (None, 0)),
    ]
    values += [((1, 2), ((), 3)), ((1, 2), ((("salt", "x"),), 3)), ((1, 2), (("salt", "x"),)), ((1, 2), (("salt", 3),))]
    assert_all_differ([fn((PARENT, *value)) for value in values])


@pytest.mark.parametrize(
    "plain", [("a", 1), (1, 2), (None, "a"), (None, True), (None, 1.5), ("a",), ((1,),), (b"a", 2)]
)
def test_keys_of_another_form_are_extra_keys(fn, plain):
    assert fn((PARENT, (1, 2), plain)) == definition()(PARENT, (1, 2), plain)


def test_integers_of_numpy_are_tokens(fn):
    assert fn((PARENT, (1, 2), (None, np.int64(3)))) == fn((PARENT, (1, 2), (None, 3)))


def test_tokens_of_more_than_32_bits_are_refused(fn):
    with pytest.raises(ArgumentError, match="hashes token ids from"):
        fn((PARENT, (1, 2), (None, 2**31)))


def test_look_ahead_is_refused_where_it_would_be_hashed_as_extra_keys(fn):
    """As on a device, which takes extra keys, and no look-ahead."""
    with pytest.raises(ConfigError, match="look-ahead tokens as Blocks"):
        fn.extra_words([None, (None, 5)])


@pytest.mark.parametrize("lookahead", [-1, 2**31, 1.0, True, None])
def test_a_number_of_tokens_after_a_block_is_a_count(fn, lookahead):
    with pytest.raises(ArgumentError, match="look-ahead covers"):
        fn.hashes(Blocks([drawn_tokens(10)], [1], 1, 4, [PARENT], None, lookahead=lookahead))
