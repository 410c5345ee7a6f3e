"""Sliding windows: right-most runs, blocks given back, masks of what is kept, and admission."""

import pytest
from support.cache_groups import free_ids, hit_in, hold, ids_of, make_group, reusable_before_cached
from support.managers import admit, cached_places, decode, full, held, make_manager, make_request, per_backend, window

RETENTION = "VLLM_PREFIX_CACHE_RETENTION_INTERVAL"


@per_backend
@pytest.mark.parametrize(
    ("cached", "length"),
    [
        ("TF", 1),
        ("TT", 2),
        ("TTF", 2),
        ("TTT", 3),
        ("TTTF", 3),
        ("TTFTFFTTFTTT", 12),
        ("TTFTFFTTFFF", 8),
        ("TTFTFFTTFFFT", 8),
        ("FFFT", 0),
        ("FFTT", 4),
    ],
)
def test_the_right_most_full_window_is_the_hit(backend, cached, length):
    assert len(hit_in(window(2, 4), cached, backend=backend)) == length


def test_blocks_left_of_the_window_are_null():
    assert hit_in(window(2, 4), "TTFTTTFT") == [0, 0, 0, 0, 5, 6]


def test_a_run_from_the_start_may_be_shorter_than_the_window():
    assert hit_in(window(2, 20), "TTF") == [1, 2]


@pytest.mark.parametrize(("tokens", "blocks"), [(2, 1), (3, 1), (4, 2), (5, 2), (6, 3), (7, 3)])
def test_a_window_needs_the_blocks_that_the_next_token_still_sees(tokens, blocks):
    """Window W, blocks of 2 tokens: ceil((W - 1) / 2) cached blocks in a row."""
    enough = "F" + "T" * blocks
    assert hit_in(window(2, tokens), enough) == [0, *range(2, blocks + 2)]
    assert hit_in(window(2, tokens), enough[:-1] + "F") == []


def test_with_eagle_one_more_block_is_needed_and_the_last_is_dropped():
    assert hit_in(window(2, 4), "FTTT", drop=True) == [0, 2, 3]
    assert hit_in(window(2, 4), "FTTF", drop=True) == []


@pytest.mark.parametrize(("cached", "length"), [("TTTTT", 4), ("FTTTT", 4), ("FFTTT", 4), ("FFFT", 0)])
def test_a_run_begins_at_an_aligned_end(cached, length):
    assert len(hit_in(window(2, 4), cached, alignment=4)) == length


@pytest.mark.parametrize(("blocks", "length"), [(3, 0), (4, 0), (5, 2)])
def test_a_run_from_the_start_is_aligned_before_and_after_eagle_drops_a_block(blocks, length):
    """A quirk that routers and engines see (fact 31)."""
    assert len(hit_in(window(16, 1000), "T" * blocks, drop=True, alignment=32)) == length


@pytest.mark.parametrize(("computed", "skipped"), [(0, 0), (3, 0), (4, 1), (5, 2), (7, 4), (11, 8), (12, 9)])
def test_tokens_in_front_of_the_window_are_skipped(computed, skipped):
    assert make_group(window(2, 4)).get_num_skipped_tokens(computed) == skipped


@per_backend
@pytest.mark.parametrize(("computed", "nulls"), [(0, 0), (4, 0), (5, 1), (7, 2), (11, 4)])
def test_blocks_in_front_of_the_window_become_null(backend, computed, nulls):
    group = make_group(window(2, 4), backend=backend)
    hold(group, 12)
    group.remove_skipped_blocks("a", computed)
    assert ids_of(group) == [0] * nulls + list(range(nulls + 1, 7))


@per_backend
def test_cached_blocks_go_behind_the_free_ones_and_others_in_front(backend):
    group = make_group(window(2, 4), num_blocks=9, backend=backend)
    hold(group, 12)
    request = make_request("a", 12, 2)
    group.block_pool.cache_full_blocks(request, group.req_to_blocks["a"], 0, 4, 2, 0, [False, True, False, True])
    group.remove_skipped_blocks("a", 11)
    assert free_ids(group) == [3, 1, 7, 8, 4, 2]


@per_backend
def test_a_freed_request_gives_back_uncached_blocks_in_front(backend):
    group = make_group(window(2, 4), num_blocks=9, backend=backend)
    hold(group, 12)
    request = make_request("a", 12, 2)
    group.block_pool.cache_full_blocks(request, group.req_to_blocks["a"], 0, 4, 2, 0, [False, True, False, True])
    group.free("a")
    assert free_ids(group) == [6, 5, 3, 1, 7, 8, 4, 2]


def test_blocks_given_back_before_are_not_looked_at_again():
    group = make_group(window(2, 4))
    hold(group, 12)
    group.remove_skipped_blocks("a", 7)
    group.remove_skipped_blocks("a", 11)
    group.remove_skipped_blocks("a", 5)
    assert ids_of(group) == [0, 0, 0, 0, 5, 6]


def test_hits_in_front_of_the_window_are_not_taken():
    group = make_group(window(4, 8))
    hits = group.block_pool.get_new_blocks(4)
    group.block_pool.free_blocks(hits)
    group.allocate_new_computed_blocks("a", hits, 16, 0)
    assert ids_of(group) == [0, 0, 3, 4]
    assert [block.ref_cnt for block in hits] == [0, 0, 1, 1]
    assert group.num_cached_block["a"] == 4


def test_free_hits_in_front_of_the_window_need_no_room():
    """One new block, and the two free hits that the window reaches, of four."""
    group = make_group(window(4, 8))
    hits = group.block_pool.get_new_blocks(4)
    group.block_pool.free_blocks(hits)
    assert group.get_num_blocks_to_allocate("a", 20, hits, 16, 20) == 3


def test_external_tokens_in_front_of_the_window_get_no_blocks():
    """Of 20 external tokens 20 - 8 + 1 = 13 are skipped: three null blocks, two real ones."""
    group = make_group(window(4, 8))
    group.allocate_new_computed_blocks("a", [], 0, 20)
    assert ids_of(group) == [0, 0, 0, 1, 2]


@pytest.mark.parametrize(("batched", "model_len", "blocks"), [(8, 4096, 5), (7, 4096, 5), (4, 4096, 4), (8, 10, 4)])
def test_admission_counts_window_and_step(batched, model_len, blocks):
    """Window 9, blocks of 4: ceil(min(8 + step, longest) / 4) + 1."""
    group = make_group(window(4, 9), max_num_batched_tokens=batched, max_model_len=model_len)
    assert group.get_num_blocks_to_allocate("a", 400, [], 0, 400, True) == blocks
    assert group.get_num_blocks_to_allocate("a", 400, [], 0, 400) == 100


@per_backend
def test_a_long_generation_holds_no_more_than_its_window(backend):
    manager = make_manager(window(4, 8), num_blocks=6, backend=backend)
    request = make_request("a", 8, 4)
    admit(manager, request)
    for _ in range(60):
        assert decode(manager, request) is not None
        assert sum(block_id != 0 for block_id in held(manager, request)) <= 3


# What is kept


@pytest.mark.parametrize(
    ("retention", "places"),
    [(None, set(range(16))), ("64", {3, 7, 11, 14, 15}), ("0", {14})],
    ids=["dense", "every 64", "end of prompt"],
)
def test_retention_keeps_the_windows_of_few_lengths(monkeypatch, retention, places):
    if retention is not None:
        monkeypatch.setenv(RETENTION, retention)
    manager = make_manager(window(16, 16))
    request = make_request("a", 256, 16)
    admit(manager, request)
    assert cached_places(manager, request) == places
    assert manager.get_computed_blocks(make_request("b", 256, 16))[1] == 240


@per_backend
def test_only_blocks_at_the_end_of_a_scheduler_block_are_kept(backend):
    manager = make_manager(full(32), window(8, 8), backend=backend)
    request = make_request("a", 64, 8)
    admit(manager, request)
    assert cached_places(manager, request, 1) == {3, 7}


def test_a_freed_window_is_used_again_before_any_cached_block():
    manager = make_manager(full(32), window(8, 8), num_blocks=40)
    for name, tokens in (("a", 64), ("b", [5] * 96)):
        request = make_request(name, tokens, 8)
        admit(manager, request)
        manager.free(request)
    assert reusable_before_cached(manager)


@pytest.mark.parametrize(
    ("arguments", "kept"),
    [
        ((0, 12, 8, window(2, 3), False), {3, 7, 11}),
        ((0, 12, 8, window(2, 5), False), {2, 3, 6, 7, 10, 11}),
        ((5, 12, 8, window(2, 3), False), {7, 11}),
        ((0, 12, 8, window(2, 3), True), {3, 4, 7, 8, 11}),
        ((0, 12, 8, window(2, 1), False), set()),
        ((0, 12, 8, window(2, 3), False, 16), {7}),
        ((0, 12, 8, window(2, 3), False, 0, 20), {7}),
        ((0, 12, 8, window(2, 3), False, 0, 16), {3}),
        ((0, 12, 8, window(2, 3), True, 0, 20), {7, 8}),
    ],
)
def test_the_mask_keeps_what_an_aligned_hit_needs(arguments, kept):
    mask = make_group(window(2, 3)).reachable_block_mask(*arguments)
    first, end = arguments[:2]
    assert {i for i in range(first, end) if mask[i - first]} == kept


@pytest.mark.parametrize(
    "arguments",
    [
        (0, 12, None, window(2, 3), False),
        (0, 12, 2, window(2, 3), False),
        (0, 12, 8, window(2, 8), False),
        (0, 12, 8, window(2, 7), True),
    ],
)
def test_there_is_no_mask_where_every_block_is_needed(arguments):
    assert make_group(window(2, 3)).reachable_block_mask(*arguments) is None
