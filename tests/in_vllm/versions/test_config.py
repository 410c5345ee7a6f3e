"""vLLM's configurations as kvgpu's, and what is refused by name, in every version that has it."""

import dataclasses

import pytest
from in_vllm.oracle import require_vllm

require_vllm("0.23", "0.33")

import torch
from in_vllm import engines
from in_vllm.engines import HEADS, SIZE, full, window
from vllm.v1 import kv_cache_interface as interface
from vllm.v1.core import kv_cache_utils
from vllm.v1.core import single_type_kv_cache_manager as groups
from vllm.v1.core.kv_cache_manager import KVCacheManager as ManagerOfVllm

from kvgpu.config import specs
from kvgpu.config.block_sizes import ends_inside_blocks
from kvgpu.config.kv_cache_config import KVCacheConfig
from kvgpu.errors import ConfigError
from kvgpu.manager import KVCacheManager
from kvgpu.vllm import manager as manager_module
from kvgpu.vllm.capabilities import behaviour_of_vllm
from kvgpu.vllm.config import config_of, spec_of
from kvgpu.vllm.manager import make_manager, own_arguments, show_specs_of_vllm

pytestmark = pytest.mark.filterwarnings("ignore")
FULL = {"block_size": SIZE, **HEADS}
SHAPES = {"block_size": SIZE, "shapes": ((1,),), "dtypes": (torch.float32,)}
SERVED = {
    "FullAttentionSpec": FULL,
    "TQFullAttentionSpec": FULL,
    "MLAAttentionSpec": FULL,
    "SlidingWindowSpec": {**FULL, "sliding_window": 64},
    "SlidingWindowMLASpec": {**FULL, "sliding_window": 64},
    "ChunkedLocalAttentionSpec": {**FULL, "attention_chunk_size": 64},
    "CrossAttentionSpec": FULL,
    "SinkFullAttentionSpec": {**FULL, "sink_len": SIZE},
    "MambaSpec": SHAPES,
}
REFUSED = {
    "RSWASpec": ({**FULL, "rswa_window": 64}, "between the prompt and a window"),
    "CircularBufferSpec": (FULL, "one block of it"),
    "HiSparseHotSpec": ({"block_size": SIZE, "page_size": 8, "blocks_per_request": 1}, "HiSparse"),
    "HiSparseResidentSpec": ({"block_size": SIZE, "page_size": 8}, "HiSparse"),
    "KpoolTailSpec": ({**FULL, "sliding_window": 1}, "one block of it"),
}


def of_vllm(name, fields):
    """A spec of vLLM; the test is skipped in a version without it."""
    kind = getattr(interface, name, None)
    if kind is None:
        pytest.skip(f"this version has no {name}")
    engines.config_of()
    return kind(**fields)


def mamba(**fields):
    return of_vllm("MambaSpec", {**SHAPES, **fields})


class TestServed:
    @pytest.mark.parametrize("name", SERVED)
    def test_a_spec_becomes_the_one_of_the_same_name(self, name):
        theirs = of_vllm(name, SERVED[name])
        ours = spec_of(theirs)
        assert type(ours) is getattr(specs, name)
        # Of values without a size of their own, kvgpu fills in the one of keys.
        for field in dataclasses.fields(ours):
            if field.name not in ("origin", "head_size_v"):
                assert getattr(ours, field.name) == getattr(theirs, field.name, field.default)

    @pytest.mark.parametrize(
        "changed", [{"tokens_per_state": 4}, {"non_causal": True}, {"num_head_slots": 2}, {"head_size": 2}]
    )
    def test_specs_that_differ_in_vllm_differ_here(self, changed):
        if not changed.keys() <= {each.name for each in dataclasses.fields(interface.FullAttentionSpec)}:
            pytest.skip("this version has no such field")
        assert spec_of(full()) != spec_of(dataclasses.replace(full(), **changed))
        assert spec_of(full()) == spec_of(full())

    def test_layers_of_a_group_are_converted_one_by_one(self):
        theirs = interface.UniformTypeKVCacheSpecs(block_size=SIZE, kv_cache_specs={"a": full(), "b": full()})
        ours = spec_of(theirs)
        assert type(ours) is specs.UniformTypeKVCacheSpecs
        assert {type(each) for each in ours.kv_cache_specs.values()} == {specs.FullAttentionSpec}

    def test_quantisation_is_a_plain_number(self):
        mode = list(interface.KVQuantMode)[-1]
        ours = spec_of(dataclasses.replace(full(), kv_quant_mode=mode))
        assert type(ours.kv_quant_mode) is int
        assert ours.kv_quant_mode == mode

    @pytest.mark.parametrize(
        ("kind", "name", "value"),
        [
            ("FullAttentionSpec", "dcp_sharded", False),
            ("SlidingWindowSpec", "extra_retained_tokens", 5),
            ("SlidingWindowMLASpec", "bounded_replay", True),
        ],
    )
    def test_fields_of_later_versions_are_copied(self, kind, name, value):
        if name not in {each.name for each in dataclasses.fields(getattr(interface, kind))}:
            pytest.skip(f"this version has no {name}")
        assert getattr(spec_of(of_vllm(kind, {**SERVED[kind], name: value})), name) == value

    def test_groups_and_blocks_are_copied(self):
        theirs = engines.config_of(full(), window(), num_blocks=77)
        theirs.kv_cache_groups[1].is_eagle_group = True
        ours = config_of(theirs)
        assert type(ours) is KVCacheConfig
        assert ours.num_blocks == 77
        assert [group.is_eagle_group for group in ours.kv_cache_groups] == [False, True]
        assert [group.layer_names for group in ours.kv_cache_groups] == [["layer0"], ["layer1"]]

    def test_retention_comes_with_the_configuration(self):
        theirs = engines.config_of(window())
        if not hasattr(theirs, "prefix_cache_retention_interval"):
            pytest.skip("this version reads it from the environment")
        theirs.prefix_cache_retention_interval = 0
        assert config_of(theirs).prefix_cache_retention_interval == 0


class TestRefused:
    @pytest.mark.parametrize("name", REFUSED)
    def test_a_spec_is_refused_by_name(self, name):
        fields, why = REFUSED[name]
        theirs = of_vllm(name, fields)
        with pytest.raises(ConfigError, match=f"{name}: .*{why}"):
            spec_of(theirs)
        with pytest.raises(ConfigError, match=name):
            config_of(engines.config_of(full(), theirs))

    def test_a_subclass_from_elsewhere_is_not_taken_for_its_base_if_that_is_refused(self):
        base = getattr(interface, "RSWASpec", None)
        if base is None:
            pytest.skip("this version has no RSWASpec")

        @dataclasses.dataclass(frozen=True, kw_only=True)
        class OwnSpec(base):
            pass

        with pytest.raises(ConfigError, match="RSWASpec"):
            spec_of(OwnSpec(**REFUSED["RSWASpec"][0]))

    @pytest.mark.parametrize("field", [{"host_resident": True}, {"role": "hisparse_source"}])
    def test_a_group_in_the_memory_of_the_host_is_refused(self, field):
        theirs = engines.config_of(full())
        (group,) = theirs.kv_cache_groups
        (name, value) = next(iter(field.items()))
        if not hasattr(group, name):
            pytest.skip(f"this version has no {name}")
        setattr(group, name, interface.KVCacheGroupRole(value) if name == "role" else value)
        with pytest.raises(ConfigError, match=r"group of layer0: .*HiSparse"):
            config_of(theirs)

    @pytest.mark.parametrize(
        ("others", "state", "ranks", "caching", "inside"),
        [
            ([full()], {"mamba_cache_mode": "align", "block_size": 2 * SIZE}, 1, True, True),
            ([full()], {"mamba_cache_mode": "align", "block_size": SIZE}, 1, True, False),
            ([full()], {"mamba_cache_mode": "align", "block_size": SIZE}, 2, True, True),
            ([full()], {"mamba_cache_mode": "none", "block_size": 2 * SIZE}, 1, True, False),
            ([full()], {"mamba_cache_mode": "align", "block_size": 2 * SIZE}, 1, False, False),
            ([full(), window(SIZE)], {"mamba_cache_mode": "align", "block_size": 2 * SIZE}, 1, True, True),
            ([full(), window(2 * SIZE)], {"mamba_cache_mode": "align", "block_size": 2 * SIZE}, 1, True, False),
        ],
    )
    def test_hits_end_inside_blocks_where_they_do_in_vllm(self, others, state, ranks, caching, inside):
        theirs = engines.config_of(*others, mamba(**state))
        groups_of_ours = config_of(theirs).kv_cache_groups
        assert (caching and ends_inside_blocks(groups_of_ours, SIZE, ranks)) is inside
        if caching and hasattr(kv_cache_utils, "partial_hash_hits_enabled"):
            kinds = [type(each).__name__ for each in others]
            managers = [getattr(groups, name.replace("Spec", "Manager")) for name in (*kinds, "MambaSpec")]
            expected = kv_cache_utils.partial_hash_hits_enabled(theirs.kv_cache_groups, SIZE, ranks, managers)
            assert expected is inside

    def test_vllm_serves_what_is_refused(self, caplog, monkeypatch):
        monkeypatch.delenv("KVGPU_VLLM", raising=False)
        monkeypatch.setattr(manager_module, "made", type(manager_module.made)())
        if behaviour_of_vllm().version == "0.23":
            pytest.skip("this version has nothing that is refused by name")
        theirs = engines.config_of(of_vllm("RSWASpec", REFUSED["RSWASpec"][0]))
        manager = make_manager(theirs, max_model_len=99, scheduler_block_size=SIZE, hash_block_size=SIZE)
        assert type(manager) is ManagerOfVllm
        ((reason, count),) = manager_module.made.items()
        assert count == 1
        assert "RSWASpec" in reason
        (message,) = caplog.messages
        assert message.endswith(reason.removeprefix("vllm: "))


class TestArguments:
    def test_they_go_by_name_with_the_behaviour(self):
        config = config_of(engines.config_of(full()))
        given = own_arguments(config, 99, SIZE, SIZE, 77, log_stats=True)
        behaviour = behaviour_of_vllm()
        most = "max_in_flight_tokens" if behaviour.waits_for_steps else "max_num_batched_tokens"
        expected = {"kv_cache_config": config, "max_model_len": 99, most: 77, "log_stats": True}
        expected |= {"scheduler_block_size": SIZE, "hash_block_size": SIZE}
        assert given == expected | ({} if behaviour.version == "0.23" else {"behaviour": behaviour})

    def test_groups_name_specs_of_vllm_to_an_engine_that_looks(self):
        theirs = engines.config_of(full(), window())
        manager = KVCacheManager(config_of(theirs), 99, SIZE, SIZE)
        show_specs_of_vllm(manager)
        groups_of_vllm = [group.kv_cache_spec for group in theirs.kv_cache_groups]
        assert [group.kv_cache_spec for group in manager.coordinator.single_type_managers] == groups_of_vllm


def test_this_vllm_is_one_of_those():
    assert behaviour_of_vllm().version in ("0.23", "0.33")
