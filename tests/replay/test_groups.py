"""Cache groups by name."""

import pytest

from kvgpu.config.specs import (
    ChunkedLocalAttentionSpec,
    FullAttentionSpec,
    MambaSpec,
    MLAAttentionSpec,
    SlidingWindowSpec,
)
from kvgpu.errors import ConfigError, UnknownNameError
from kvgpu.replay.group_names import GROUPS, block_sizes_of, parse_groups


def specs(text, block_size=16):
    return [g.kv_cache_spec for g in parse_groups(text, block_size, 10).kv_cache_groups]


@pytest.mark.parametrize(
    ("text", "kind", "fields"),
    [
        ("full", FullAttentionSpec, {}),
        ("mla", MLAAttentionSpec, {}),
        ("swa:1024", SlidingWindowSpec, {"sliding_window": 1024}),
        ("chunked:64", ChunkedLocalAttentionSpec, {"attention_chunk_size": 64}),
        ("mamba", MambaSpec, {"mamba_cache_mode": "all"}),
        ("mamba:align", MambaSpec, {"mamba_cache_mode": "align"}),
        ("mamba:none", MambaSpec, {"mamba_cache_mode": "none"}),
        ("full@64", FullAttentionSpec, {"block_size": 64}),
        ("swa:8@4", SlidingWindowSpec, {"sliding_window": 8, "block_size": 4}),
    ],
)
def test_a_name_is_a_kind_of_group_with_its_argument(text, kind, fields):
    (spec,) = specs(text)
    assert type(spec) is kind
    expected = {"block_size": 16} | fields
    assert {name: getattr(spec, name) for name in expected} == expected


def test_names_are_joined_by_plus_in_their_order():
    found = [type(spec) for spec in specs("full+swa:32+swa:32 + mamba")]
    assert found == [FullAttentionSpec, SlidingWindowSpec, SlidingWindowSpec, MambaSpec]


def test_every_group_has_a_layer_of_its_own():
    groups = parse_groups("full+swa:32+swa:32", 16, 10).kv_cache_groups
    assert len({group.layer_names[0] for group in groups}) == 3


def test_the_pool_has_the_blocks_that_were_asked_for():
    assert parse_groups("full", 16, 77).num_blocks == 77


def test_an_unknown_name_is_an_error_that_lists_the_known():
    with pytest.raises(UnknownNameError, match=r"'moon'.*chunked, full, mamba, mla, swa"):
        specs("full+moon")


def test_the_names_are_those_of_the_help():
    assert sorted(GROUPS) == ["chunked", "full", "mamba", "mla", "swa"]


@pytest.mark.parametrize(
    "text",
    [
        "swa",
        "swa:",
        "swa:0",
        "swa:-8",
        "swa:many",
        "swa:1.5",
        "swa:\N{SUPERSCRIPT TWO}",
        "chunked",
        "chunked:0",
        "full@0",
        "full@many",
        "mamba:sometimes",
        "full:1024",
        "mla:1024",
    ],
)
def test_a_missing_or_wrong_argument_is_a_config_error(text):
    with pytest.raises(ConfigError):
        specs(text)


@pytest.mark.parametrize("text", ["", "+", "full+", "+full", "full++full"])
def test_an_empty_name_is_unknown(text):
    with pytest.raises(UnknownNameError):
        specs(text)


@pytest.mark.parametrize(
    ("text", "expected"), [("full", (16, 16)), ("full@32+swa:64", (32, 16)), ("full@24+swa:64@16", (48, 8))]
)
def test_hits_are_multiples_of_all_block_sizes_and_hashes_divide_them(text, expected):
    assert block_sizes_of(parse_groups(text, 16, 10)) == expected
