"""A request: its tokens, its block hashes as tokens come, its rank in a queue."""

import hashlib
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import hash_chains
from support.hashed_requests import salted
from support.managers import make_request, no_sampling

from kvgpu.errors import ArgumentError
from kvgpu.hashing import functions as hashing
from kvgpu.hashing.request_hasher import get_request_block_hasher
from kvgpu.request import Request

SIZE = 4


def chain(tokens, extras=(), function=hashing.sha256):
    """`hash_chains.chain` of blocks of SIZE tokens."""
    return hash_chains.chain(function, tokens, SIZE, extras)


def item(identifier, offset, length):
    position = SimpleNamespace(offset=offset, length=length)
    return SimpleNamespace(identifier=identifier, mm_position=position)


@pytest.mark.parametrize("num_tokens", [0, 1, 3, 4, 5, 8, 11])
def test_a_request_has_one_hash_per_full_block(num_tokens):
    tokens = list(range(num_tokens))
    assert make_request("r", tokens, SIZE).block_hashes == chain(tokens)


@settings(max_examples=50, deadline=None)
@given(
    prompt=st.lists(st.integers(0, 2**31 - 1), max_size=15),
    outputs=st.lists(st.lists(st.integers(0, 2**31 - 1), max_size=9), max_size=6),
    name=st.sampled_from(sorted(hashing.HASH_FUNCTIONS)),
    salt=st.sampled_from([None, "salt"]),
)
def test_hashing_as_tokens_come_equals_hashing_at_once(prompt, outputs, name, salt):
    function = hashing.HASH_FUNCTIONS[name]
    request = make_request("r", prompt, SIZE, function, cache_salt=salt)
    for tokens in outputs:
        request.append_output_token_ids(tokens)
    everything = prompt + [token for tokens in outputs for token in tokens]
    assert request.block_hashes == chain(everything, [salt and (salted(name, salt),)], function)


def test_one_token_at_a_time_fills_blocks_like_many():
    request = make_request("r", [0, 1], SIZE)
    for token in range(2, 13):
        request.append_output_token_ids(token)
    assert request.block_hashes == chain(list(range(13)))


def test_an_extension_looks_at_the_last_item_only():
    both = [item("first", 4, 1), item("last", 5, 1)]
    whole = make_request("whole", list(range(8)), SIZE, mm_features=both)
    grown = make_request("grown", list(range(7)), SIZE, mm_features=both)
    grown.append_output_token_ids(7)
    assert whole.block_hashes == chain(list(range(8)), [None, (("first", 0), ("last", 1))])
    assert grown.block_hashes == chain(list(range(8)), [None, (("last", 1),)])


def test_a_prompt_shorter_than_a_block_still_has_all_items_when_it_fills():
    both = [item("first", 0, 1), item("last", 1, 1)]
    grown = make_request("grown", [0, 1, 2], SIZE, mm_features=both)
    grown.append_output_token_ids(3)
    assert grown.block_hashes == chain([0, 1, 2, 3], [(("first", 0), ("last", 1))])


@pytest.mark.parametrize(
    ("attributes", "extra"),
    [
        ({"lora_request": SimpleNamespace(lora_name="l", adapter_id=1)}, [("l",), ("l",)]),
        ({"cache_salt": "s"}, [("s",), None]),
        ({"mm_features": [item("m", 3, 2)]}, [(("m", 3),), (("m", -1),)]),
    ],
)
def test_extra_keys_enter_the_hashes(attributes, extra):
    request = make_request("r", 8, SIZE, **attributes)
    assert request.block_hashes == chain(list(range(8)), extra)


def test_a_prompt_of_embeddings_counts_as_tokens_of_id_0():
    embeds = np.arange(12, dtype=np.float32).reshape(6, 2)
    hasher = get_request_block_hasher(SIZE, hashing.sha256)
    request = Request("r", None, prompt_embeds=embeds, block_hasher=hasher)
    extra = hashlib.sha256(embeds[:4].tobytes()).digest()
    assert request.all_token_ids == [0] * 6
    assert request.block_hashes == chain([0] * 6, [(extra,)])


def test_a_request_without_hasher_has_no_hashes():
    request = Request("r", list(range(20)))
    request.append_output_token_ids([1] * 20)
    assert len(request.block_hashes) == 0


def test_hashes_of_an_unusual_width_are_kept_in_a_list():
    def sha1(value):
        return hashlib.sha1(repr(value).encode()).digest()

    request = make_request("r", 6, SIZE, sha1)
    request.append_output_token_ids([6, 7])
    assert request.block_hashes == chain(list(range(8)), function=sha1)
    assert type(request.block_hashes) is list


def test_a_request_needs_tokens_or_embeddings():
    with pytest.raises(ArgumentError):
        Request("r", None)


def test_the_prompt_that_was_given_is_not_changed_by_outputs():
    prompt = [1, 2, 3]
    Request("r", prompt).append_output_token_ids(4)
    assert prompt == [1, 2, 3]


def test_tokens_are_counted_by_where_they_come_from():
    request = Request("r", [1, 2, 3])
    request.append_output_token_ids([4, 5])
    request.spec_token_ids = [6]
    counts = (request.num_prompt_tokens, request.num_output_tokens, request.num_tokens)
    assert (*counts, request.num_tokens_with_spec) == (3, 2, 5, 6)
    assert request.output_token_ids == [4, 5]


@pytest.mark.parametrize("kind", ["sampling_params", "pooling_params"])
@pytest.mark.parametrize(
    ("params", "skips"),
    [
        ({}, False),
        ({"prompt_logprobs": None}, False),
        ({"prompt_logprobs": 0}, True),
        ({"prompt_logprobs": 5}, True),
        ({"skip_reading_prefix_cache": True}, True),
        ({"skip_reading_prefix_cache": False}, False),
        ({"skip_reading_prefix_cache": False, "prompt_logprobs": 5}, False),
        ({"skip_reading_prefix_cache": None, "prompt_logprobs": 5}, True),
    ],
)
def test_prompt_logprobs_skip_reading_unless_said_otherwise(kind, params, skips):
    request = Request("r", [1], **{kind: no_sampling(**params)})
    assert request.skip_reading_prefix_cache is skips
    assert request.get_skip_reading_prefix_cache() is skips


def test_a_request_without_parameters_reads_the_cache():
    assert Request("r", [1]).skip_reading_prefix_cache is False


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"priority": 0, "arrival_time": 9.0}, {"priority": 1, "arrival_time": 1.0}),
        ({"arrival_time": 1.0, "name": "b"}, {"arrival_time": 2.0, "name": "a"}),
        ({"name": "a"}, {"name": "b"}),
    ],
)
def test_requests_are_ordered_by_priority_then_arrival_then_name(first, second):
    def make(name="r", arrival_time=0.0, priority=0):
        return Request(name, [1], arrival_time=arrival_time, priority=priority)

    assert make(**first) < make(**second)
    assert not make(**second) < make(**first)
