"""Hashes of vLLM's requests: the same lists of bytes, however they come about."""

import logging

import pytest
from in_vllm.oracle import require_vllm

require_vllm("0.23", "0.33")

from in_vllm import engines
from vllm.lora.request import LoRARequest
from vllm.multimodal.inputs import MultiModalFeatureSpec, PlaceholderRange
from vllm.utils import hashing

from kvgpu.vllm import hasher as hasher_module
from kvgpu.vllm.hasher import FEW_BLOCKS, get_request_block_hasher

FUNCTIONS = ("sha256", "sha256_cbor", "xxhash", "xxhash_cbor")
LENGTHS = [0, 3, 4, 7, 4 * FEW_BLOCKS, 4 * FEW_BLOCKS + 4, 403]

pytestmark = pytest.mark.filterwarnings("ignore")


def image(offset, length):
    return MultiModalFeatureSpec(
        data=None, modality="image", identifier="picture", mm_position=PlaceholderRange(offset, length)
    )


ATTRIBUTES = {
    "plain": {},
    "salt": {"cache_salt": "pepper"},
    "half a pair": {"cache_salt": "\ud800"},
    "adapter": {"lora_request": LoRARequest("lora", 7, "/x")},
    "image": {"mm_features": [image(2, 9)]},
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("attributes", ATTRIBUTES)
def test_hashes_are_those_of_vllm(name, attributes):
    function = getattr(hashing, name)
    theirs, ours = engines.hasher_of_vllm(function, 4), get_request_block_hasher(4, function)
    for length in LENGTHS:
        made = []
        for hasher in (theirs, ours):
            try:
                request = engines.make_request("a", list(range(length)), hasher, **ATTRIBUTES[attributes])
                for token in range(9):
                    request.append_output_token_ids(token)
                made.append(request.block_hashes)
            except Exception as error:
                made.append(repr(error))
        assert made[0] == made[1]
        assert type(made[1]) is type(made[0])
        if type(made[1]) is list:
            assert set(map(type, made[1])) <= {bytes}


def test_the_root_may_be_chosen_after_the_hasher():
    ours = get_request_block_hasher(4, hashing.sha256)
    theirs = engines.hasher_of_vllm(hashing.sha256, 4)
    tokens = list(range(400))
    assert (
        engines.make_request("a", tokens, ours).block_hashes == engines.make_request("a", tokens, theirs).block_hashes
    )


def test_a_function_that_kvgpu_does_not_know_is_left_to_vllm(caplog):
    def own(value):
        return hashing.sha256(value)

    with caplog.at_level(logging.WARNING, "kvgpu"):
        ours = get_request_block_hasher(4, own)
    assert "vLLM hashes blocks" in caplog.text
    theirs = engines.hasher_of_vllm(own, 4)
    tokens = list(range(400))
    assert (
        engines.make_request("a", tokens, ours).block_hashes == engines.make_request("a", tokens, theirs).block_hashes
    )


def test_check_returns_hashes_of_vllm_and_tells_the_first_difference(monkeypatch, caplog):
    monkeypatch.setenv("KVGPU_VLLM", "check")
    monkeypatch.setattr(hasher_module.RequestBlockHasher, "__call__", lambda self, request: [b"wrong"])
    monkeypatch.setattr(hasher_module, "hash_blocks", lambda *given: [b"wrong"])
    theirs, ours = engines.hasher_of_vllm(hashing.sha256, 4), get_request_block_hasher(4, hashing.sha256)
    tokens = list(range(400))
    with caplog.at_level(logging.ERROR, "kvgpu"):
        for _ in range(2):
            request = engines.make_request("a", tokens, ours)
            assert request.block_hashes == engines.make_request("a", tokens, theirs).block_hashes
    assert len(caplog.messages) == 1
