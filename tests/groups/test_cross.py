"""Cross attention: blocks for the encoder's tokens, and no reuse."""

import pytest
from support.cache_groups import free_ids, hit_in, ids_of, make_group
from support.managers import HEADS, admit, decode, full, held, make_manager, make_request

from kvgpu.config.specs import CrossAttentionSpec
from kvgpu.errors import ArgumentError


def cross(block_size):
    return CrossAttentionSpec(block_size, **HEADS)


def make_encoder_decoder(**options):
    """A manager for decoder blocks of 4 tokens and encoder blocks of 8."""
    return make_manager(full(4), cross(8), enable_caching=False, **options)


@pytest.mark.parametrize(("encoder_tokens", "blocks"), [(0, 0), (1, 1), (8, 1), (20, 3)])
def test_blocks_are_counted_by_encoder_tokens(encoder_tokens, blocks):
    manager = make_encoder_decoder()
    request = make_request("a", 10, 4)
    admit(manager, request, num_encoder_tokens=encoder_tokens)
    assert [len(held(manager, request, group)) for group in (0, 1)] == [3, blocks]


def test_generation_takes_no_more_encoder_blocks():
    manager = make_encoder_decoder()
    request = make_request("a", 10, 4)
    admit(manager, request, num_encoder_tokens=20)
    before = held(manager, request, 1)
    decode(manager, request, 20)
    assert held(manager, request, 1) == before


@pytest.mark.parametrize(("num_blocks", "fits"), [(6, False), (7, True)])
def test_encoder_blocks_must_fit_too(num_blocks, fits):
    manager = make_encoder_decoder(num_blocks=num_blocks)
    blocks = admit(manager, make_request("a", 10, 4), num_encoder_tokens=20)
    assert (blocks is not None) is fits


def test_external_tokens_of_the_decoder_take_no_encoder_blocks():
    manager = make_encoder_decoder()
    request = make_request("a", 12, 4)
    manager.allocate_slots(request, 4, num_external_computed_tokens=8, num_encoder_tokens=8)
    assert [len(held(manager, request, group)) for group in (0, 1)] == [3, 1]


def test_a_freed_request_gives_back_its_encoder_blocks():
    manager = make_encoder_decoder(num_blocks=8)
    request = make_request("a", 10, 4)
    admit(manager, request, num_encoder_tokens=20)
    manager.free(request)
    assert manager.usage == 0.0


def test_a_lookup_is_refused():
    with pytest.raises(NotImplementedError, match="no prefix cache"):
        hit_in(cross(4), "TT")


def test_hits_are_refused_before_anything_changes():
    group = make_group(cross(4), enable_caching=False)
    hits = group.block_pool.get_new_blocks(1)
    free = free_ids(group)
    with pytest.raises(ArgumentError, match="cannot take hits"):
        group.allocate_new_computed_blocks("a", hits, 4, 0)
    assert (free_ids(group), ids_of(group), hits[0].ref_cnt) == (free, [], 1)


def test_caching_is_refused():
    group = make_group(cross(4))
    group.allocate_new_blocks("a", 8, 8)
    with pytest.raises(ArgumentError, match="turn prefix caching off"):
        group.cache_blocks(make_request("a", 8, 4), 8)
    assert [block.block_hash for block in group.req_to_blocks["a"]] == [None, None]
