"""Hashes of vLLM's requests beside those of every vLLM that kvgpu's hasher knows, with look-ahead where it has any."""

import inspect
from dataclasses import replace

import pytest
from in_vllm.oracle import require_vllm

require_vllm("0.23", "0.33")

import torch
from in_vllm import engines
from vllm.lora.request import LoRARequest
from vllm.multimodal.inputs import MultiModalFeatureSpec, PlaceholderRange
from vllm.utils import hashing
from vllm.v1.core import kv_cache_utils

from kvgpu.config.behaviour import BEHAVIOUR_0_23
from kvgpu.errors import ConfigError
from kvgpu.hashing import functions as own
from kvgpu.hashing.inputs import tagged_keys
from kvgpu.hashing.request_hasher import RequestBlockHasher
from kvgpu.vllm.hasher import FEW_BLOCKS, behaviour_of_keys, get_request_block_hasher

NAMES = ("sha256", "sha256_cbor", "xxhash", "xxhash_cbor")
SIZE = 4
KNOWS_LOOKAHEAD = "num_hash_lookahead_tokens" in inspect.signature(kv_cache_utils.get_request_block_hasher).parameters
LOOKAHEADS = (0, 1, 2, 3) if KNOWS_LOOKAHEAD else (0,)
LENGTHS = [0, 3, 4, 5, 7, 8, SIZE * FEW_BLOCKS, SIZE * FEW_BLOCKS + 4, 403]

pytestmark = pytest.mark.filterwarnings("ignore")
by_name = pytest.mark.parametrize("name", NAMES)
by_lookahead = pytest.mark.parametrize("lookahead", LOOKAHEADS)


def image(offset, length, name="picture"):
    return MultiModalFeatureSpec(
        data=None, modality="image", identifier=name, mm_position=PlaceholderRange(offset=offset, length=length)
    )


ATTRIBUTES = {
    "nothing": {},
    "salt": {"cache_salt": "pepper"},
    "adapter": {"lora_request": LoRARequest("lora", 7, "/x")},
    "images": {"mm_features": [image(2, 9), image(11, 1), image(12, 2, "other"), image(230, 90)]},
    "an image at the end": {"mm_features": [image(4, 1), image(9, 1), image(400, 9)]},
    "everything": {
        "cache_salt": "pepper",
        "lora_request": LoRARequest("lora", 7, "/x"),
        "mm_features": [image(1, 3), image(7, 1), image(8, 300, "other")],
    },
}


def theirs_of(name, lookahead):
    function = getattr(hashing, name)
    kv_cache_utils.init_none_hash(function)
    return kv_cache_utils.get_request_block_hasher(SIZE, function, *([lookahead] if lookahead else []))


def grown(hasher, length, attributes):
    request = engines.make_request("a", list(range(length)), hasher, **attributes)
    for token in range(9):
        request.append_output_token_ids(token)
    return request.block_hashes


@by_lookahead
@by_name
@pytest.mark.parametrize("kind", ATTRIBUTES)
def test_hashes_of_prompts_that_grow_are_those_of_vllm(name, kind, lookahead):
    theirs = theirs_of(name, lookahead)
    ours = get_request_block_hasher(SIZE, getattr(hashing, name), lookahead)
    for length in LENGTHS:
        assert grown(ours, length, ATTRIBUTES[kind]) == grown(theirs, length, ATTRIBUTES[kind])


@by_lookahead
@by_name
@pytest.mark.parametrize("kind", ATTRIBUTES)
def test_kvgpus_own_hasher_gives_the_hashes_of_vllm(name, kind, lookahead, monkeypatch):
    theirs = theirs_of(name, lookahead)
    monkeypatch.setattr(own, "NONE_HASH", own.BlockHash(kv_cache_utils.NONE_HASH), raising=False)
    ours = RequestBlockHasher(
        SIZE, getattr(own, name), behaviour=behaviour_of_keys(), num_hash_lookahead_tokens=lookahead
    )
    for length in LENGTHS:
        assert grown(ours, length, ATTRIBUTES[kind]) == grown(theirs, length, ATTRIBUTES[kind])


@by_lookahead
def test_embeddings_are_hashed_as_vllm_does(lookahead, monkeypatch):
    theirs = theirs_of("sha256", lookahead)
    monkeypatch.setattr(own, "NONE_HASH", own.BlockHash(kv_cache_utils.NONE_HASH), raising=False)
    ours = RequestBlockHasher(SIZE, own.sha256, behaviour=behaviour_of_keys(), num_hash_lookahead_tokens=lookahead)
    embeds = torch.arange(800.0).reshape(400, 2)
    made = [engines.make_request("a", None, hasher, prompt_embeds=embeds).block_hashes for hasher in (ours, theirs)]
    assert len(made[0]) == (400 - lookahead) // SIZE
    assert made[0] == made[1]


def test_a_hasher_may_be_made_as_vllm_names_its_arguments():
    theirs = theirs_of("sha256", 0)
    ours = get_request_block_hasher(hash_block_size=SIZE, caching_hash_fn=hashing.sha256)
    assert grown(ours, 40, {}) == grown(theirs, 40, {})


@pytest.mark.skipif(KNOWS_LOOKAHEAD, reason="this vLLM knows look-ahead")
def test_look_ahead_is_refused_where_vllm_has_none():
    with pytest.raises(ConfigError, match="no hashes with look-ahead"):
        get_request_block_hasher(SIZE, hashing.sha256, 1)


@pytest.mark.skipif(not hasattr(kv_cache_utils, "to_event_extra_keys"), reason="keys of this vLLM have no tags")
def test_events_show_the_keys_that_vllm_shows():
    request = engines.make_request("a", [0] * 40, theirs_of("sha256", 0), **ATTRIBUTES["everything"])
    spans = [(start, start + SIZE) for start in range(0, 40, SIZE)]
    expected = [kv_cache_utils.generate_block_hash_extra_keys(request, *span, 0)[0] for span in spans]
    assert [tagged_keys.generate_vllm_tagged_keys(request, *span, 0)[0] for span in spans] == expected
    for keys in (expected, [None], [], None):
        assert tagged_keys.to_event_extra_keys(keys) == kv_cache_utils.to_event_extra_keys(keys)


@pytest.mark.skipif(not hasattr(kv_cache_utils, "get_none_hash_seed"), reason="this vLLM begins with a random hash")
@pytest.mark.parametrize("seed", [None, "0", "42"])
@pytest.mark.parametrize("name", ["sha256", "sha256_cbor"])
def test_the_root_is_that_of_vllm(name, seed, monkeypatch):
    monkeypatch.setattr(own, "NONE_HASH", own.BlockHash(b""), raising=False)
    if seed is None:
        monkeypatch.delenv("PYTHONHASHSEED", raising=False)
    else:
        monkeypatch.setenv("PYTHONHASHSEED", seed)
    kv_cache_utils.init_none_hash(getattr(hashing, name))
    own.init_none_hash(getattr(own, name), "0.33")
    assert own.NONE_HASH == kv_cache_utils.NONE_HASH


def test_the_behaviour_is_that_of_the_version():
    new = engines.vllm.__version__.startswith("0.33")
    assert behaviour_of_keys() == replace(BEHAVIOUR_0_23, tags_extra_keys=new, finds_items=new)
