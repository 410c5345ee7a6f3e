"""Rules of cache groups beside their definitions by counting."""

from math import ceil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.managers import chunked, full, make_manager, make_request, window

from kvgpu.compiled.jit import python_of
from kvgpu.rules import allocation as rules
from kvgpu.rules.plan_words import CHUNKED_LOCAL, FULL, MAMBA, SLIDING_WINDOW

PLAIN = {
    name: python_of(getattr(rules, name))
    for name in ("blocks_of", "skipped_tokens", "blocks_missing", "covered_tokens", "cacheable_tokens")
}
ATTENDED = {
    FULL: lambda token, now, extent: True,
    SLIDING_WINDOW: lambda token, now, extent: now - token < extent,
    CHUNKED_LOCAL: lambda token, now, extent: token // extent == now // extent,
    MAMBA: lambda token, now, extent: now - token <= 1,
}
"""Kind -> whether token `now` needs an earlier token (of a recurrent state: only the last one)."""


@given(tokens=st.integers(0, 500), size=st.integers(1, 40))
def test_tokens_take_as_many_blocks_as_hold_them(tokens, size):
    assert PLAIN["blocks_of"](tokens, size) == ceil(tokens / size)


@pytest.mark.parametrize("kind", ATTENDED)
@given(now=st.integers(1, 200), extent=st.integers(1, 50))
def test_tokens_are_skipped_up_to_the_first_that_the_next_token_needs(kind, now, extent):
    needed = [token for token in range(now + 1) if ATTENDED[kind](token, now, extent)]
    assert PLAIN["skipped_tokens"](kind, extent, now) == needed[0]


@given(required=st.integers(0, 50), held=st.integers(0, 50), skipped=st.integers(0, 50))
def test_a_running_request_misses_what_it_does_not_hold(required, held, skipped):
    missing = PLAIN["blocks_missing"](required, held, True, skipped, 0)
    assert missing == len(set(range(required)) - set(range(held)))


@given(required=st.integers(0, 50), held=st.integers(0, 20), skipped=st.integers(0, 50), hits=st.integers(0, 20))
def test_a_new_request_misses_what_is_neither_hit_nor_skipped(required, held, skipped, hits):
    missing = PLAIN["blocks_missing"](required, held, False, skipped, hits)
    there = set(range(skipped)) | set(range(hits + held))
    assert missing == len(set(range(required)) - there)


@given(tokens=st.integers(0, 300), alignment=st.integers(1, 10), size=st.integers(1, 9))
def test_tokens_behind_the_last_aligned_length_are_not_cached(tokens, alignment, size):
    allowed = [end for end in range(tokens + 1) if end % (alignment * size) == 0]
    assert PLAIN["cacheable_tokens"](tokens, alignment * size, False, size, 0) == allowed[-1]


@given(tokens=st.integers(0, 300), alignment=st.integers(1, 10), size=st.integers(1, 9))
def test_with_eagle_one_block_more_is_cached(tokens, alignment, size):
    plain = PLAIN["cacheable_tokens"](tokens, alignment * size, False, size, 0)
    expected = min(tokens, plain + size) if plain else 0
    assert PLAIN["cacheable_tokens"](tokens, alignment * size, True, size, 0) == expected


@pytest.mark.parametrize("eagle", [False, True])
def test_without_an_alignment_all_tokens_are_cached(eagle):
    assert PLAIN["cacheable_tokens"](37, 0, eagle, 4, 0) == 37


@pytest.mark.parametrize(
    ("spec", "caching"),
    [
        (full(4), True),
        (full(4), False),
        (window(4, 6), True),
        (window(4, 6), False),
        (window(4, 1), True),
        (chunked(4, 8), True),
        (chunked(4, 8), False),
        (chunked(4, 10), True),
    ],
)
@settings(max_examples=60, deadline=None)
@given(prompt=st.integers(1, 30), lookahead=st.integers(0, 9), step=st.integers(1, 9))
def test_a_call_within_the_covered_tokens_changes_nothing(spec, caching, prompt, lookahead, step):
    """It takes no block, fills none, and gives none back."""
    manager = make_manager(spec, enable_caching=caching, backend="reference")
    request = make_request("a", 60, 4)
    manager.allocate_slots(request, prompt, num_lookahead_tokens=lookahead)
    (group,) = manager.coordinator.single_type_managers
    table = group.req_to_blocks["a"]
    quiet = PLAIN["covered_tokens"](group.rule_kind, group.extent, 4, len(table), max(table.num_cached, 0), caching, 0)

    def changes(num_computed, end):
        """Whether a call for tokens up to `end` would do anything, asked of the blocks."""
        skipped = group.get_num_skipped_tokens(num_computed) // 4
        full_blocks = end // 4 if caching else 0
        return (
            end > 4 * len(table)
            or full_blocks > max(table.num_cached, 0)
            or any(table.ids[: min(skipped, len(table))] != 0)
        )

    num_computed = max(0, quiet - step)
    assert not changes(num_computed, quiet)


@pytest.mark.parametrize(
    ("kind", "extent", "expected"),
    [(FULL, 0, 11), (SLIDING_WINDOW, 30, 11), (SLIDING_WINDOW, 5, 8), (CHUNKED_LOCAL, 8, 8), (MAMBA, 0, 0)],
)
def test_a_request_is_covered_until_a_block_is_full_or_leaves(kind, extent, expected):
    """It holds 3 blocks of 4, 2 of them cached, and has computed nothing yet."""
    assert PLAIN["covered_tokens"](kind, extent, 4, 3, 2, True, 0) == expected


def test_without_caching_a_request_is_covered_until_its_blocks_are_full():
    assert PLAIN["covered_tokens"](FULL, 0, 4, 3, 0, False, 0) == 12
