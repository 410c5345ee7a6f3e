"""Hashes of the blocks of a list of tokens, made by the extension in C, beside those made one by one."""

import hashlib
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvgpu.hashing import functions as hashing
from kvgpu.hashing.one_chain import PIECE, prepare_chain
from kvgpu.native import hash_blocks

pytestmark = pytest.mark.skipif(hash_blocks is None, reason="kvgpu was built without the extension in C")

PARENT = bytes(range(32))
FUNCTIONS = {"sha256": hashing.sha256, "sha256_cbor": hashing.sha256_cbor}


def chain(name="sha256", block_size=4, lookahead=0):
    return prepare_chain(FUNCTIONS[name], block_size, lookahead)


def one_by_one(name, tokens, first, count, size, parent, lookahead=0):
    made = []
    for block in range(count):
        begin = first + block * size
        end = begin + size
        parent = hashing.hash_block_tokens(
            FUNCTIONS[name], parent, tokens[begin:end], None, tokens[end : end + lookahead]
        )
        made.append(parent)
    return made


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(sorted(FUNCTIONS)),
    st.integers(1, 40),
    st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(-1, 70_000), max_size=120),
    st.integers(0, 5),
    st.binary(min_size=32, max_size=32),
    st.integers(0, 5),
)
def test_hashes_are_those_of_each_block(name, size, tokens, first, parent, lookahead):
    count = max(0, len(tokens) - lookahead - first) // size
    made = hash_blocks(chain(name, size, lookahead), tokens, first, count, parent)
    if first > len(tokens):
        assert made is NotImplemented
    else:
        assert made == one_by_one(name, tokens, first, count, size, parent, lookahead)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("count", [PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 5])
@pytest.mark.parametrize("lookahead", [0, 1, 9])
def test_a_long_prompt_is_hashed_in_pieces(name, count, lookahead):
    tokens = np.random.default_rng(count).integers(0, 50_000, 4 * count + lookahead).tolist()
    made = hash_blocks(chain(name, 4, lookahead), tokens, 0, count, PARENT)
    assert made == one_by_one(name, tokens, 0, count, 4, PARENT, lookahead)


def test_a_block_without_the_tokens_after_it_is_left_to_python():
    tokens = [*range(9)]
    assert len(hash_blocks(chain(lookahead=1), tokens, 0, 2, PARENT)) == 2
    assert hash_blocks(chain(lookahead=2), tokens, 0, 2, PARENT) is NotImplemented


def test_memory_of_a_hasher_is_used_again():
    prepared, tokens = chain(), list(range(40))
    first = hash_blocks(prepared, tokens, 0, 10, PARENT)
    assert hash_blocks(prepared, tokens[::-1], 0, 10, PARENT) != first
    assert hash_blocks(prepared, tokens, 0, 10, PARENT) == first
    assert first[0] == hashlib.sha256(pickle.dumps((PARENT, (0, 1, 2, 3), None), protocol=5)).digest()


@pytest.mark.parametrize("odd", [True, 1.0, np.int64(1), 2**63, -(2**63) - 1, None, "1"], ids=repr)
def test_tokens_that_are_no_plain_integers_are_left_to_python(odd):
    assert hash_blocks(chain(), [0, 1, 2, odd], 0, 1, PARENT) is NotImplemented


@pytest.mark.parametrize(
    ("tokens", "first", "count", "parent"),
    [
        ((0, 1, 2, 3), 0, 1, PARENT),
        ([0, 1, 2], 0, 1, PARENT),
        ([0, 1, 2, 3], 1, 1, PARENT),
        ([0, 1, 2, 3], 2**63 - 1, 1, PARENT),
        ([0, 1, 2, 3], 0, 2**62, PARENT),
        ([0, 1, 2, 3], 0, 1, PARENT[:16]),
        ([0, 1, 2, 3], 0, 1, bytearray(PARENT)),
    ],
    ids=["a tuple", "too few", "too late", "far too late", "far too many", "a short parent", "no bytes"],
)
def test_what_is_not_usual_is_left_to_python(tokens, first, count, parent):
    assert hash_blocks(chain(), tokens, first, count, parent) is NotImplemented


@pytest.mark.parametrize("first", [-1, 2**63, "0", None], ids=repr)
def test_places_are_counts(first):
    with pytest.raises(TypeError):
        hash_blocks(chain(), [0, 1, 2, 3], first, 1, PARENT)


def test_an_extension_built_from_other_sources_is_not_used(monkeypatch):
    from kvgpu.native import _calls

    monkeypatch.setattr(_calls, "CHAIN_LAYOUT", (0, 1, 2, 3, 4, 32))
    assert chain() is None


def test_other_functions_are_not_prepared():
    assert prepare_chain(hashing.xxhash, 4) is prepare_chain(hashing.kvgpu128, 4) is None


def test_messages_that_are_too_long_are_not_prepared():
    assert chain(block_size=6_000) is None


def test_without_memory_there_are_no_hashes():
    """Each allocation of CPython fails in turn."""
    memory = pytest.importorskip("_testcapi")
    prepared, tokens, failures = chain(), list(range(40)), 0
    expected = hash_blocks(prepared, tokens, 0, 10, PARENT)
    for nth in range(20):
        memory.set_nomemory(nth, nth + 1)
        try:
            made = hash_blocks(prepared, tokens, 0, 10, PARENT)
        except MemoryError:
            made = None
        finally:
            memory.remove_mem_hooks()
        failures += made is None
        assert made in (None, expected)
    assert failures > 0
