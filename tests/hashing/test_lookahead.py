"""Hashes that also cover the tokens after their block (fact B6)."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.definitions.request_hashes import items_of, lora, restated
from support.hashed_requests import (
    FUNCTIONS,
    KEYED,
    SERIALISED,
    SOURCES,
    WIDE_EDGES,
    by_function,
    drawn_tokens,
    unhashed,
)

from kvgpu.errors import ArgumentError, ArgumentTypeError, ConfigError
from kvgpu.hashing import functions as hashing
from kvgpu.hashing.request_hasher import get_request_block_hasher
from kvgpu.request import Request

hashing.init_none_hash(hashing.sha256)
MANY = 40
by_lookahead = pytest.mark.parametrize("lookahead", [0, 1, 2, 3])


def kind_of(name, behaviour="0.33"):
    return "own" if name in KEYED else behaviour


def hasher_of(name, size, lookahead, behaviour="0.33", **options):
    return get_request_block_hasher(size, FUNCTIONS[name], lookahead, behaviour=behaviour, **options)


def attributes_of(size, blocks):
    """Attributes of requests, by what they have besides tokens."""
    tokens = size * blocks
    items = items_of(
        ("first", 0, 1), ("long", 1, tokens // 2), ("twice", tokens // 2 + 1, 1), ("twice", tokens // 2 + 2, size + 1)
    )
    kinds = {
        "nothing": {},
        "salt": {"cache_salt": "salt"},
        "adapter": {"lora_request": lora()},
        "items": {"mm_features": items},
        "embeddings": {"prompt_embeds": np.arange(2 * (tokens + 9), dtype=np.float32).reshape(-1, 2)},
    }
    return kinds | {"everything": {name: value for kind in kinds.values() for name, value in kind.items()}}


# What is hashed, by hand


def test_a_block_is_hashed_with_the_tokens_after_it():
    request = Request("r", [1, 2, 3, 4, 5], block_hasher=hasher_of("sha256", 2, 1))
    first = hashing.sha256((hashing.NONE_HASH, (1, 2), (None, 3)))
    assert request.block_hashes[:] == [first, hashing.sha256((first, (3, 4), (None, 5)))]


@pytest.mark.parametrize(("lookahead", "count"), [(0, 4), (1, 3), (2, 3), (3, 2), (6, 1), (7, 0), (99, 0)])
@by_function
def test_a_block_has_no_hash_before_the_tokens_after_it_are_there(name, lookahead, count):
    request = Request("r", [*range(8)], block_hasher=hasher_of(name, 2, lookahead))
    assert len(request.block_hashes) == count


@by_function
def test_a_generated_token_completes_a_block(name):
    request = Request("r", [*range(4)], block_hasher=hasher_of(name, 2, 1))
    assert len(request.block_hashes) == 1
    request.append_output_token_ids(4)
    assert len(request.block_hashes) == 2


def test_an_item_that_begins_with_the_token_after_a_block_is_a_key_of_both():
    request = Request("r", [0, 1, 2, 3, 4], block_hasher=hasher_of("sha256", 2, 1), mm_features=items_of(("img", 2, 2)))
    first = hashing.sha256((hashing.NONE_HASH, (0, 1), ((("mm", "img", 2),), 2)))
    assert request.block_hashes[:] == [first, hashing.sha256((first, (2, 3), ((("mm", "img", 0),), 4)))]


@pytest.mark.parametrize("following", [[], [7], (7, 8), np.array([7, 8])], ids=repr)
def test_one_block_is_hashed_with_any_tokens_after_it(following):
    seen = []
    hashing.hash_block_tokens(seen.append, b"p" * 32, [1, 2], (("k",),), following)
    numbers = tuple(following)
    assert seen == [(b"p" * 32, (1, 2), ((("k",),), *numbers) if numbers else (("k",),))]


def test_tokens_after_a_block_are_a_sequence():
    with pytest.raises(ArgumentTypeError, match="token ids"):
        hashing.hash_block_tokens(hashing.sha256, b"p" * 32, [1, 2], None, 7)


# Beside the plain statement


@pytest.mark.parametrize("source", SOURCES)
@by_lookahead
@pytest.mark.parametrize("size", [1, 3, 16])
@by_function
def test_hashing_in_bulk_equals_the_plain_statement(name, size, lookahead, source):
    for blocks in (2, MANY):
        tokens = drawn_tokens(size * blocks + lookahead + size // 2)
        request = Request("r", SOURCES[source](tokens), block_hasher=hasher_of(name, size, lookahead))
        assert request.block_hashes == restated(FUNCTIONS[name], tokens, size, lookahead)


@by_lookahead
@pytest.mark.parametrize("source", ["list", "int64"])
@pytest.mark.parametrize("name", SERIALISED)
def test_tokens_of_64_bits_are_hashed_alike(name, source, lookahead):
    tokens = drawn_tokens(3 * MANY, edges=WIDE_EDGES * 10)
    request = Request("r", SOURCES[source](tokens), block_hasher=hasher_of(name, 3, lookahead))
    assert request.block_hashes == restated(FUNCTIONS[name], tokens, 3, lookahead)


@pytest.mark.parametrize("size", [5500, 7000])
@pytest.mark.parametrize("name", SERIALISED)
def test_blocks_too_long_for_one_frame_are_hashed_alike(name, size):
    tokens = drawn_tokens(20 * size + 3, edges=WIDE_EDGES * 700)
    request = Request("r", tokens, block_hasher=hasher_of(name, size, 3))
    assert request.block_hashes == restated(FUNCTIONS[name], tokens, size, 3)


@pytest.mark.parametrize("blocks", [3, MANY], ids=["few", "many"])
@pytest.mark.parametrize("kind", attributes_of(1, 1))
@pytest.mark.parametrize("behaviour", ["0.23", "0.33"])
@by_function
def test_extra_keys_are_those_of_the_block_and_the_tokens_after_it(name, behaviour, kind, blocks):
    size, attributes = 4, attributes_of(4, blocks)[kind]
    for lookahead in range(4):
        tokens = drawn_tokens(size * blocks + lookahead)
        request = Request("r", tokens, block_hasher=hasher_of(name, size, lookahead, behaviour), **attributes)
        expected = restated(FUNCTIONS[name], tokens, size, lookahead, attributes, kind_of(name, behaviour))
        assert request.block_hashes == expected


@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize("kind", attributes_of(1, 1))
@by_function
def test_growing_token_by_token_equals_hashing_at_once(name, kind, size):
    attributes = attributes_of(size, 12)[kind]
    for lookahead in range(4):
        tokens = drawn_tokens(size * 12 + lookahead)
        request = Request("r", tokens[: size + 1], block_hasher=hasher_of(name, size, lookahead), **attributes)
        for token in tokens[size + 1 :]:
            request.append_output_token_ids(token)
        assert request.block_hashes == restated(FUNCTIONS[name], tokens, size, lookahead, attributes, kind_of(name))


@st.composite
def drawn_requests(draw):
    """Attributes, tokens, and at which lengths a request is hashed."""
    items, place = [], draw(st.integers(0, 20))
    for gap, length in draw(st.lists(st.tuples(st.integers(0, 12), st.integers(1, 30)), max_size=5)):
        items.append((f"item{len(items) % 2}", place + gap, length))
        place += gap + length
    attributes = {"mm_features": items_of(*items)}
    if draw(st.booleans()):
        attributes["cache_salt"] = "salt"
    if draw(st.booleans()):
        attributes["lora_request"] = lora(path=draw(st.sampled_from(["/p", "ad"])))
    tokens = drawn_tokens(draw(st.integers(0, 150)), draw(st.integers(0, 5)))
    cuts = draw(st.lists(st.integers(0, len(tokens)), max_size=4).map(sorted))
    return attributes, tokens, [*cuts, len(tokens)]


@by_function
@settings(max_examples=40, deadline=None)
@given(drawn=st.lists(drawn_requests(), min_size=1, max_size=4), size=st.integers(1, 20), lookahead=st.integers(0, 3))
def test_many_requests_that_grow_are_each_hashed_as_stated(name, drawn, size, lookahead):
    hasher = hasher_of(name, size, lookahead)
    requests = [unhashed(str(place), tokens[: cuts[0]], **kinds) for place, (kinds, tokens, cuts) in enumerate(drawn)]
    for step in range(6):
        for request, (_, tokens, cuts) in zip(requests, drawn, strict=True):
            request.append_unhashed(tokens[request.num_tokens : cuts[min(step, len(cuts) - 1)]])
        hasher.update(requests)
    expected = [restated(FUNCTIONS[name], tokens, size, lookahead, kinds, kind_of(name)) for kinds, tokens, _ in drawn]
    assert [request.block_hashes[:] for request in requests] == expected


@by_lookahead
@by_function
def test_chains_without_extra_keys_are_hashed_from_their_tokens(name, lookahead):
    size, counts = 3, [MANY, 0, 2]
    tokens = np.array(drawn_tokens(3 * (size * MANY + lookahead)), np.int32).reshape(3, -1)
    for few in (False, True):
        counts = [1, 0, 2] if few else counts
        parents = [None, None, bytes(range(len(FUNCTIONS[name]((b"", (1,), None)))))]
        made = hasher_of(name, size, lookahead).chained(tokens, counts, parents)
        expected = [
            each
            for line, count, parent in zip(tokens.tolist(), counts, parents, strict=True)
            for each in restated(FUNCTIONS[name], line[: count * size + lookahead], size, lookahead, parent=parent)[
                :count
            ]
        ]
        assert made[:] == expected


def test_chains_need_the_tokens_after_their_last_block():
    hasher = hasher_of("sha256", 4, 1)
    with pytest.raises(ArgumentError, match="1 after each"):
        hasher.chained(np.zeros((1, 40), np.int32), [10], [None])
    assert len(hasher.chained(np.zeros((1, 41), np.int32), [10], [None])) == 10


@by_function
def test_several_threads_give_the_hashes_of_one(name):
    lines = [np.array(drawn_tokens(4001, seed), np.int32) for seed in range(4)]
    made = []
    for threads in (1, 3):
        requests = [unhashed("r", line) for line in lines]
        hasher_of(name, 1, 1, threads=threads).update(requests)
        made.append([request.block_hashes[:] for request in requests])
    assert made[0] == made[1]


@by_lookahead
@by_function
def test_a_hasher_is_idle_until_the_tokens_after_a_block_are_there(name, lookahead):
    hasher = hasher_of(name, 4, lookahead)
    for length in range(14):
        request = unhashed("r", [*range(length)])
        assert hasher.is_idle(request) is (length < 4 + lookahead)


# Refused


@pytest.mark.parametrize("given_number", [-1, 2**31, 2**80])
def test_look_ahead_is_neither_negative_nor_absurd(given_number):
    with pytest.raises(ConfigError):
        get_request_block_hasher(16, hashing.sha256, given_number)


@pytest.mark.parametrize("given_number", [None, 1.0, "1", True])
def test_look_ahead_is_an_integer(given_number):
    with pytest.raises(ArgumentTypeError, match="look-ahead"):
        get_request_block_hasher(16, hashing.sha256, given_number)


@pytest.mark.parametrize("name", ["behaviour", "num_hash_lookahead_tokens"])
def test_what_a_hasher_hashes_by_can_be_read_and_not_set(name):
    hasher = hasher_of("sha256", 4, 2)
    assert (hasher.behaviour.version, hasher.num_hash_lookahead_tokens) == ("0.33", 2)
    with pytest.raises(AttributeError):
        setattr(hasher, name, 1)


@by_function
def test_tokens_that_another_thread_removes_are_missed(name):
    class Cut(list):
        def __getitem__(self, place):
            return [1] * 79

    request = SimpleNamespace(request_id="r", all_token_ids=Cut([1] * 81), num_tokens=81, block_hashes=[])
    with pytest.raises(ArgumentError, match="token ids were removed"):
        hasher_of(name, 4, 1).update([request])
    assert request.block_hashes == []


@pytest.mark.parametrize("name", KEYED)
def test_a_token_for_look_ahead_that_kvgpu128_does_not_take_is_refused_as_it_comes(name):
    request = Request("r", [*range(4)], block_hasher=hasher_of(name, 4, 1))
    with pytest.raises(ArgumentError, match=r"request r: kvgpu128 hashes token ids"):
        request.append_output_token_ids(2**40)
    assert (request.num_tokens, len(request.block_hashes)) == (4, 0)
