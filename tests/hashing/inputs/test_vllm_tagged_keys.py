"""Extra keys with the tags of vLLM, what events show of them, and where a search for items begins (B2 to B4)."""

import hashlib
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.definitions.request_hashes import items_of, lora, restated_keys
from support.hashed_requests import item

from kvgpu.hashing import functions as hashing
from kvgpu.hashing.inputs.extra_keys import generate_block_hash_extra_keys
from kvgpu.hashing.inputs.mm_items import first_item_from, item_seen_again
from kvgpu.hashing.inputs.tagged_keys import generate_vllm_tagged_keys, to_event_extra_keys
from kvgpu.hashing.request_hasher import get_request_block_hasher
from kvgpu.request import Request

hashing.init_none_hash(hashing.sha256)
EMBEDS = np.arange(64 * 4, dtype=np.float32).reshape(64, 4)


def tagged(start=0, end=4, cursor=0, **attributes):
    return generate_vllm_tagged_keys(SimpleNamespace(**attributes), start, end, cursor)[0]


def test_every_kind_has_its_tag_and_its_place():
    found = tagged(
        lora_request=lora(), mm_features=items_of(("img", 1, 2)), cache_salt="s", prompt_embeds=EMBEDS, end=16
    )
    digest = hashlib.sha256(EMBEDS[:16].tobytes()).digest()
    assert found == (("lora", "ad", "/p"), ("mm", "img", 1), ("cache_salt", "s"), ("prompt_embeds", digest))


def test_an_item_that_began_before_has_a_negative_offset():
    assert tagged(4, 8, mm_features=items_of(("img", 1, 9))) == (("mm", "img", -3),)


def test_the_salt_is_a_key_of_the_first_block_only():
    assert (tagged(cache_salt="s"), tagged(4, 8, cache_salt="s")) == ((("cache_salt", "s"),), None)


def test_an_adapter_without_a_path_has_none():
    assert tagged(lora_request=SimpleNamespace(lora_name="ad")) == (("lora", "ad", None),)


@pytest.mark.parametrize("attributes", [{}, {"cache_salt": ""}, {"mm_features": []}, {"lora_request": None}])
def test_a_block_without_keys_has_none(attributes):
    assert tagged(**attributes) is None


def test_a_block_is_hashed_with_its_tagged_keys():
    hasher = get_request_block_hasher(4, hashing.sha256, behaviour="0.33")
    request = Request("r", [1, 2, 3, 4], block_hasher=hasher, lora_request=lora(), cache_salt="s")
    keys = (("lora", "ad", "/p"), ("cache_salt", "s"))
    assert request.block_hashes[:] == [hashing.sha256((hashing.NONE_HASH, (1, 2, 3, 4), keys))]


@pytest.mark.parametrize("blocks", [2, 60])
@pytest.mark.parametrize("name", ["sha256", "sha256_cbor", "xxhash", "xxhash_cbor"])
@pytest.mark.parametrize("one", ["path", "salt"])
def test_what_differs_does_not_share(name, one, blocks):
    """An adapter at another path; a salt that equals the name of an adapter."""
    pairs = {
        "path": ({"lora_request": lora()}, {"lora_request": lora(path="/q")}),
        "salt": ({"lora_request": lora(path="ad")}, {"cache_salt": "ad"}),
    }
    hasher = get_request_block_hasher(4, hashing.get_hash_fn_by_name(name), behaviour="0.33")
    made = [Request("r", [*range(4 * blocks)], block_hasher=hasher, **part) for part in pairs[one]]
    assert not set(made[0].block_hashes[:]) & set(made[1].block_hashes[:])


# Events


def test_events_show_keys_without_tags():
    keys = (("lora", "ad", "/p"), ("mm", "img", 1), ("cache_salt", "s"), ("prompt_embeds", b"x"))
    assert to_event_extra_keys([keys, None]) == [("ad", ("img", 1), "s", b"x"), None]


@pytest.mark.parametrize("nothing", [None, [], ()])
def test_events_without_blocks_show_none(nothing):
    assert to_event_extra_keys(nothing) is None


def test_events_show_the_keys_of_0_23():
    request = SimpleNamespace(
        lora_request=lora(), mm_features=items_of(("a", 1, 9)), cache_salt="s", prompt_embeds=EMBEDS
    )
    spans = [(0, 4), (4, 8), (8, 12)]
    plain, with_tags = (
        [make(request, *span, 0)[0] for span in spans]
        for make in (generate_block_hash_extra_keys, generate_vllm_tagged_keys)
    )
    assert to_event_extra_keys(with_tags) == plain


# Where the search begins


@pytest.mark.parametrize(
    ("start", "first"), [(0, 0), (4, 0), (5, 1), (8, 1), (9, 2), (13, 2), (14, 0), (99, 0)], ids=str
)
def test_a_search_begins_with_the_first_item_that_ends_after_the_start(start, first):
    request = SimpleNamespace(mm_features=items_of(("a", 1, 4), ("b", 6, 3), ("c", 9, 5)))
    assert first_item_from(request, start) == first


@pytest.mark.parametrize("features", [None, []])
def test_without_items_a_search_begins_nowhere(features):
    request = SimpleNamespace(mm_features=features)
    assert first_item_from(request, 8) == item_seen_again(request, 8, 0) == 0


@pytest.mark.parametrize(("end", "cursor"), [(4, 0), (5, 1), (9, 2), (13, 2), (14, 3)])
def test_a_cursor_goes_back_to_the_first_item_that_ends_after_the_block(end, cursor):
    request = SimpleNamespace(mm_features=items_of(("a", 1, 4), ("b", 6, 3), ("c", 9, 5)))
    assert item_seen_again(request, end, 3) == cursor


@pytest.mark.parametrize(
    ("behaviour", "expected"),
    [
        ("0.33", [None, (("mm", "first", 0), ("mm", "last", 2)), (("mm", "last", -2),)]),
        ("0.23", [None, (("last", 2),), (("last", -2),)]),
    ],
)
def test_several_items_in_a_tail_are_all_found_by_position_and_only_the_last_one_in_0_23(behaviour, expected):
    both = [item("first", 4, 1), item("last", 6, 4)]
    hasher = get_request_block_hasher(4, hashing.sha256, behaviour=behaviour)
    request = Request("r", [0] * 4, block_hasher=hasher, mm_features=both)
    request.append_output_token_ids([0] * 8)
    parent, hashes = hashing.NONE_HASH, []
    for keys in expected:
        parent = hashing.sha256((parent, (0,) * 4, keys))
        hashes.append(parent)
    assert request.block_hashes[:] == hashes


@st.composite
def layouts(draw):
    items, place = [], 0
    for number, (gap, length) in enumerate(
        draw(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 20)), max_size=6))
    ):
        items.append((f"item{number % 3}", place + gap, length))
        place += gap + length
    return items_of(*items)


@settings(max_examples=150, deadline=None)
@given(items=layouts(), first=st.integers(0, 30), lookahead=st.integers(0, 9), size=st.integers(1, 8))
def test_from_any_block_on_a_search_finds_every_item_of_each(items, first, lookahead, size):
    request = SimpleNamespace(mm_features=items)
    cursor = first_item_from(request, first * size)
    for block in range(first, first + 20):
        start, end = block * size, (block + 1) * size
        keys, cursor = generate_vllm_tagged_keys(request, start, end + lookahead, cursor)
        cursor = item_seen_again(request, end, cursor) if lookahead else cursor
        assert keys == restated_keys({"mm_features": items}, "0.33", start, end + lookahead)
