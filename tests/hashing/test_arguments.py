"""Hash functions and holders of hashes refuse wrong arguments with kvgpu's own errors."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
from support.hashed_requests import item

from kvgpu.errors import ArgumentError, ArgumentTypeError, ConfigError
from kvgpu.hashing import functions as hashing
from kvgpu.hashing.block_hashes import BlockHashes
from kvgpu.hashing.kvgpu128.function import Kvgpu128
from kvgpu.hashing.request_hasher import get_request_block_hasher
from kvgpu.request import Request

hashing.init_none_hash(hashing.sha256)


@pytest.mark.parametrize("given", [None, 16.0, "16", True, [16], 1j])
def test_a_block_size_and_a_number_of_threads_are_integers(given):
    with pytest.raises(ArgumentTypeError, match=r"block size .*integer"):
        get_request_block_hasher(given, hashing.sha256)
    if given is not None:
        with pytest.raises(ArgumentTypeError, match=r"thread .*integer"):
            get_request_block_hasher(16, hashing.sha256, threads=given)


@pytest.mark.parametrize("given", [0, -1, 2**31, 2**80])
def test_a_block_size_and_a_number_of_threads_are_neither_small_nor_absurd(given):
    with pytest.raises(ConfigError):
        get_request_block_hasher(given, hashing.sha256)
    with pytest.raises(ConfigError):
        get_request_block_hasher(16, hashing.sha256, threads=given)


def test_a_block_size_may_be_an_integer_of_numpy():
    hasher = get_request_block_hasher(np.int32(16), hashing.sha256, threads=np.int64(2))
    assert (type(hasher.block_size), type(hasher.threads)) == (int, int)


@pytest.mark.parametrize("given", [None, "sha256", 5])
def test_a_hash_function_can_be_called(given):
    with pytest.raises(ArgumentTypeError, match="hash function"):
        get_request_block_hasher(16, given)


@pytest.mark.parametrize(
    "given",
    [
        {"request_id": 5},
        {"request_id": None},
        {"request_id": b"r"},
        {"prompt_token_ids": 5},
        {"prompt_token_ids": "12"},
        {"prompt_token_ids": ["a"]},
        {"prompt_token_ids": [1, None]},
        {"prompt_token_ids": [1.5] * 40},
        {"prompt_token_ids": {"a": 1}},
        {"prompt_token_ids": object()},
        {"block_hasher": 5},
        {"cache_salt": 5},
        {"lora_request": 5},
        {"mm_features": 5},
        {"mm_features": [5]},
        {"mm_features": [item("a", 0.5, 2)]},
        {"prompt_embeds": 5},
        {"prompt_token_ids": None, "prompt_embeds": 5},
    ],
    ids=lambda options: re.sub(" at 0x[0-9a-f]+", "", str(options)),
)
def test_arguments_of_a_request_have_their_types(given):
    hasher = get_request_block_hasher(4, hashing.sha256)
    with pytest.raises(ArgumentTypeError):
        Request(**{"request_id": "r", "prompt_token_ids": [1, 2], "block_hasher": hasher} | given)


@pytest.mark.parametrize("given", [None, 5, [None]])
def test_what_a_function_gives_instead_of_hashes_is_refused(given):
    with pytest.raises(ArgumentTypeError, match="block_hasher must return"):
        Request("r", [1], block_hasher=lambda request: given)


@pytest.mark.parametrize("given", [1.5, None, "a", [1, "a"], np.zeros(3), object(), np.timedelta64(3, "s")])
@pytest.mark.parametrize("prompt", [[1, 2], np.array([1, 2])], ids=["list", "array"])
def test_only_integers_are_appended(prompt, given):
    request = Request("r", prompt, block_hasher=get_request_block_hasher(4, hashing.sha256))
    with pytest.raises(ArgumentTypeError):
        request.append_output_token_ids(given)
    assert request.all_token_ids == [1, 2]


@pytest.mark.parametrize("given", [np.int64(3), np.uint8(3), [np.int32(3)], np.array([3]), (3,), 3])
@pytest.mark.parametrize("prompt", [[1, 2], np.array([1, 2])], ids=["list", "array"])
def test_integers_of_any_kind_are_appended_as_plain_ones(prompt, given):
    request = Request("r", prompt)
    request.append_output_token_ids(given)
    assert (request.all_token_ids[:], type(request.all_token_ids[2])) == ([1, 2, 3], int)


@pytest.mark.parametrize("given", [5, None, ["h" * 16], [bytes(15)], [bytes(16), 5], [bytes(16), bytes(32)]])
def test_block_hashes_are_bytes_of_one_width(given):
    for use in (BlockHashes, BlockHashes([bytes(16)]).extend):
        with pytest.raises(ArgumentError):
            use(given)


@pytest.mark.parametrize(
    ("keys", "width"),
    [
        (np.zeros((3, 3), np.int64), 16),
        (np.zeros(12, np.int64), 16),
        (np.zeros((3, 4), np.int32), 16),
        (np.zeros((3, 4)), 16),
        ([[0] * 4], 16),
        (None, 16),
        (np.zeros((3, 4), np.int64), 8),
        (np.zeros((3, 4), np.int64), None),
    ],
)
def test_keys_of_block_hashes_are_key_words(keys, width):
    with pytest.raises(ArgumentError):
        BlockHashes.of_keys(keys, width)


@pytest.mark.parametrize("value", [(b"p", ("a",), None), (b"p", (1.5,), None), (b"p", (1,), object()), object()])
def test_what_kvgpu128_cannot_hash_is_refused(value):
    with pytest.raises(ArgumentTypeError):
        Kvgpu128(bytes(32))(value)


def test_a_request_of_another_engine_with_hashes_that_are_none_is_refused():
    request = SimpleNamespace(request_id="r", all_token_ids=[1] * 40, num_tokens=40, block_hashes=[7])
    with pytest.raises(ArgumentTypeError, match="block hashes are bytes"):
        get_request_block_hasher(16, hashing.sha256).update([request])


@pytest.mark.parametrize("value", ["\u00b2", "\u0664", "9" * 5000, "1_0"])
def test_the_variable_for_threads_is_written_in_plain_digits(monkeypatch, value):
    monkeypatch.setenv("KVGPU_HASH_THREADS", value)
    with pytest.raises(ConfigError, match="KVGPU_HASH_THREADS"):
        get_request_block_hasher(16, hashing.sha256)


@pytest.mark.parametrize("name", ["block_size", "tagged_extra_keys"])
def test_what_a_hasher_hashes_by_cannot_be_set(name):
    """Compiled code reads as many tokens as one says that another has counted."""
    hasher = get_request_block_hasher(16, hashing.sha256)
    with pytest.raises(AttributeError):
        setattr(hasher, name, 32)
