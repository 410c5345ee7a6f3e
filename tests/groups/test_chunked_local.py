"""Chunked local attention: only the chunk of the next token counts."""

import pytest
from support.cache_groups import free_ids, hit_in, hold, ids_of, make_group
from support.managers import admit, chunked, decode, full, held, make_manager, make_request, per_backend

from kvgpu.errors import ConfigError


@per_backend
@pytest.mark.parametrize(
    ("cached", "tokens", "expected"),
    [
        ("TF", 4, [0, 0]),
        ("TTF", 6, [0, 0]),
        ("TTTF", 8, [0, 0, 0, 0]),
        ("TTTF", 7, [0, 0, 3]),
        ("FFTF", 7, [0, 0, 3]),
        ("TTFT", 7, [0, 0]),
        ("TT", 3, [1]),
        ("FT", 3, []),
        ("FFFFF", 9, [0, 0, 0, 0]),
    ],
)
def test_a_hit_is_the_run_from_the_start_of_the_chunk(backend, cached, tokens, expected):
    assert hit_in(chunked(2, 4), cached, tokens=tokens, backend=backend) == expected


@per_backend
def test_blocks_in_front_of_the_chunk_need_not_be_cached(backend):
    manager = make_manager(chunked(4, 8), backend=backend)
    request = make_request("a", 19, 4)
    admit(manager, request)
    manager.evict_blocks([1, 2, 3, 4])
    assert manager.get_computed_blocks(request)[0].get_block_ids() == ([0, 0, 0, 0],)


@per_backend
@pytest.mark.parametrize("listed", [False, True])
def test_a_chunk_that_begins_behind_all_hashes_needs_nothing_cached(backend, listed):
    manager = make_manager(chunked(4, 8), backend=backend)
    request = make_request("a", 18, 4)
    if listed:
        request.block_hashes = list(request.block_hashes)
    blocks, num_hits = manager.get_computed_blocks(request)
    assert (num_hits, blocks.get_block_ids()) == (16, ([0, 0, 0, 0],))


@pytest.mark.parametrize(("computed", "skipped"), [(0, 0), (3, 0), (4, 4), (6, 4), (8, 8), (12, 12), (13, 12)])
def test_tokens_in_front_of_the_chunk_are_skipped(computed, skipped):
    assert make_group(chunked(2, 4)).get_num_skipped_tokens(computed) == skipped


@pytest.mark.parametrize(("computed", "nulls"), [(3, 0), (4, 2), (6, 2), (12, 6)])
def test_blocks_in_front_of_the_chunk_become_null(computed, nulls):
    group = make_group(chunked(2, 4))
    hold(group, 14)
    group.remove_skipped_blocks("a", computed)
    assert ids_of(group) == [0] * nulls + list(range(nulls + 1, 8))


@pytest.mark.parametrize(("external", "expected"), [(6, [0]), (8, [0, 1]), (11, [0, 1, 2])])
def test_external_tokens_in_front_of_the_chunk_get_no_blocks(external, expected):
    """A chunk of 6 tokens may end within a block of 4; its block is not needed either."""
    group = make_group(chunked(4, 6))
    group.allocate_new_computed_blocks("a", [], 0, external)
    assert ids_of(group) == expected


@per_backend
def test_a_freed_request_gives_back_its_last_block_first(backend):
    group = make_group(chunked(2, 4), num_blocks=7, backend=backend)
    hold(group, 8)
    group.cache_blocks(make_request("a", 8, 2), 4)
    group.free("a")
    assert free_ids(group) == [5, 6, 4, 3, 2, 1]


@pytest.mark.parametrize(
    ("batched", "model_len", "blocks"), [(16, 4096, 6), (15, 4096, 6), (100, 4096, 27), (100, 20, 5)]
)
def test_admission_counts_chunk_and_step(batched, model_len, blocks):
    """Chunk 8, blocks of 4: ceil(min(8 + step, longest) / 4)."""
    group = make_group(chunked(4, 8), max_num_batched_tokens=batched, max_model_len=model_len)
    assert group.get_num_blocks_to_allocate("a", 400, [], 0, 400, True) == blocks


def test_a_long_generation_holds_no_more_than_its_chunk():
    manager = make_manager(chunked(4, 8), num_blocks=5)
    request = make_request("a", 8, 4)
    admit(manager, request)
    for _ in range(40):
        assert decode(manager, request) is not None
        assert sum(block_id != 0 for block_id in held(manager, request)) <= 2


@pytest.mark.parametrize("specs", [[chunked(4, 8)], [full(4), chunked(4, 8)]], ids=len)
def test_chunked_local_attention_refuses_eagle(specs):
    with pytest.raises(ConfigError, match="EAGLE"):
        make_manager(*specs, use_eagle=True)


def test_chunked_local_attention_refuses_hits_aligned_to_larger_blocks():
    with pytest.raises(ConfigError, match="equal block sizes in all groups"):
        make_manager(full(8), chunked(4, 8))


def test_nothing_is_common_to_requests():
    manager = make_manager(chunked(4, 8))
    request = make_request("a", 8, 4)
    admit(manager, request)
    assert manager.get_num_common_prefix_blocks("a") == [0]
