"""Tagged extra keys: which requests share blocks with each other."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from support.hashed_requests import FUNCTIONS, KEYED, SERIALISED, item

from kvgpu.hashing import functions as hashing
from kvgpu.hashing.inputs.extra_keys import generate_block_hash_extra_keys
from kvgpu.hashing.inputs.tagged_keys import generate_tagged_extra_keys
from kvgpu.hashing.request_hasher import get_request_block_hasher
from kvgpu.request import Request

hashing.init_none_hash(hashing.sha256)
SIZE = 16


def lora(name="x", adapter_id=1):
    return SimpleNamespace(lora_name=name, adapter_id=adapter_id)


def masked(mask, offset=2, length=20):
    features = [item("image", offset, length)]
    features[0].mm_position.is_embed = mask
    return features


SOME = np.arange(20) % 3 > 0
PAIRS = {
    "a salt and an adapter of that name": ({"cache_salt": "x"}, {"lora_request": lora()}),
    "two adapters of one name": ({"lora_request": lora()}, {"lora_request": lora(adapter_id=2)}),
    "another mask": ({"mm_features": masked(SOME)}, {"mm_features": masked(~SOME)}),
    "a mask and none": ({"mm_features": masked(SOME)}, {"mm_features": masked(None)}),
}


def hashes(function, attributes, **options):
    hasher = get_request_block_hasher(SIZE, function, **options)
    return Request("r", [*range(40)], block_hasher=hasher, **attributes).block_hashes[:]


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_who_is_not_the_same_does_not_share_where_keys_are_tagged(name, pair):
    one, other = (hashes(FUNCTIONS[name], part, tagged_extra_keys=True) for part in PAIRS[pair])
    assert one[0] != other[0]


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("name", SERIALISED)
def test_functions_of_vllm_share_as_vllm_does_unless_asked(name, pair):
    one, other = (hashes(FUNCTIONS[name], part) for part in PAIRS[pair])
    assert one[0] == other[0]


@pytest.mark.parametrize("name", KEYED)
def test_keys_are_tagged_with_kvgpu128_unless_asked(name):
    attributes = {"cache_salt": "x"}
    usual, tagged, plain = (
        hashes(FUNCTIONS[name], attributes, tagged_extra_keys=choice) for choice in (None, True, False)
    )
    assert usual == tagged != plain


@pytest.mark.parametrize("mask", [None, np.ones(20, bool), [True] * 20], ids=["None", "array", "list"])
def test_a_mask_of_all_tokens_is_like_none(mask):
    request = SimpleNamespace(mm_features=masked(mask))
    assert generate_tagged_extra_keys(request, 0, 16, 0)[0] == (("mm", "image", 2, None),)


@pytest.mark.parametrize("wrap", [np.array, list, "torch"])
def test_a_mask_is_the_part_within_the_block(wrap):
    if wrap == "torch":
        wrap = pytest.importorskip("torch").tensor
    request = SimpleNamespace(mm_features=masked(wrap(SOME)))
    found = [generate_tagged_extra_keys(request, start, start + 16, 0)[0] for start in (0, 16)]
    assert found == [(("mm", "image", 2, SOME[:14].tobytes()),), (("mm", "image", -14, SOME[14:].tobytes()),)]


def test_every_kind_is_tagged_in_the_order_of_the_plain_ones():
    request = SimpleNamespace(
        lora_request=lora(), mm_features=masked(None), cache_salt="s", prompt_embeds=np.zeros((40, 2))
    )
    plain, cursor = generate_block_hash_extra_keys(request, 0, 16, 0)
    tagged, same = generate_tagged_extra_keys(request, 0, 16, 0)
    assert tagged == (("lora", plain[0], 1), ("mm", *plain[1], None), ("salt", plain[2]), ("embeds", plain[3]))
    assert cursor == same


@pytest.mark.parametrize(
    ("adapter", "known"), [({"adapter_id": 3}, 3), ({"lora_int_id": 4}, 4), ({}, None)], ids=json.dumps
)
def test_the_adapter_id_is_what_the_adapter_calls_it(adapter, known):
    request = SimpleNamespace(lora_request=SimpleNamespace(lora_name="x", **adapter))
    assert generate_tagged_extra_keys(request, 0, 16, 0)[0] == (("lora", "x", known),)


def test_a_block_without_keys_has_none():
    assert generate_tagged_extra_keys(SimpleNamespace(cache_salt="s"), 16, 32, 0) == (None, 0)
