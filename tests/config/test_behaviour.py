"""Behaviours by name."""

import dataclasses

import pytest

from kvgpu.config.behaviour import BEHAVIOUR_0_23, BEHAVIOUR_0_33, BEHAVIOURS, behaviour_of
from kvgpu.errors import ArgumentTypeError, UnknownNameError


def test_a_behaviour_is_found_by_its_version_and_is_its_own_name():
    assert behaviour_of("0.23") is BEHAVIOUR_0_23
    assert behaviour_of("0.33") is BEHAVIOUR_0_33
    for each in BEHAVIOURS.values():
        assert behaviour_of(each) is each


def test_one_switch_can_be_set_apart():
    mixed = dataclasses.replace(BEHAVIOUR_0_23, splits_freed_blocks=True)
    assert behaviour_of(mixed) is mixed


def test_every_switch_tells_the_versions_apart():
    for each in dataclasses.fields(BEHAVIOUR_0_23):
        assert len({getattr(behaviour, each.name) for behaviour in BEHAVIOURS.values()}) > 1, each.name
    assert len(set(BEHAVIOURS.values())) == len(BEHAVIOURS)


def test_an_unknown_version_is_refused_with_the_known_ones():
    with pytest.raises(UnknownNameError, match=r"unknown behaviour '0\.9'; known: 0\.23, 0\.24, 0\.32, 0\.33"):
        behaviour_of("0.9")


@pytest.mark.parametrize("odd", [None, 0.33, 33, ("0.33",)])
def test_something_else_is_refused(odd):
    with pytest.raises(ArgumentTypeError, match="a version of vLLM"):
        behaviour_of(odd)
