"""The soak: it finds no difference, gives every feature its share, and notices what is planted."""

import importlib.util
import random
from collections import Counter
from pathlib import Path

import pytest
from in_vllm.oracle import require_vllm

require_vllm("0.23", "0.33")

from in_vllm.soak.comparison import Difference, same
from in_vllm.soak.features import FEATURES, LAYOUTS, NAMES, draw_features
from in_vllm.soak.scenario import draw_scenario
from in_vllm.soak.sides import MODES

from kvgpu.blocks.kv_cache_blocks import KVCacheBlocks
from kvgpu.manager import KVCacheManager
from kvgpu.vllm.array_step import ArrayStep

pytestmark = pytest.mark.filterwarnings("ignore")

STEPS, LENGTH = 3000, 250
"""Request-steps of a soak, and of an episode of it."""


def load_command():
    """`run.py` of the soak; other folders have a file of this name, too."""
    path = Path(__file__).parent / "soak" / "run.py"
    spec = importlib.util.spec_from_file_location("in_vllm_soak_run", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


command = load_command()


@pytest.fixture(autouse=True)
def own_environment(monkeypatch):
    monkeypatch.delenv("KVGPU_VLLM", raising=False)
    # Without it vLLM draws the first hash at random, and warns.
    monkeypatch.setenv("PYTHONHASHSEED", "0")


@pytest.mark.parametrize("mode", MODES)
def test_no_difference(mode):
    report = command.soak(STEPS, mode=mode, length=LENGTH)
    assert report.request_steps >= STEPS
    assert not report.fallbacks
    assert not report.listed_differences
    assert (report.counts["rows from arrays"] > 0) == (mode == "arrays")
    assert report.counts["comparisons of managers"] > 0
    assert "no_caching" in report.text()
    assert report.plain()["counts"]["request-steps"] == report.request_steps


def plant_once(monkeypatch, owner, name, fault):
    """Have a method return something wrong, the first time that it can."""
    real, planted = getattr(owner, name), []

    def method(self, *args):
        result = real(self, *args)
        wrong = None if planted else fault(self, result, *args)
        if wrong is None:
            return result
        planted.append(wrong)
        return wrong

    monkeypatch.setattr(owner, name, method)
    return planted


def another_block(manager, blocks, name):
    """The block after the first one that a request holds; requests of the warm-up are let alone."""
    ids = blocks.get_block_ids()
    if not name.startswith("r") or not ids[0]:
        return None
    ids[0][0] += 1
    return KVCacheBlocks(tuple([manager.block_pool.blocks[block_id] for block_id in group] for group in ids))


def more_computed(step, nothing, output):
    """The workers are told of a token too much."""
    output.scheduled_cached_reqs.num_computed_tokens[0] += 1
    return True


@pytest.mark.parametrize(
    ("owner", "name", "fault", "where"),
    [
        (KVCacheManager, "get_blocks", another_block, "block_ids"),
        (ArrayStep, "merge_into", more_computed, "num_computed_tokens"),
    ],
)
def test_a_planted_fault_is_a_difference(owner, name, fault, where, monkeypatch):
    planted = plant_once(monkeypatch, owner, name, fault)
    with pytest.raises(command.Failed) as failed:
        command.soak(STEPS, length=LENGTH, only="full")
    assert planted
    assert isinstance(failed.value.__cause__, Difference)
    assert where in failed.value.__cause__.what


@pytest.mark.parametrize(
    ("theirs", "ours", "where"),
    [
        ([1, 2], [1, 3], "[1]"),
        ((1, 2), [1, 2], ""),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, "keys"),
        ([1, {"a": [True]}], [1, {"a": [1]}], "[1]['a'][0]"),
    ],
)
def test_what_is_a_difference(theirs, ours, where):
    with pytest.raises(Difference) as found:
        same("answer", theirs, ours)
    assert where in found.value.what
    same("answer", theirs, theirs)


def test_a_scenario_follows_from_its_seed_and_number():
    assert draw_scenario(3, 5, LENGTH) == draw_scenario(3, 5, LENGTH)
    assert draw_scenario(3, 5, LENGTH) != draw_scenario(4, 5, LENGTH)


def test_every_feature_has_its_share():
    """Episodes are of about the same length."""
    rounds = 40
    counts = Counter()
    for number in range(rounds * len(NAMES)):
        layout, features = draw_features(random.Random(number), NAMES[number % len(NAMES)])
        assert all(layout in FEATURES[name].layouts for name in features)
        counts.update([layout, *features])
    assert counts.keys() == {*LAYOUTS, *FEATURES}
    assert min(counts.values()) > 0.03 * rounds * len(NAMES)
