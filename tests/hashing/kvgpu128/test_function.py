"""kvgpu128 equals its definition, in bulk and block by block, and refuses tokens that it cannot hash."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.definitions.kvgpu128 import (
    EXTRAS,
    KEY,
    PARENT,
    PRIME,
    SIZES,
    Definition,
    called,
    chained,
    definition,
    drawn_tokens,
    hashes_of,
    speck,
    unspeck,
)
from support.managers import admit, full, make_manager, make_request

from kvgpu.errors import ArgumentError, ArgumentTypeError
from kvgpu.hashing import functions as hashing
from kvgpu.hashing.bulk.chains import Blocks
from kvgpu.hashing.kvgpu128.function import Kvgpu128


@pytest.fixture(scope="module")
def fn():
    return Kvgpu128(KEY)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("extras", [None, EXTRAS], ids=["no extras", "extras"])
def test_hashes_are_those_of_the_definition(fn, size, extras):
    tokens = drawn_tokens(8 * size)
    assert chained(called(fn), tokens, size, extras=extras) == chained(definition(), tokens, size, extras=extras)


@settings(max_examples=80, deadline=None)
@given(
    parent=st.binary(max_size=40) | st.binary(min_size=16, max_size=16),
    tokens=st.lists(
        st.sampled_from([0, 1, -1, 2**31 - 1, -(2**31)]) | st.integers(-(2**31), 2**31 - 1), max_size=70
    ).map(tuple),
    extra=st.none() | st.lists(st.text(max_size=3) | st.integers(-9, 9), max_size=2).map(tuple),
)
def test_any_block_has_the_hash_of_the_definition(parent, tokens, extra):
    assert Kvgpu128(KEY)((parent, tokens, extra)) == definition()(parent, tokens, extra)


@pytest.mark.parametrize("tokens", [0, -1, 2**31 - 1, -(2**31)])
@pytest.mark.parametrize("size", [16, 24, 25, 26, 27, 28, 29, 56, 57, 58, 59, 60, 61, 92])
def test_sums_of_the_largest_words_do_not_overflow(fn, tokens, size):
    block = (tokens,) * size
    assert fn((PARENT, block, ("salt",))) == definition()(PARENT, block, ("salt",))
    assert fn((PARENT, block, None)) == definition()(PARENT, block, None)


class Largest(Kvgpu128):
    """Every word has the largest key."""

    def word_keys(self, num_tokens):
        return np.full((3 + (num_tokens + 1) // 2, 2), 2**59 - 1, np.uint64)


@pytest.mark.parametrize("extra", [None, ("salt",)])
@pytest.mark.parametrize("start", [0, 26])
def test_sums_of_the_largest_words_and_keys_do_not_overflow(start, extra):
    expected = Definition(KEY)
    expected.keys = [(2**59 - 1) * (2**64 + 1)] * len(expected.keys)
    for size in range(start, start + 100):
        block = (-1,) * size
        assert Largest(KEY)((PARENT, block, extra)) == expected(PARENT, block, extra)


def test_a_prefix_whose_element_is_0_is_like_any_other(fn):
    # The state before the block is chosen so that the two cancel each other.
    tokens, keys, point = tuple(range(16)), definition().mix_keys, definition().point
    last = definition()(speck(0, keys).to_bytes(16, "little"), tokens, None)
    value = unspeck(int.from_bytes(last, "little"), keys)
    before = -value * pow(point, -1, PRIME) % PRIME
    parent = speck(before, keys).to_bytes(16, "little")
    assert fn((parent, tokens, None)) == speck(0, keys).to_bytes(16, "little")


@pytest.mark.parametrize("element", [0, 1, PRIME - 1, PRIME, PRIME + 1, 2**127 + 5, 2**128 - 1])
def test_a_parent_at_the_edge_of_the_field_is_like_any_other(fn, element):
    parent = speck(element, definition().mix_keys).to_bytes(16, "little")
    assert fn((parent, (0,) * 16, None)) == definition()(parent, (0,) * 16, None)


# Many blocks at once


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", [np.int32, np.int64])
@pytest.mark.parametrize("extras", [None, EXTRAS], ids=["no extras", "extras"])
def test_a_chain_at_once_is_the_chain_one_by_one(fn, size, dtype, extras):
    tokens = drawn_tokens(8 * size, dtype=dtype)
    found = hashes_of(fn, tokens, size=size, extras=extras)
    assert found == [chained(called(fn), tokens, size, extras=extras)]


@pytest.mark.parametrize("count", [1, 255, 256, 257, 700])
@pytest.mark.parametrize("size", [3, 16])
def test_a_long_chain_at_once_is_the_chain_one_by_one(fn, count, size):
    tokens = drawn_tokens(count * size)
    assert hashes_of(fn, tokens, size=size) == [chained(called(fn), tokens, size)]


@pytest.mark.parametrize("parent", [drawn_tokens(4, 9).tobytes(), drawn_tokens(8, 9).tobytes(), b"", b"p" * 300])
def test_a_chain_may_follow_any_bytes(fn, parent):
    tokens = drawn_tokens(160)
    assert hashes_of(fn, tokens, parents=[parent]) == [chained(called(fn), tokens, 16, parent)]


def test_a_chain_goes_on_from_its_own_hashes(fn):
    tokens = drawn_tokens(320)
    (whole,) = hashes_of(fn, tokens)
    assert hashes_of(fn, tokens[112:], parents=[whole[6]]) == [whole[7:]]


@pytest.mark.parametrize("counts", [[1] * 300, [255, 1, 1], [256, 3], [100] * 6, [0, 15, 0, 2, 1]])
def test_chains_of_any_length_are_mixed_together(fn, counts):
    chains = [drawn_tokens(16 * n, seed) for seed, n in enumerate(counts)]
    expected = [chained(called(fn), chain, 16) for chain in chains]
    assert hashes_of(fn, *chains) == expected


def test_a_parent_that_chains_have_in_common_is_remembered_for_itself_alone():
    fn = Kvgpu128(KEY)
    tokens = drawn_tokens(32)
    for parent in (b"", PARENT, b"", b"p" * 40, PARENT, b"q" * 16):
        expected = chained(definition(), tokens, 16, parent)
        assert hashes_of(fn, tokens, parents=[parent]) == [expected]
        assert hashes_of(fn, *[tokens] * 3, parents=[parent] * 3) == [expected] * 3
    assert hashes_of(fn) == []


def test_many_chains_at_once_are_each_hashed_alone(fn):
    chains = [drawn_tokens(16 * n + n % 16, n) for n in (3, 0, 300, 1, 0, 17)]
    parents = [b"", PARENT, b"p" * 16, PARENT, PARENT, b"q" * 16]
    alone = [chained(called(fn), t, 16, p) for t, p in zip(chains, parents, strict=True)]
    assert hashes_of(fn, *chains, parents=parents) == alone


def test_many_chains_at_once_keep_their_extra_keys_apart(fn):
    chains = [drawn_tokens(16 * n, n) for n in (3, 0, 4, 1)]
    expected = [
        chained(called(fn), chains[0], 16, extras=EXTRAS[:3]),
        [],
        chained(called(fn), chains[2], 16, extras=EXTRAS[3:7]),
        chained(called(fn), chains[3], 16, extras=EXTRAS[7:]),
    ]
    assert hashes_of(fn, *chains, extras=EXTRAS) == expected


@pytest.mark.parametrize("extra", [(), ("",), (0,), (False,), ("a", "a"), (("a", 1),)], ids=lambda extra: repr(extra))
def test_equal_extra_keys_may_follow_each_other(fn, extra):
    tokens = drawn_tokens(64)
    extras = [extra, tuple(extra), extra, None]
    found = hashes_of(fn, tokens, extras=extras)
    assert found == [chained(called(fn), tokens, 16, extras=extras)]


def test_extra_keys_that_only_compare_equal_are_told_apart(fn):
    tokens = drawn_tokens(48)
    extras = [(1,), (True,), (1.0,)]
    found = hashes_of(fn, tokens, extras=extras)
    assert found == [chained(called(fn), tokens, 16, extras=extras)]
    assert len({fn((PARENT, (1,), extra)) for extra in extras}) == 3


def test_chains_of_32_and_of_64_bits_may_be_mixed(fn):
    chains = [drawn_tokens(64, 1), drawn_tokens(64, 2, np.int64), drawn_tokens(64, 3)]
    alone = [chained(called(fn), tokens, 16) for tokens in chains]
    assert hashes_of(fn, *chains) == alone


def test_hashes_are_padded_with_zeros(fn):
    keys = fn.hashes(Blocks([drawn_tokens(160)], [10], 10, 16, [PARENT], None))
    assert (keys.dtype, keys.shape, keys[:, 2:].any()) == (np.int64, (10, 4), False)


# Errors


@pytest.mark.parametrize("token", [2**31, -(2**31) - 1, 2**32, 2**63 - 1, -(2**63), 2**63, 2**70])
@pytest.mark.parametrize("place", [0, 1, 15])
def test_a_token_beyond_32_bits_is_refused(fn, token, place):
    tokens = [0] * 16
    tokens[place] = token
    with pytest.raises(ArgumentError):
        fn((PARENT, tuple(tokens), None))


@pytest.mark.parametrize("token", [2**31, -(2**31) - 1, 2**63 - 1, -(2**63)])
def test_an_array_with_a_token_beyond_32_bits_is_refused(fn, token):
    tokens = drawn_tokens(160, dtype=np.int64)
    tokens[77] = token
    with pytest.raises(ArgumentError):
        hashes_of(fn, drawn_tokens(160), tokens)


@pytest.mark.parametrize("token", [True, 1.5, "a", None, b"a", (1,)])
@pytest.mark.parametrize("builtin", [ArgumentTypeError, TypeError])
def test_a_token_that_is_no_integer_is_refused(fn, token, builtin):
    with pytest.raises(builtin):
        fn((PARENT, (1, token), None))


# As a hash function like the others


@pytest.mark.parametrize("value", ["0", "", 7, None, ("a",), (b"p", [1, 2], None), {"a": 1}])
def test_anything_that_cbor_writes_has_a_hash(fn, value):
    assert (len(fn(value)), fn(value)) == (16, Kvgpu128(KEY)(value))


@pytest.mark.parametrize("name", ["sha256", "kvgpu128"])
def test_requests_of_a_manager_hit_what_they_share(name):
    manager = make_manager(full(4))
    function = hashing.get_hash_fn_by_name(name)
    admit(manager, make_request("first", [*range(38)], 4, function))
    hits = {}
    for request_id, tokens, salt in [
        ("same", [*range(38)], None),
        ("shared", [*range(21), *range(50, 70)], None),
        ("salted", [*range(38)], "salt"),
        ("other", [9, *range(1, 38)], None),
    ]:
        request = make_request(request_id, tokens, 4, function, cache_salt=salt)
        hits[request_id] = manager.get_computed_blocks(request)[1]
    assert hits == {"same": 36, "shared": 20, "salted": 0, "other": 0}
