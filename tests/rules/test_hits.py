"""The rules of what counts as a hit, against definitions that search all lengths."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.definitions.hits import expected_hit
from support.indexes import insert, make_index, match, random_rows
from support.managers import chunked, full, mamba, window

from kvgpu.errors import ConfigError
from kvgpu.groups.registry import manager_class
from kvgpu.rules.hits import decide
from kvgpu.rules.plan import HitQuery, HitRule, PrefixPlan
from kvgpu.rules.plan_words import CHUNKED_LOCAL, FULL, MAMBA, SLIDING_WINDOW


def rule_of(spec, alignment=None, eagle=False):
    """The rule that a group of this spec uses."""
    return manager_class(spec).hit_rule(spec, spec.block_size, alignment or spec.block_size, eagle)


def decided(rule, hit, blocks, max_length):
    """(nulls, length) of one rule alone."""
    plan = PrefixPlan((HitQuery(rule, (0,)),))
    num_tokens, firsts, lengths, _ = decide(plan, lambda _, i, place: hit(i), blocks, max_length)
    assert lengths[0] * rule.block_size == num_tokens
    return firsts[0], lengths[0]


def hit_of(rule, cached, max_length=None):
    """(nulls, length) for blocks written as T (cached) and F (not)."""
    max_length = len(cached) * rule.block_size if max_length is None else max_length
    return decided(rule, lambda i: cached[i] == "T", len(cached), max_length)


def probes(rule, cached):
    """The blocks that a rule asked for, in order."""
    asked = []

    def hit(i):
        asked.append(i)
        return cached[i] == "T"

    decided(rule, hit, len(cached), len(cached) * rule.block_size)
    return asked


@st.composite
def rules(draw):
    """Rules of every kind, with parameters that can occur together."""
    kind = draw(st.sampled_from([FULL, SLIDING_WINDOW, CHUNKED_LOCAL, MAMBA]))
    size = draw(st.sampled_from([1, 2, 4]))
    if kind == CHUNKED_LOCAL:
        return HitRule(kind, size, size, False, draw(st.integers(1, 5 * size)))
    alignment = size * draw(st.sampled_from([1, 2, 3, 4]))
    drop = kind != MAMBA and draw(st.booleans())
    extent = draw(st.integers(0, 6)) if kind == SLIDING_WINDOW else 0
    return HitRule(kind, size, alignment, drop, extent)


def mostly_cached(max_size):
    return st.lists(st.sampled_from([True, True, True, True, False]), max_size=max_size)


@settings(max_examples=600, deadline=None)
@given(rule=rules(), hits=mostly_cached(16), cut=st.integers(0, 12))
def test_a_rule_finds_the_hit_of_its_definition(rule, hits, cut):
    max_length = max(len(hits) * rule.block_size - cut, 0)
    found = decided(rule, lambda i: hits[i], len(hits), max_length)
    assert found == expected_hit(hits, rule, max_length)


@pytest.mark.parametrize("blocks", range(9))
@pytest.mark.parametrize(
    "rule",
    [
        rule_of(full(2), 4, eagle=True),
        rule_of(window(2, 4)),
        rule_of(window(2, 4), 4, eagle=True),
        rule_of(window(2, 1)),
        rule_of(chunked(2, 6)),
        rule_of(mamba(2), 6, eagle=True),
    ],
    ids=str,
)
def test_every_pattern_of_few_blocks_gives_the_hit_of_the_definition(rule, blocks):
    for hits in product([False, True], repeat=blocks):
        found = decided(rule, lambda i, hits=hits: hits[i], blocks, blocks * 2)
        assert found == expected_hit(hits, rule, blocks * 2), hits


@settings(max_examples=150, deadline=None)
@given(rule=rules(), seed=st.integers(0, 10**6), length=st.integers(0, 12), groups=st.integers(1, 3))
def test_a_compiled_rule_finds_what_the_reference_finds(rule, seed, length, groups):
    indexes = make_index("reference", 1 + 3 * 12), make_index("host", 1 + 3 * 12)
    random = np.random.default_rng(seed)
    rows = random_rows(length, seed)
    kept = random.random((groups, length)) < random.choice([0.7, 0.95])
    max_length = int(random.integers(length * rule.block_size + 1))
    found = []
    for index in indexes:
        index.state.null_id = 0
        for group in range(groups):
            ids = np.where(kept[group], np.arange(length) + 1 + group * 12, -1)
            insert(index, ids, rows.reshape(-1, 4), group)
        found.append(match(index, rule, tuple(range(groups)), rows, max_length))
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("cached", "eagle", "alignment", "length"),
    [
        ("TTFT", False, 2, 2),
        ("FTTT", False, 2, 0),
        ("TTTT", True, 2, 3),
        ("F", True, 2, 0),
        ("TTTTT", False, 4, 4),
        ("TTTTT", True, 4, 4),
        ("TTTT", True, 4, 2),
        ("TTTTT", False, 8, 4),
        ("TTT", False, 8, 0),
    ],
)
def test_full_attention_hits_the_leading_run(cached, eagle, alignment, length):
    assert hit_of(rule_of(full(2), alignment, eagle), cached) == (0, length)


@pytest.mark.parametrize(
    ("cached", "hit"),
    [
        ("TF", (0, 1)),
        ("TT", (0, 2)),
        ("TTF", (0, 2)),
        ("TTT", (1, 3)),
        ("TTTF", (1, 3)),
        ("TTFTFFTTFTTT", (10, 12)),
        ("TTFTFFTTFFF", (6, 8)),
        ("TTFTFFTTFFFT", (6, 8)),
        ("FT", (0, 0)),
        ("FTT", (1, 3)),
    ],
)
def test_a_window_of_four_tokens_needs_two_blocks_of_two(cached, hit):
    assert hit_of(rule_of(window(2, 4)), cached) == hit


@pytest.mark.parametrize(("blocks", "length"), [(1, 0), (2, 0), (3, 0), (4, 0), (5, 2), (6, 2), (7, 4)])
def test_a_leading_run_shorter_than_the_window_is_aligned_twice_around_the_eagle_drop(blocks, length):
    assert hit_of(rule_of(window(16, 1000), 32, eagle=True), "T" * blocks) == (0, length)


@pytest.mark.parametrize(
    ("cached", "hit"),
    [("TTT", (1, 2)), ("TTTT", (2, 3)), ("TFTTT", (3, 4)), ("TTFT", (0, 1)), ("FTT", (1, 2)), ("FT", (0, 0))],
)
def test_eagle_asks_one_block_more_of_a_window_and_gives_it_back(cached, hit):
    assert hit_of(rule_of(window(2, 3), eagle=True), cached) == hit


@pytest.mark.parametrize(("cached", "hit"), [("TTT", (1, 2)), ("TTTT", (3, 4)), ("FTTF", (1, 2)), ("FFTF", (0, 0))])
def test_a_window_ends_at_a_multiple_of_the_alignment(cached, hit):
    assert hit_of(rule_of(window(2, 3), 4), cached) == hit


@pytest.mark.parametrize(("tokens", "eagle", "need"), [(1, 0, 0), (2, 0, 1), (4, 0, 2), (4, 1, 3)])
def test_a_window_needs_the_blocks_that_the_next_token_sees(tokens, eagle, need):
    assert rule_of(window(2, tokens), eagle=bool(eagle)).extent + eagle == need


@pytest.mark.parametrize(
    ("cached", "max_length", "hit"),
    [
        ("TF", 4, (2, 2)),
        ("TTF", 6, (2, 2)),
        ("TTTF", 8, (4, 4)),
        ("FFT", 6, (2, 3)),
        ("FFF", 6, (2, 2)),
        ("TTTT", 7, (2, 3)),
    ],
)
def test_chunks_before_the_current_one_count_without_being_cached(cached, max_length, hit):
    assert hit_of(rule_of(chunked(2, 4)), cached, max_length) == hit


@pytest.mark.parametrize(("alignment", "eagle"), [(2, True), (4, False)])
def test_chunked_attention_refuses_eagle_and_other_alignments(alignment, eagle):
    with pytest.raises(ConfigError):
        rule_of(chunked(2, 4), alignment, eagle)


@pytest.mark.parametrize(
    ("cached", "alignment", "hit"),
    [
        ("TTT", 2, (2, 3)),
        ("FTF", 2, (1, 2)),
        ("TFF", 4, (0, 0)),
        ("TTT", 4, (1, 2)),
        ("TTTT", 6, (2, 3)),
        ("FFF", 2, (0, 0)),
    ],
)
@pytest.mark.parametrize("eagle", [False, True])
def test_a_state_stands_for_all_before_it_with_and_without_eagle(cached, alignment, hit, eagle):
    assert hit_of(rule_of(mamba(2), alignment, eagle), cached) == hit


@pytest.mark.parametrize("spec", [full(4), window(4, 8), chunked(4, 8), mamba(4)], ids=str)
@pytest.mark.parametrize("tokens", range(4))
def test_less_than_a_block_is_never_a_hit(spec, tokens):
    assert hit_of(rule_of(spec), "", tokens) == (0, 0)


@pytest.mark.parametrize("hits", range(6))
@pytest.mark.parametrize("eagle", [False, True])
def test_full_attention_looks_up_its_hits_and_the_first_miss(hits, eagle):
    asked = probes(rule_of(full(2), 4, eagle), "T" * hits + "F" + "T" * 5)
    assert asked == list(range(hits + 1))


@pytest.mark.parametrize(
    ("spec", "cached", "asked"),
    [
        (full(2), "TTT", [0, 1, 2]),
        (window(2, 4), "TTTTTTT", [6, 5]),
        (window(2, 4), "TTTTFTF", [6, 5, 4, 3, 2]),
        (window(2, 2), "FFFT", [3]),
        (chunked(2, 8), "FFFFFTFT", []),
        (chunked(2, 6), "FFFFFFTF", [6, 7]),
        (mamba(2), "TTTTT", [4]),
        (mamba(2), "TTTFF", [4, 3, 2]),
    ],
)
def test_a_rule_stops_when_the_answer_is_known(spec, cached, asked):
    assert probes(rule_of(spec), cached) == asked


def test_a_state_that_is_not_aligned_is_not_looked_up():
    assert probes(rule_of(mamba(2), 6), "FFFFFFFF") == [5, 2]
