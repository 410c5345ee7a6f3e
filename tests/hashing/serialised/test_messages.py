"""Messages of blocks have the same bytes as those of the real serialisers."""

import pickle

import cbor2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kvgpu.errors import ArgumentTypeError
from kvgpu.hashing.serialised import messages
from kvgpu.hashing.serialised.messages import CBOR, PICKLE, build, trusted

REAL_PICKLE = pickle.dumps

EDGES = sorted(
    {
        sign * (2**power) + delta
        for power in (0, 4, 7, 8, 15, 16, 23, 24, 31, 32, 39, 40, 47, 48, 55, 56, 62, 63)
        for delta in (-1, 0, 1)
        for sign in (-1, 1)
        if -(2**63) <= sign * (2**power) + delta < 2**63
    }
    | {0, 22, 23, 24, 25, 1000, -24, -25}
)
"""Integers where the number of bytes changes in one of the formats."""

NAME = "the same object"


def real(kind, value):
    if kind == PICKLE:
        return REAL_PICKLE(value, protocol=pickle.HIGHEST_PROTOCOL)
    return cbor2.dumps(value, canonical=True)


def assert_real(kind, parent, tokens, extra):
    assert build(kind, parent, tokens, extra) == real(kind, (parent, tuple(tokens), extra))


def drawn_tokens(seed, count):
    """Draw integers of all sizes, some of them from EDGES."""
    rng = np.random.default_rng(seed)
    values = rng.integers(-(2**63), 2**63 - 1, count) >> rng.integers(0, 64, count)
    places = rng.integers(0, 4, count) == 0
    values[places] = rng.choice(EDGES, int(places.sum()))
    return values.tolist()


kinds = pytest.mark.parametrize("kind", [PICKLE, CBOR], ids=["pickle", "cbor"])

# A new object each time, so that a parent is never identical with an extra key.
parents = st.binary(min_size=2, max_size=255).map(lambda drawn: bytes(bytearray(drawn)))
token_lists = st.lists(
    st.integers(0, 300) | st.sampled_from(EDGES) | st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=30
)
keys = st.recursive(
    st.none()
    | st.text(max_size=6)
    | st.binary(max_size=6)
    | st.integers(-(2**70), 2**70)
    | st.sampled_from([NAME, "x" * 300, b"y" * 300, (), ("item", -3), True]),
    lambda inner: st.lists(inner, max_size=3).map(tuple),
    max_leaves=6,
)
extras = st.none() | st.lists(keys, max_size=4).map(tuple)


@kinds
@settings(max_examples=150, deadline=None)
@given(parent=parents, tokens=token_lists, extra=extras)
@example(parent=b"pp", tokens=[1], extra=())
@example(parent=b"p" * 32, tokens=[1, 2], extra=(NAME, NAME))
@example(parent=b"p" * 32, tokens=[1, 2, 3], extra=((NAME, -1), (NAME, 5), NAME))
@example(parent=b"p" * 255, tokens=[1, 2, 3, 4], extra=("long" * 5000, b"long" * 5000))
def test_a_message_is_what_the_real_serialiser_writes(kind, parent, tokens, extra):
    assert_real(kind, parent, tokens, extra)


@kinds
@pytest.mark.parametrize("token", EDGES)
def test_a_token_at_an_edge_is_written_like_any_other(kind, token):
    assert_real(kind, b"p" * 32, [token], None)


@kinds
@pytest.mark.parametrize("length", [2, 15, 16, 23, 24, 32, 254, 255])
def test_a_parent_may_have_any_length_up_to_255(kind, length):
    assert_real(kind, bytes(range(length)), [7, -7, 70000, 2**40], None)


@pytest.mark.parametrize("length", [0, 1, 256, 300, 70000])
def test_in_cbor_a_parent_may_have_any_length_at_all(length):
    assert_real(CBOR, b"p" * length, [7, -7, 70000, 2**40], ("salt",))


@kinds
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 16, 23, 24, 64, 255, 256, 300])
def test_a_block_may_have_any_number_of_tokens(kind, count):
    for seed in range(20):
        assert_real(kind, bytes([seed]) * 32, drawn_tokens(seed, count), None)


@kinds
def test_equal_objects_are_told_from_the_same_object(kind):
    word = "".join(["wo", "rd"])
    twin = "".join(["wo", "rd"])
    for extra in ((word, word), (word, twin), ((word, 1), (word, 1)), ((word, 1), (twin, 1))):
        assert_real(kind, b"p" * 32, [1, 2, 3, 4], extra)


@kinds
def test_a_key_may_be_a_tuple_that_comes_twice(kind):
    item = ("image", -12)
    assert_real(kind, b"p" * 32, [1, 2, 3, 4], (item, item, (item, item)))


@kinds
def test_what_the_serialiser_cannot_write_is_refused(kind):
    extra = (lambda: None,)
    with pytest.raises(Exception) as expected:  # noqa: PT011 - whichever it is
        real(kind, extra)
    with pytest.raises(ArgumentTypeError, match="cannot be serialised") as refused:
        build(kind, b"p" * 32, [1], extra)
    assert type(refused.value.__cause__) is type(expected.value)


@kinds
def test_the_serialisers_of_this_process_are_trusted(kind):
    assert trusted(kind) is True


def older_protocol(value, protocol=None):
    return REAL_PICKLE(value, protocol=4)


def more_bytes(value, protocol=None):
    return REAL_PICKLE(value, protocol=protocol) + b"."


def other_integers(value, protocol=None):
    """A pickle that writes small numbers in five bytes."""
    return REAL_PICKLE(value, protocol=protocol).replace(b"K\xff", b"J\xff\x00\x00\x00")


@pytest.mark.parametrize("other", [older_protocol, more_bytes, other_integers])
def test_a_pickle_that_writes_something_else_is_not_trusted(monkeypatch, other):
    monkeypatch.setattr(messages.pickle, "dumps", other)
    assert trusted(PICKLE) is False


def test_a_cbor_that_writes_something_else_is_not_trusted(monkeypatch):
    shortest = cbor2.dumps

    def longer(value, **options):
        return shortest(value, **options).replace(b"\x18\xff", b"\x19\x00\xff")

    monkeypatch.setattr(cbor2, "dumps", longer)
    assert trusted(CBOR) is False


@pytest.mark.parametrize("kind", [PICKLE, CBOR])
@settings(max_examples=100, deadline=None)
@given(
    tokens=st.lists(st.sampled_from(EDGES) | st.integers(0, 70_000), min_size=1, max_size=20),
    following=st.lists(st.sampled_from(EDGES) | st.integers(0, 70_000), min_size=1, max_size=30),
    extra=st.none() | st.lists(st.text(max_size=3) | st.binary(max_size=3) | st.just(NAME), max_size=3).map(tuple),
)
def test_tokens_after_a_block_are_written_behind_its_extra_keys(kind, tokens, following, extra):
    value = (b"p" * 32, tuple(tokens), (extra, *following))
    assert build(kind, b"p" * 32, [*tokens, *following], extra, len(following)) == real(kind, value)
