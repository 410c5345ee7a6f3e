"""Which behaviour a vLLM needs is read off its classes; here off stand-ins for the versions from 0.23 to 0.33."""

import dataclasses
from inspect import Parameter, Signature
from itertools import pairwise
from types import SimpleNamespace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from in_vllm.oracle import why_no_vllm

from kvgpu.config.behaviour import BEHAVIOUR_0_23, BEHAVIOUR_0_33, BEHAVIOURS
from kvgpu.vllm.capabilities import behaviour_in, behaviour_of_vllm, values_of_lookup

SIGNS = (
    ("0.24", "no prepend"),
    ("0.24", "maps"),
    ("0.26", "max_in_flight_tokens"),
    ("0.27", "record_prefix_cache_stats"),
    ("0.28", "num_prefill_lookahead"),
    ("0.29", "get_none_hash_seed"),
    ("0.29", "prefix_cache_retention_interval"),
    ("0.30", "unpin_blocks"),
    ("0.31", "to_event_extra_keys"),
    ("0.31", "dcp_sharded"),
    ("0.32", "cache_hit_alignment_tokens"),
    ("0.33", "num_hash_lookahead_tokens"),
)
VERSIONS = tuple(dict.fromkeys(["0.23", *(version for version, _ in SIGNS)]))
RANGES = {"R1": ["0.23"], "R2": ["0.24"], "R3": ["0.26", "0.27", "0.28"], "R4": ["0.29", "0.30", "0.31", "0.32"]}
RANGES["R5"] = ["0.33"]


ONLY_FOR_A_TIME = {"notes_junction"}
"""Switches that are on in 0.24 and 0.25 only."""


def signs_of(version):
    return {sign for since, sign in SIGNS if VERSIONS.index(since) <= VERSIONS.index(version)}


def function(*names):
    def stand_in(*args, **options):
        raise NotImplementedError

    stand_in.__signature__ = Signature([Parameter(name, Parameter.POSITIONAL_OR_KEYWORD) for name in names])
    return stand_in


def modules_with(signs, more=()):
    """Stand-ins for the modules of a vLLM that has these signs, and more parameters of the manager."""

    def has(*names):
        return [name for name in names if name in signs]

    parameters = has("max_in_flight_tokens", "num_prefill_lookahead", "num_hash_lookahead_tokens")
    manager = {"__init__": function("self", "kv_cache_config", "max_model_len", *parameters, *more)}
    manager |= dict.fromkeys(has("record_prefix_cache_stats"), None)
    free = function("self", "ordered_blocks", *([] if "no prepend" in signs else ["prepend"]))
    of_config = has("prefix_cache_retention_interval", "cache_hit_alignment_tokens")
    return {
        "manager": SimpleNamespace(KVCacheManager=type("KVCacheManager", (), manager)),
        "pool": SimpleNamespace(
            BlockPool=type("BlockPool", (), {"free_blocks": free, **dict.fromkeys(has("unpin_blocks"), None)})
        ),
        "utils": SimpleNamespace(**dict.fromkeys(has("get_none_hash_seed", "to_event_extra_keys"), None)),
        "config": SimpleNamespace(
            KVCacheSpec=dataclasses.make_dataclass("KVCacheSpec", ["block_size", *has("dcp_sharded")]),
            KVCacheConfig=dataclasses.make_dataclass("KVCacheConfig", ["num_blocks", *of_config]),
        ),
        "events": SimpleNamespace(
            KVCacheEvent=SimpleNamespace(__struct_config__=SimpleNamespace(array_like="maps" not in signs))
        ),
    }


def switched(behaviour):
    """The fields in which a behaviour is not that of 0.23."""
    old, new = dataclasses.asdict(BEHAVIOUR_0_23), dataclasses.asdict(behaviour)
    return {name for name in new if new[name] != old[name]} - {"version", *ONLY_FOR_A_TIME}


@pytest.mark.parametrize("version", VERSIONS)
def test_a_version_is_known_by_its_signs(version):
    assert behaviour_in(modules_with(signs_of(version))).version == version


@pytest.mark.parametrize("version", BEHAVIOURS)
def test_what_was_compared_is_exactly_that(version):
    assert behaviour_in(modules_with(signs_of(version))) is BEHAVIOURS[version]


@pytest.mark.parametrize(("first", "second"), list(pairwise(VERSIONS)))
def test_what_was_switched_stays_switched(first, second):
    older, newer = (behaviour_in(modules_with(signs_of(version))) for version in (first, second))
    assert switched(older) <= switched(newer) <= switched(BEHAVIOUR_0_33)


def test_all_signs_together_switch_all_of_0_33():
    last = behaviour_in(modules_with(signs_of("0.32")))
    since_0_33 = {"clamps_to_hashes", "drops_on_request", "keeps_below_junctions", "counts_null_users"}
    assert switched(BEHAVIOUR_0_33) - switched(last) == since_0_33


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("R1", {"maps_events": False, "splits_freed_blocks": False, "reports_junction": False}),
        ("R2", {"maps_events": True, "splits_freed_blocks": True, "waits_for_steps": False, "fixes_root_hash": False}),
        ("R2", {"notes_junction": True, "thins_states": True, "configures_retention": False}),
        (
            "R3",
            {"waits_for_steps": True, "reports_junction": True, "fixes_root_hash": False, "keeps_boundaries": False},
        ),
        ("R4", {"fixes_root_hash": True, "keeps_boundaries": True, "drops_on_request": False}),
        ("R5", {"tags_extra_keys": True, "drops_on_request": True, "clamps_to_hashes": True}),
    ],
)
def test_versions_of_a_range_agree(name, says):
    for version in RANGES[name]:
        behaviour = behaviour_in(modules_with(signs_of(version)))
        assert {key: getattr(behaviour, key) for key in says} == says


@pytest.mark.parametrize(("version", "values"), [("0.23", 2), ("0.24", 2), ("0.26", 3), ("0.33", 3)])
def test_a_lookup_returns_the_junction_since_0_26(version, values):
    assert values_of_lookup(behaviour_in(modules_with(signs_of(version)))) == values


@given(st.sets(st.sampled_from([sign for _, sign in SIGNS])))
def test_signs_that_no_version_has_together_are_not_recognised(signs):
    assume(signs not in [signs_of(version) for version in VERSIONS])
    assert behaviour_in(modules_with(signs)) is None


@pytest.mark.parametrize("version", VERSIONS)
def test_a_manager_that_takes_more_is_not_recognised(version):
    assert behaviour_in(modules_with(signs_of(version), ["num_surprises"])) is None


@pytest.mark.parametrize("module", ["manager", "pool", "config", "events"])
@pytest.mark.parametrize("version", ["0.23", "0.33"])
def test_a_vllm_that_lacks_what_all_have_is_not_recognised(version, module):
    modules = modules_with(signs_of(version))
    for lacking in (SimpleNamespace(), None):
        assert behaviour_in(modules | {module: lacking}) is None


def test_the_installed_vllm_behaves_as_its_version_says():
    if reason := why_no_vllm(*VERSIONS):
        pytest.skip(reason)
    import vllm

    behaviour = behaviour_of_vllm()
    assert vllm.__version__.startswith(behaviour.version) or behaviour.version == "0.24"
