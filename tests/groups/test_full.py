"""Full attention: leading runs, block counts, and blocks that are shared by context parallelism."""

import pytest
from support.cache_groups import free_ids, hit_in, hold, ids_of, make_group
from support.managers import HEADS, admit, full, held, make_manager, make_request, per_backend

from kvgpu.config.specs import HiddenStateCacheSpec, MLAAttentionSpec, TQFullAttentionSpec
from kvgpu.errors import RunningRequestError


@per_backend
@pytest.mark.parametrize(
    ("cached", "expected"), [("TTTT", [1, 2, 3, 4]), ("TTFT", [1, 2]), ("FTTT", []), ("TTTF", [1, 2, 3]), ("F", [])]
)
def test_a_hit_is_the_leading_run(backend, cached, expected):
    assert hit_in(full(2), cached, backend=backend) == expected


@pytest.mark.parametrize(("tokens", "expected"), [(0, 0), (1, 0), (2, 1), (5, 2), (8, 4)])
def test_a_hit_is_no_longer_than_allowed(tokens, expected):
    assert len(hit_in(full(2), "TTTT", tokens=tokens)) == expected


@pytest.mark.parametrize(("cached", "expected"), [("TTTT", 3), ("TTFT", 1), ("TFFF", 0), ("F", 0)])
def test_eagle_drops_the_last_block(cached, expected):
    assert len(hit_in(full(2), cached, drop=True)) == expected


@pytest.mark.parametrize(
    ("cached", "drop", "expected"),
    [("TTTTT", False, 4), ("TTTTT", True, 4), ("TTTT", True, 2), ("TTT", False, 2), ("T", False, 0)],
)
def test_a_hit_is_aligned_after_eagle_dropped_its_block(cached, drop, expected):
    assert len(hit_in(full(2), cached, drop=drop, alignment=4)) == expected


@pytest.mark.parametrize("spec_type", [MLAAttentionSpec, TQFullAttentionSpec, HiddenStateCacheSpec], ids=str)
def test_latent_quantised_and_hidden_state_caches_hit_alike(spec_type):
    assert hit_in(spec_type(2, **HEADS), "TTFT") == [1, 2]


@pytest.mark.parametrize(("tokens", "blocks"), [(0, 0), (1, 1), (4, 1), (5, 2), (16, 4)])
def test_a_new_request_needs_a_block_for_every_begun_four_tokens(tokens, blocks):
    assert make_group(full(4)).get_num_blocks_to_allocate("a", tokens, [], 0, tokens) == blocks


def test_free_hits_count_as_needed_and_used_ones_do_not():
    """Ten hits that nobody uses and ten new blocks: twenty must be free."""
    group = make_group(full(4))
    hits = group.block_pool.get_new_blocks(10)
    assert group.get_num_blocks_to_allocate("a", 80, hits, 40, 80) == 10
    group.block_pool.free_blocks(hits)
    assert group.get_num_blocks_to_allocate("a", 80, hits, 40, 80) == 20


def test_null_blocks_among_the_hits_need_no_room():
    """Five null blocks and five free hits of ten, and ten new blocks: fifteen must be free."""
    group = make_group(full(4))
    hits = group.block_pool.get_new_blocks(5)
    group.block_pool.free_blocks(hits)
    hits = [group.block_pool.null_block] * 5 + hits
    assert group.get_num_blocks_to_allocate("a", 80, hits, 40, 80) == 15


def test_a_running_request_needs_only_what_it_does_not_hold():
    group = make_group(full(4))
    group.allocate_new_computed_blocks("a", [], 0, 0)
    hold(group, 10)
    assert group.get_num_blocks_to_allocate("a", 12, [], 10, 12) == 0
    assert group.get_num_blocks_to_allocate("a", 17, [], 10, 17) == 2
    assert group.get_num_blocks_to_allocate("a", 2, [], 2, 2) == 0


@pytest.mark.parametrize("call", ["get_num_blocks_to_allocate", "allocate_new_computed_blocks"])
def test_a_running_request_takes_no_hits(call):
    group = make_group(full(4))
    group.allocate_new_computed_blocks("a", [], 0, 0)
    hits = group.block_pool.get_new_blocks(1)
    arguments = {"get_num_blocks_to_allocate": (8, hits, 4, 8), "allocate_new_computed_blocks": (hits, 4, 0)}[call]
    with pytest.raises(RunningRequestError, match="free it first"):
        getattr(group, call)("a", *arguments)


def test_hits_are_counted_as_cached_once_a_request_has_them():
    group = make_group(full(4))
    hits = group.block_pool.get_new_blocks(2)
    group.allocate_new_computed_blocks("a", hits, 8, 0)
    assert (ids_of(group), group.num_cached_block["a"]) == ([1, 2], 2)
    assert [block.ref_cnt for block in hits] == [2, 2]


def test_external_tokens_get_new_blocks_that_are_not_counted_as_cached():
    group = make_group(full(4))
    hits = group.block_pool.get_new_blocks(1)
    group.allocate_new_computed_blocks("a", hits, 4, 6)
    assert (ids_of(group), group.num_cached_block["a"]) == ([1, 2, 3], 1)


def test_no_block_is_ever_skipped():
    group = make_group(full(4))
    hold(group, 40)
    group.remove_skipped_blocks("a", 40)
    assert ids_of(group) == list(range(1, 11))


@per_backend
def test_freeing_puts_cached_and_uncached_blocks_at_the_tail_last_one_first(backend):
    group = make_group(full(4), num_blocks=7, backend=backend)
    hold(group, 16)
    group.cache_blocks(make_request("a", 12, 4), 12)
    group.free("a")
    assert free_ids(group) == [5, 6, 4, 3, 2, 1]
    assert group.num_cached_block == {}


def test_every_full_block_is_worth_keeping():
    assert make_group(full(4)).reachable_block_mask(0, 9, 16, full(4), False, 16, 36) is None


def test_common_blocks_are_the_leading_ones_that_all_requests_use():
    group = make_group(full(4))
    hold(group, 12, "a")
    group.allocate_new_computed_blocks("b", group.req_to_blocks["a"][:2], 8, 0)
    assert group.get_num_common_prefix_blocks("a") == 2
    hold(group, 4, "c")
    assert group.get_num_common_prefix_blocks("a") == 0


def test_all_blocks_of_the_only_request_are_common():
    group = make_group(full(4))
    hold(group, 12, "a")
    assert group.get_num_common_prefix_blocks("a") == 3


@per_backend
@pytest.mark.parametrize(("dcp", "pcp"), [(2, 1), (1, 2), (2, 2)])
def test_ranks_of_context_parallelism_share_a_block(backend, dcp, pcp):
    size = 4 * dcp * pcp
    manager = make_manager(
        full(4),
        scheduler_block_size=size,
        hash_block_size=size,
        dcp_world_size=dcp,
        pcp_world_size=pcp,
        backend=backend,
    )
    request = make_request("a", 2 * size + 1, size)
    admit(manager, request)
    assert held(manager, request) == [1, 2, 3]
    assert manager.get_computed_blocks(make_request("b", 3 * size, size))[1] == 2 * size
