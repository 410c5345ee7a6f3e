"""Extra keys, which tell blocks with equal tokens apart, and their order (facts 5 and 6)."""

import hashlib
import importlib.util
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvgpu.hashing.inputs.extra_keys import generate_block_hash_extra_keys, need_extra_keys

BLOCK = 16
LORA = SimpleNamespace(lora_name="adapter", adapter_id=3)
EMBEDS = np.arange(64 * 4, dtype=np.float32).reshape(64, 4)

needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")


def item(identifier, offset, length):
    position = SimpleNamespace(offset=offset, length=length)
    return SimpleNamespace(identifier=identifier, mm_position=position)


def keys_of(request, num_blocks, cursor=0, first=0):
    """Extra keys of consecutive blocks, each generated from the cursor of the one before."""
    found = []
    for block in range(first, first + num_blocks):
        start = block * BLOCK
        keys, cursor = generate_block_hash_extra_keys(request, start, start + BLOCK, cursor)
        found.append(keys)
    return found


def request(**attributes):
    return SimpleNamespace(**attributes)


TWO_ITEMS = [item("aaa", 11, 10), item("bbb", 30, 18)]


def test_items_are_keyed_by_their_offset_within_each_block():
    assert keys_of(request(mm_features=TWO_ITEMS), 4) == [
        (("aaa", 11),),
        (("aaa", -5), ("bbb", 14)),
        (("bbb", -2),),
        None,
    ]


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        pytest.param([("a", 0, 16)], [(("a", 0),), None], id="a whole block"),
        pytest.param([("a", 15, 2)], [(("a", 15),), (("a", -1),)], id="across a boundary"),
        pytest.param([("a", 16, 1)], [None, (("a", 0),)], id="at the start of a block"),
        pytest.param([("a", 0, 1), ("b", 1, 1)], [(("a", 0), ("b", 1)), None], id="two in one"),
        pytest.param([("a", 2, 3), ("a", 20, 3)], [(("a", 2),), (("a", 4),)], id="twice the same"),
        pytest.param([("a", 0, 32)], [(("a", 0),), (("a", -16),)], id="several blocks"),
        pytest.param([("a", 32, 4)], [None, None], id="later than both"),
    ],
)
def test_every_item_that_overlaps_a_block_is_a_key(items, expected):
    assert keys_of(request(mm_features=[item(*i) for i in items]), 2) == expected


@st.composite
def layouts(draw):
    items, place = [], 0
    sizes = st.tuples(st.integers(0, 20), st.integers(1, 40))
    for number, (gap, length) in enumerate(draw(st.lists(sizes, max_size=6))):
        items.append(item(f"item{number % 3}", place + gap, length))
        place += gap + length
    return items


@settings(max_examples=100, deadline=None)
@given(items=layouts())
def test_the_cursor_skips_no_item_and_repeats_none(items):
    def overlapping(start):
        return [
            (i.identifier, i.mm_position.offset - start)
            for i in items
            if i.mm_position.offset < start + BLOCK and i.mm_position.offset + i.mm_position.length > start
        ]

    expected = [tuple(overlapping(b * BLOCK)) or None for b in range(24)]
    assert keys_of(request(mm_features=items), 24) == expected


def test_a_cursor_of_minus_one_begins_with_the_last_item():
    both = [item("first", 17, 3), item("last", 22, 20)]
    assert keys_of(request(mm_features=both), 2, cursor=-1, first=1) == [(("last", 6),), (("last", -10),)]


@pytest.mark.parametrize("cursor", [0, 1, -1])
def test_a_block_after_the_last_item_has_no_item_keys(cursor):
    assert keys_of(request(mm_features=TWO_ITEMS), 1, cursor=cursor, first=3) == [None]


@pytest.mark.parametrize("cursor", [0, 1, -1])
def test_a_block_after_the_last_item_leaves_the_cursor(cursor):
    _, after = generate_block_hash_extra_keys(request(mm_features=TWO_ITEMS), 48, 64, cursor)
    assert after == cursor


def test_the_lora_name_is_a_key_of_every_block():
    assert keys_of(request(lora_request=LORA), 3) == [("adapter",)] * 3


def test_the_salt_is_a_key_of_the_first_block_only():
    assert keys_of(request(cache_salt="salt"), 3) == [("salt",), None, None]


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"cache_salt": ""},
        {"cache_salt": None},
        {"lora_request": None},
        {"mm_features": []},
        {"mm_features": None},
        {"prompt_embeds": None},
    ],
)
def test_a_block_without_keys_has_none_and_not_an_empty_tuple(attributes):
    assert keys_of(request(**attributes), 2) == [None, None]


def test_prompt_embeddings_are_keyed_by_the_hash_of_their_bytes():
    expected = [hashlib.sha256(EMBEDS[s : s + BLOCK].tobytes()).digest() for s in (0, 16, 32)]
    assert keys_of(request(prompt_embeds=EMBEDS), 3) == [(key,) for key in expected]


def test_hashes_of_embeddings_are_kept_with_the_request():
    kept = request(prompt_embeds=EMBEDS.copy(), _prompt_embeds_per_block_hashes={})
    before = keys_of(kept, 1)
    kept.prompt_embeds[:] = 0
    assert keys_of(kept, 1) == before


def test_embeddings_of_another_memory_layout_have_the_same_key():
    columns = request(prompt_embeds=np.asfortranarray(EMBEDS))
    assert keys_of(columns, 2) == keys_of(request(prompt_embeds=EMBEDS), 2)


@needs_torch
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_embeddings_in_torch_are_keyed_by_their_bytes_in_row_order(dtype):
    import torch

    tensor = torch.from_numpy(EMBEDS).to(getattr(torch, dtype))
    raw = tensor.view(torch.uint8).numpy().tobytes()
    size = len(raw) // len(EMBEDS) * BLOCK
    expected = [(hashlib.sha256(raw[i * size : (i + 1) * size]).digest(),) for i in range(2)]
    assert keys_of(request(prompt_embeds=tensor), 2) == expected


@needs_torch
def test_embeddings_in_torch_have_the_same_key_in_any_memory_layout():
    import torch

    tensor = torch.from_numpy(EMBEDS)
    columns = tensor.t().contiguous().t()
    assert keys_of(request(prompt_embeds=columns), 2) == keys_of(request(prompt_embeds=tensor), 2)


@needs_torch
def test_embeddings_in_torch_and_in_numpy_have_the_same_key():
    import torch

    tensor = request(prompt_embeds=torch.from_numpy(EMBEDS))
    assert keys_of(tensor, 2) == keys_of(request(prompt_embeds=EMBEDS), 2)


def test_keys_come_in_the_order_lora_items_salt_embeddings():
    everything = request(prompt_embeds=EMBEDS, cache_salt="salt", mm_features=TWO_ITEMS, lora_request=LORA)
    embeds = [hashlib.sha256(EMBEDS[s : s + BLOCK].tobytes()).digest() for s in (0, 16)]
    assert keys_of(everything, 2) == [
        ("adapter", ("aaa", 11), "salt", embeds[0]),
        ("adapter", ("aaa", -5), ("bbb", 14), embeds[1]),
    ]


@pytest.mark.parametrize(
    ("attributes", "needed"),
    [
        ({}, False),
        ({"mm_features": [], "lora_request": None, "cache_salt": None}, False),
        ({"mm_features": TWO_ITEMS}, True),
        ({"lora_request": LORA}, True),
        ({"cache_salt": "salt"}, True),
        ({"prompt_embeds": EMBEDS}, True),
    ],
)
def test_a_request_needs_extra_keys_if_it_has_anything_for_them(attributes, needed):
    assert need_extra_keys(request(**attributes)) is needed
