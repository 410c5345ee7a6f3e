"""The differential test: it runs beside vLLM where there is one, agrees with itself, and can fail."""

import logging
from collections import Counter
from functools import partial
from importlib import metadata
from types import SimpleNamespace
from typing import Any

import pytest
from comparison import Difference
from episode import run_episode
from support.device.packages import needs
from systems import RETENTION, SEED, kvgpu_modules, vllm_modules

from kvgpu.hashing import functions as hashing
from kvgpu.manager import KVCacheManager

ORACLE = "0.23.0"
ACTIONS = 150
MANY = 20_000
"""More calls than any planted difference needs to be found."""


@pytest.fixture(autouse=True)
def own_environment(monkeypatch):
    """Episodes set the seed of hashes, read retention and warn of refused resets."""
    monkeypatch.setenv(SEED, "0")
    monkeypatch.setenv(RETENTION, "")
    monkeypatch.setattr(hashing, "NONE_HASH", b"", raising=False)
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


def with_manager(dtype: Any = None, **changes: Any) -> dict[str, Any]:
    """kvgpu's modules, with a manager that is made by a function of our own."""
    make = partial(changes.pop("make", KVCacheManager), **changes)
    return {**kvgpu_modules(dtype, "0.23"), "manager": SimpleNamespace(KVCacheManager=make)}


def num_calls(counts: Counter[str]) -> int:
    """Calls that were compared."""
    return sum(n for name, n in counts.items() if not name.startswith(("refused", "ended")))


def compare(ours: dict[str, Any], oracle: dict[str, Any], calls: int, seed: int = 0) -> Counter[str]:
    """Run episodes until so many calls were compared; returns the calls by name."""
    counts: Counter[str] = Counter()
    while num_calls(counts) < calls:
        run_episode(seed, ours, oracle, counts, ACTIONS)
        seed += 1
    return counts


def why_no_oracle() -> str:
    """Why nothing can be compared with vLLM here; empty if it can."""
    try:
        found = metadata.version("vllm")
    except metadata.PackageNotFoundError:
        try:
            import vllm
        except ImportError:
            return f"vLLM {ORACLE} is not installed: nothing was compared with it"
        found = vllm.__version__
    return "" if found.startswith(ORACLE) else f"vLLM {ORACLE} is the oracle, this is {found}"


@pytest.mark.filterwarnings("ignore")
def test_kvgpu_agrees_with_vllm():
    reason = why_no_oracle()
    if reason:
        pytest.skip(reason)
    import torch

    counts = compare(kvgpu_modules(torch.float32, "0.23"), vllm_modules(torch.float32), 400, seed=7000)
    assert counts["allocate_slots"] > 40


def test_the_backends_agree():
    counts = compare(with_manager(backend="host"), with_manager(backend="reference"), 3000)
    for name in ("construct", "create", "get_computed_blocks", "allocate_slots", "free", "append"):
        assert counts[name] >= 10


# Differences that are planted, each into one of the two


def forget_to_reverse(manager):
    """A freed request gives back its first block first."""
    pool = manager.block_pool
    release = pool.allocator.give_back
    pool.allocator.give_back = lambda ids, prepend=False, backwards=False: release(ids, prepend)


def hit_one_block_less(manager):
    """Lookups leave a block to compute that they need not."""
    coordinator = manager.coordinator
    find, less = coordinator.find_hits, coordinator.scheduler_block_size
    coordinator.find_hits = lambda hashes, length: find(hashes, max(length - less, 0))


def ignore_drafts(manager):
    """Draft tokens get no slots."""
    allocate = manager.allocate_slots

    def careless(*args, num_lookahead_tokens=0, **kwargs):
        return allocate(*args, **kwargs)

    manager.allocate_slots = careless


def lose_an_event(manager):
    """The last event of every drain is dropped."""
    take = manager.take_events
    manager.take_events = lambda: take()[:-1]


def count_no_preemptions(manager):
    """Preempted requests are counted among the others."""
    make = manager.make_prefix_cache_stats

    def merged():
        stats = make()
        stats.requests += stats.preempted_requests
        stats.preempted_requests = 0
        return stats

    manager.make_prefix_cache_stats = merged


def evict_nothing(manager):
    """Blocks that could not be loaded stay findable."""
    manager.block_pool.evict_blocks = lambda block_ids: None


def make_with(plant, *args, **kwargs):
    """A manager with a difference."""
    manager = KVCacheManager(*args, **kwargs)
    plant(manager)
    return manager


@pytest.mark.parametrize(
    ("plant", "words"),
    [
        (forget_to_reverse, "free: ours"),
        (hit_one_block_less, "get_computed_blocks: ours"),
        (ignore_drafts, "allocate_slots: ours"),
        pytest.param(lose_an_event, "take_events: ours", marks=needs("msgspec")),
        (count_no_preemptions, "make_prefix_cache_stats: ours"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_planted_difference_is_found(plant, words):
    with pytest.raises(Difference, match=words):
        compare(with_manager(make=partial(make_with, plant)), with_manager(), MANY)


def test_a_difference_tells_configuration_and_calls():
    with pytest.raises(Difference) as found:
        compare(with_manager(make=partial(make_with, evict_nothing)), with_manager(), MANY)
    for words in ("seed ", "Config(groups=", "evict_blocks(None"):
        assert words in str(found.value)


def refuse(*args, **kwargs):
    raise RuntimeError("planted")


def test_an_error_of_ours_alone_is_a_difference():
    with pytest.raises(Difference) as found:
        compare(with_manager(make=refuse), with_manager(), MANY)
    assert str(found.value.__cause__) == "planted"


def test_an_error_of_the_oracle_alone_is_a_difference():
    with pytest.raises(Difference, match="the oracle raised RuntimeError"):
        compare(with_manager(), with_manager(make=refuse), MANY)
