"""Which blocks of a sliding window are kept: those that a hit of some allowed length needs."""

from math import ceil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.managers import admit, cached_places, chunked, full, make_manager, make_request, mamba, window

from kvgpu.errors import ConfigError
from kvgpu.groups.registry import manager_class
from kvgpu.rules.retention import mask_rule, masked, positions_of, window_blocks


def sliding_window_mask(start, end, spec, alignment, eagle, interval, prompt):
    """The mask of blocks of one request in behaviour 0.23."""
    rule = mask_rule(spec, alignment, eagle, interval)
    return masked(rule, start, end, positions_of(rule, prompt))


INTERVAL = "VLLM_PREFIX_CACHE_RETENTION_INTERVAL"


def allowed_lengths(end, alignment, interval, prompt):
    """Tokens of every hit that should be possible, far enough to concern `end` blocks."""
    step = alignment if interval is None else interval
    lengths = set(range(step, end + 3 * step, step)) if step else set()
    if interval is not None and prompt is not None:
        lengths.add((prompt - 1) // alignment * alignment)
    return lengths


def needed(block, spec, alignment, eagle, interval, prompt, end):
    """True if some allowed hit has the block in its window, or drops it for EAGLE."""
    span = ceil((spec.sliding_window - 1) / spec.block_size)
    tokens = end * spec.block_size + spec.sliding_window
    return any(
        length // spec.block_size - span <= block < length // spec.block_size + eagle
        for length in allowed_lengths(tokens, alignment, interval, prompt)
    )


def windows_touch(spec, alignment, eagle, interval):
    """True if the windows of neighbouring lengths leave no block between them."""
    step = (alignment if interval is None else interval) // spec.block_size
    return step > 0 and ceil((spec.sliding_window - 1) / spec.block_size) + eagle >= step


@st.composite
def cases(draw):
    size = draw(st.sampled_from([1, 2, 4]))
    spec = window(size, draw(st.integers(1, 6 * size)))
    alignment = size * draw(st.integers(1, 6))
    interval = draw(st.none() | st.integers(0, 3).map(lambda times: times * alignment))
    prompt = draw(st.none() | st.integers(1, 40 * size))
    return spec, alignment, draw(st.booleans()), interval, prompt


@settings(max_examples=500, deadline=None)
@given(case=cases(), start=st.integers(0, 20), count=st.integers(0, 30))
def test_a_block_is_kept_if_and_only_if_an_allowed_hit_needs_it(case, start, count):
    spec, alignment, eagle, interval, prompt = case
    mask = sliding_window_mask(start, start + count, spec, alignment, eagle, interval, prompt)
    if windows_touch(spec, alignment, eagle, interval):
        assert mask is None
    else:
        assert mask.tolist() == [
            needed(block, spec, alignment, eagle, interval, prompt, start + count)
            for block in range(start, start + count)
        ]


@settings(max_examples=100, deadline=None)
@given(case=cases())
def test_no_needed_block_is_lost_where_all_are_kept(case):
    spec, alignment, eagle, interval, prompt = case
    mask = sliding_window_mask(0, 60, spec, alignment, eagle, interval, prompt)
    kept = [True] * 60 if mask is None else mask.tolist()
    needs = [needed(b, spec, alignment, eagle, interval, prompt, 60) for b in range(60)]
    assert all(kept[block] for block in range(60) if needs[block])


def test_without_an_alignment_all_blocks_are_kept():
    assert sliding_window_mask(0, 9, window(2, 2), None, False, None, 18) is None


@pytest.mark.parametrize("spec", [full(4), chunked(4, 8), mamba(4)], ids=str)
def test_other_kinds_of_attention_keep_all_blocks(spec):
    assert manager_class(spec).reachable_block_mask(0, 9, 16, spec, False, 0, 36) is None


@pytest.mark.parametrize(
    ("tokens", "size", "eagle", "blocks"),
    [(1, 8, False, 0), (2, 8, False, 1), (9, 8, False, 1), (10, 8, False, 2), (9, 8, True, 2)],
)
def test_a_window_spans_the_blocks_before_the_next_token(tokens, size, eagle, blocks):
    assert window_blocks(window(size, tokens), eagle) == blocks


@pytest.mark.parametrize(
    ("tokens", "interval", "eagle", "kept"),
    [
        (64, None, False, {3, 7}),
        (128, 64, False, {7, 11, 15}),
        (128, 0, False, {11}),
        (127, 0, True, {11, 12}),
        (128, None, True, {3, 4, 7, 8, 11, 12, 15}),
    ],
)
def test_a_hybrid_keeps_the_tails_of_allowed_hits(monkeypatch, tokens, interval, eagle, kept):
    if interval is not None:
        monkeypatch.setenv(INTERVAL, str(interval))
    manager = make_manager(full(32), window(8, 8), eagle_groups={1} if eagle else (), num_blocks=60)
    request = make_request("a", tokens, 8)
    admit(manager, request)
    assert cached_places(manager, request, 1) == kept


@pytest.mark.parametrize(
    ("interval", "kept", "replayed"), [(None, set(range(16)), 240), (64, {3, 7, 11, 14, 15}, 240), (0, {14}, 240)]
)
def test_a_pure_window_can_be_replayed_at_every_interval(monkeypatch, interval, kept, replayed):
    if interval is not None:
        monkeypatch.setenv(INTERVAL, str(interval))
    manager = make_manager(window(16, 16), num_blocks=60)
    request = make_request("a", 256, 16)
    admit(manager, request)
    assert cached_places(manager, request) == kept
    assert manager.get_computed_blocks(make_request("b", 256, 16))[1] == replayed


@pytest.mark.parametrize("interval", ["33", "-32", "16"])
def test_an_interval_that_is_no_multiple_of_the_scheduler_block_is_refused(monkeypatch, interval):
    monkeypatch.setenv(INTERVAL, interval)
    with pytest.raises(ConfigError):
        make_manager(full(32), window(8, 8))


def test_an_interval_without_a_window_is_refused(monkeypatch):
    monkeypatch.setenv(INTERVAL, "64")
    with pytest.raises(ConfigError):
        make_manager(full(32))


def test_an_interval_that_is_no_number_is_refused(monkeypatch):
    monkeypatch.setenv(INTERVAL, "dense")
    with pytest.raises(ConfigError):
        make_manager(full(32), window(8, 8))


def test_a_prompt_of_the_interval_hits_where_the_end_of_its_prompt_was_kept(monkeypatch):
    monkeypatch.setenv(INTERVAL, "0")
    manager = make_manager(full(32), window(8, 8), num_blocks=60)
    admit(manager, make_request("a", 128, 8))
    hits = [manager.get_computed_blocks(make_request("b", n, 8))[1] for n in (96, 97, 128)]
    assert hits == [0, 96, 96]
