"""Lookups with a list of hashes find what those with all of its hashes in an array find, though they read fewer."""

import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.managers import full, make_manager, window

from kvgpu.hashing.block_hashes import BlockHashes
from kvgpu.index.host import index as host

MODELS = {
    "full": ((full(4),), {}),
    "full, EAGLE": ((full(4),), {"use_eagle": True}),
    "full and window": ((full(4), window(4, 12)), {}),
    "full and window, EAGLE": ((full(4), window(4, 12)), {"use_eagle": True}),
    "window": ((window(4, 12),), {}),
    "blocks of two sizes": ((full(8), window(4, 8)), {"scheduler_block_size": 8, "hash_block_size": 4}),
}


class Request:
    """As an engine has it: hashes in a list."""

    skip_reading_prefix_cache = False
    num_preemptions = 0

    def __init__(self, name, hashes, num_tokens):
        self.request_id, self.block_hashes, self.num_tokens = name, hashes, num_tokens
        self.num_prompt_tokens, self.num_computed_tokens = num_tokens, 0


def hits(manager, hashes, num_tokens):
    blocks, num_hits = manager.get_computed_blocks(Request("asked", hashes, num_tokens))
    return blocks.get_block_ids(), num_hits


@pytest.mark.parametrize("model", MODELS)
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_a_list_hits_what_an_array_hits(model, data):
    specs, options = MODELS[model]
    manager = make_manager(*specs, num_blocks=2000, max_model_len=4000, **options)
    hashes = [os.urandom(32) for _ in range(600)]
    cached = data.draw(st.integers(1, 560), "cached hashes")
    request = Request("first", hashes[:cached], 4 * cached)
    assert manager.allocate_slots(request, 4 * cached) is not None
    evicted = data.draw(st.lists(st.integers(1, cached), max_size=2), "blocks whose hashes are forgotten")
    manager.evict_blocks(set(evicted))
    for _ in range(4):
        same = data.draw(st.integers(0, cached), "leading hashes that are the same")
        length = data.draw(st.integers(same, 590), "hashes")
        asked = hashes[:same] + [os.urandom(32) for _ in range(length - same)]
        num_tokens = 4 * length + data.draw(st.integers(0, 3))
        assert hits(manager, asked, num_tokens) == hits(manager, BlockHashes(asked), num_tokens)


def test_hashes_after_the_first_miss_are_not_read():
    manager = make_manager(full(4), num_blocks=2000, max_model_len=4000)
    hashes = [os.urandom(32) for _ in range(500)]
    assert manager.allocate_slots(Request("first", hashes[:20], 80), 80) is not None
    odd = hashes[:20] + [os.urandom(32) for _ in range(236)] + ["no hash"] * 10
    assert hits(manager, odd, 4 * len(odd))[1] == 80


@pytest.mark.parametrize("place", [0, 15, 16, 40])
@pytest.mark.parametrize("odd", [b"short", bytes(16), bytearray(32)])
def test_an_odd_hash_that_is_read_is_not_found(place, odd):
    manager = make_manager(full(4), num_blocks=2000, max_model_len=4000)
    hashes = [os.urandom(32) for _ in range(50)]
    assert manager.allocate_slots(Request("first", hashes, 200), 200) is not None
    asked = list(hashes)
    asked[place] = odd
    expected = BlockHashes(hashes[:place] + [os.urandom(32)] * (50 - place))
    assert hits(manager, asked, 201) == hits(manager, expected, 201)


def test_without_the_layout_of_lists_all_hashes_are_converted(monkeypatch):
    manager = make_manager(full(4), num_blocks=2000, max_model_len=4000)
    hashes = [os.urandom(32) for _ in range(100)]
    assert manager.allocate_slots(Request("first", hashes, 400), 400) is not None
    found = hits(manager, hashes, 400)
    monkeypatch.setattr(host, "KNOWN_LAYOUT", False)
    assert hits(manager, hashes, 400) == found
    assert found[1] == 396
    assert np.diff(found[0][0]).tolist() == [1] * 98
