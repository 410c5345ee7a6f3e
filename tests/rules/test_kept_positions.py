"""Behaviour 0.33: which blocks of windows and which states stay cached."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.managers import full, mamba, window

from kvgpu.groups.registry import manager_class
from kvgpu.rules.plan import HitQuery, HitRule, PrefixPlan
from kvgpu.rules.plan_words import FULL, MAMBA, PLAN_NUM_CUT, PLAN_REACH, SLIDING_WINDOW
from kvgpu.rules.retention import (
    DROP,
    DROP_BELOW,
    NO_DROP,
    RESEND,
    RESEND_OR_LONGER,
    mask_rule,
    positions_of,
    state_mask_rule,
    state_to_keep,
)


def kept(spec, end, alignment, eagle, interval, positions, **options):
    """The blocks of [0, end) that stay cached, or None for all."""
    mask = manager_class(spec).reachable_block_mask(
        0, end, alignment, spec, eagle, interval, reachable_boundaries=positions, **options
    )
    return None if mask is None else {block for block, keeps in enumerate(mask) if keeps}


@pytest.mark.parametrize(
    ("eagle", "interval", "positions", "expected"),
    [
        (False, None, (127,), {3, 7, 11, 15}),
        (True, None, (127,), {3, 4, 7, 8, 11, 12, 15}),
        (False, 0, (127,), {11}),
        (True, 0, (64,), {7, 8}),
        (False, 64, (127,), {7, 11, 15}),
        (True, 0, (96, 70, 62), {3, 4, 7, 8, 11, 12}),
    ],
)
def test_windows(eagle, interval, positions, expected):
    assert kept(window(8, 8), 16, 32, eagle, interval, positions) == expected


def test_the_end_of_an_incomplete_segment_is_kept_if_asked_for():
    assert kept(window(8, 8), 13, 32, False, None, (), final_segment_end_block=13) == {3, 7, 11, 12}


@pytest.mark.parametrize(
    ("interval", "end", "positions", "expected"),
    [(0, 5, (86, 48), {2, 4}), (64, 12, (191,), {3, 7, 10, 11}), (16, 12, (191,), None), (None, 12, (191,), None)],
)
def test_states(interval, end, positions, expected):
    assert kept(mamba(16, "align"), end, 16, False, interval, positions) == expected


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_ranks_share_blocks_of_attention_and_no_states(ranks):
    assert kept(mamba(16, "align"), 16, 64, False, 64, (255,), dcp_world_size=ranks) == {3, 7, 11, 15}
    assert kept(window(8, 8), 16 // ranks, 32, False, None, (), dcp_world_size=ranks) == (
        {3, 7, 11, 15} if ranks == 1 else {1, 3, 5, 7} if ranks == 2 else None
    )


def test_full_attention_keeps_all():
    assert kept(full(8), 16, 32, False, 0, (127,)) is None


@pytest.mark.parametrize(
    ("prompt", "expected"), [(127, {64}), (128, {64, 96}), (129, {96}), (32, {0}), (31, {0}), (None, set())]
)
def test_a_drafter_resumes_a_block_before_the_end(prompt, expected):
    rule = mask_rule(window(8, 8), 32, True, 0, RESEND_OR_LONGER)
    assert {position for position in positions_of(rule, prompt) if position >= 0} == expected


@settings(max_examples=200, deadline=None)
@given(
    prompt=st.integers(1, 500),
    junction=st.integers(0, 500),
    eagle=st.sampled_from([NO_DROP, DROP, DROP_BELOW]),
    step=st.sampled_from([16, 32, 64]),
)
def test_positions_are_those_of_the_prompt_and_of_the_junction(prompt, junction, eagle, step):
    rule = state_mask_rule(16, step, eagle, 0, RESEND_OR_LONGER if eagle else RESEND)
    expected = {prompt - 1}
    if eagle:
        expected = {max((prompt - 1) // step * step - step, 0), max(prompt // step * step - step, 0)}
    if junction:
        expected |= {junction, junction - 16} if eagle == DROP_BELOW else {junction}
    found = set(positions_of(rule, prompt, junction))
    assert {position for position in found if position >= 0} == {position for position in expected if position >= 0}


def test_a_plan_that_looks_beyond_says_how_far():
    queries = (
        HitQuery(HitRule(FULL, 16, 32, True), (0,)),
        HitQuery(HitRule(SLIDING_WINDOW, 32, 32, True, 1), (1,), 2),
        HitQuery(HitRule(MAMBA, 32, 32, True), (2,), 2),
    )
    plan = PrefixPlan(queries, looks_beyond=True)
    assert plan.reach == plan.words[PLAN_REACH] == 32
    assert plan.words[PLAN_NUM_CUT] == 1
    assert PrefixPlan(queries).reach == 0
    assert PrefixPlan(queries[2:], looks_beyond=True).reach == 0


@pytest.mark.parametrize(
    ("prompt", "drops", "lookahead", "position"),
    [
        (128, False, 0, 96),
        (129, False, 0, 128),
        (128, True, 0, 96),
        (129, True, 0, 96),
        (128, False, 1, 96),
        (129, False, 1, 128),
        (130, False, 3, 96),
        (132, False, 3, 128),
        (1, True, 0, 0),
    ],
)
def test_the_last_state_of_a_prompt_that_can_be_hit(prompt, drops, lookahead, position):
    assert state_to_keep(prompt, 32, drops, lookahead) == position
