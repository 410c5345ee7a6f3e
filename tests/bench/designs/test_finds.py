"""Designs of the plain lookup, on random tables beside a dict: as compiled for a GPU, and in Triton's interpreter."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
from support.benchmarks import bench_module
from support.device.tables import COMPILED, DEVICE, make_table, poisoned, to_device, torch
from support.ptx import cuda_driver
from support.slot_hashes import mixed, signed

TABLES = 200 if COMPILED else 4
"""The interpreter takes a hundred times as long."""
COUNTS = (1, 2, 31, 33, 64, 77, 129, 600)

cooperative = bench_module("on_gpu.designs.cooperative")
finds = bench_module("on_gpu.designs.finds")
persistent_lanes = bench_module("on_gpu.designs.persistent_lanes")


class RandomTable:
    """A table of keys in several groups, at a load from low to one at which most buckets have overflowed."""

    def __init__(self, seed):
        self.rng = rng = np.random.default_rng(seed)
        self.key_bytes, load = int(rng.choice([16, 32])), float(rng.choice([0.3, 0.5, 0.9]))
        entries = int(rng.choice([1, 7, 63, 250]))
        # Fewer keys than entries: a key is in several groups.
        self.keys = rng.integers(-(2**63), 2**63 - 1, (max(1, entries // 2), self.key_bytes // 8))
        pairs = [(key, group) for key in range(len(self.keys)) for group in (0, 1, 7)]
        chosen = [pairs[i] for i in rng.permutation(len(pairs))[:entries]]
        blocks = rng.permutation(len(chosen))
        self.ids = {pair: int(block) for pair, block in zip(chosen, blocks, strict=True)}
        self.table = make_table(len(chosen), self.key_bytes, load_factor=load)
        places, groups = np.array(chosen).T
        self.table.update(self.keys[places], blocks.astype(np.int32), groups.astype(np.int32))
        assert self.table.size() == len(chosen)

    def lookup(self, count, one_group):
        """Keys, groups and ids that are right; from no hit to hits only."""
        rng = self.rng
        present = list(self.ids)
        pairs = [present[i] for i in rng.integers(0, len(present), count)]
        if one_group:
            pairs = [(key, pairs[0][1]) for key, _ in pairs]
        keys = self.keys[[key for key, _ in pairs]]
        other = rng.random(count) < rng.choice([0.0, 0.5, 1.0])
        # Half of the others differ in one bit of one word only.
        near = keys.copy()
        near[np.arange(count), rng.integers(0, keys.shape[1], count)] ^= 1 << rng.integers(0, 63, count)
        far = rng.integers(-(2**63), 2**63 - 1, keys.shape)
        keys = np.where(other[:, None], np.where(rng.random((count, 1)) < 0.5, near, far), keys)
        expected = [-1 if missing else self.ids.get(pair, -1) for pair, missing in zip(pairs, other, strict=True)]
        groups = [group for _, group in pairs][: 1 if one_group else count]
        return to_device(keys), to_device(groups, torch.int32), expected


@pytest.fixture(scope="module", autouse=True)
def cupy_of_the_cpu():
    """Kernels in CUDA run as nvcc compiles them, in every mode: their lanes exchange what they have read."""
    if DEVICE.type != "cpu" or cuda_driver.NVCC is None:
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "cupy", cuda_driver.stand_in())
        patch.setattr(torch.cuda, "current_stream", lambda: SimpleNamespace(cuda_stream=0))
        yield
    cooperative._module.cache_clear()


@pytest.fixture(autouse=True)
def small_grids(monkeypatch):
    """Persistent grids on a GPU of one processor, so that threads have several keys, if not told otherwise."""
    for module, blocks in ((cooperative, "BLOCKS"), (persistent_lanes, "PROGRAMS")):
        monkeypatch.setattr(module, blocks, 1)
        monkeypatch.setattr(module, "processors", lambda: 1)


def case_of(engine, design):
    missing = engine == "cuda" and DEVICE.type == "cpu" and cuda_driver.NVCC is None
    skip = [pytest.mark.skip(reason="nvcc is not installed: designs in CUDA were not run")] if missing else []
    return pytest.param(design, id=f"{design.name}, {engine}", marks=skip)


every_design = pytest.mark.parametrize(
    "design", [case_of(engine, design) for engine, designs in finds.DESIGNS.items() for design in designs]
)


def answers(design, view, keys, groups):
    out = poisoned(len(keys))
    design.launch(view, keys, groups, out)
    return out.tolist()


@every_design
def test_a_design_finds_what_a_dict_finds(design):
    hits = misses = 0
    for seed in range(TABLES):
        case = RandomTable(seed)
        view = finds.in_one_piece(case.table.view)[0] if design.in_window else case.table.view
        for count in case.rng.choice(COUNTS, 2):
            keys, groups, expected = case.lookup(int(count), one_group=bool(case.rng.integers(2)))
            assert answers(design, view, keys, groups) == expected, (seed, count)
            hits += sum(block >= 0 for block in expected)
            misses += sum(block < 0 for block in expected)
    assert hits > TABLES
    assert misses > TABLES


@every_design
@pytest.mark.parametrize("key_bytes", [16, 32])
@pytest.mark.parametrize("is_cached", [True, False])
def test_equal_tags_are_told_apart_by_every_word_and_the_group(design, key_bytes, is_cached):
    """A bucket whose entries all have the tag of one key, and keys that differ from it in one bit, or in the group."""
    rng = np.random.default_rng(key_bytes)
    key, group = rng.integers(-(2**63), 2**63 - 1, key_bytes // 8), 3
    keys, groups = np.tile(key, (key_bytes // 8 + 2, 1)), np.full(key_bytes // 8 + 2, group, np.int32)
    for word in range(key_bytes // 8):
        keys[word, word] ^= 1 << int(rng.integers(0, 63))
    groups[-2] += 1  # the last one is the key itself
    count = len(keys) if is_cached else len(keys) - 1
    table = make_table(6, key_bytes, load_factor=0.9)
    blocks = rng.permutation(6)[:count].astype(np.int32)
    table.update(keys[:count], blocks, groups[:count])
    view = table.view
    h = mixed(view.seed, [*key.tolist(), 0, 0], group)
    bucket, words = (
        (h >> 32) * view.num_buckets >> 32,
        [signed(h % 2**32 << 32 | block + 1) for block in blocks.tolist()],
    )
    view.words.zero_()
    view.words[bucket, rng.permutation(7)[:count]] = to_device(words)
    asked = np.tile(key, (35, 1))
    asked[::3] = rng.integers(-(2**63), 2**63 - 1, asked[::3].shape)
    block = int(blocks[-1]) if is_cached else -1
    expected = [-1 if i % 3 == 0 else block for i in range(len(asked))]
    view = finds.in_one_piece(view)[0] if design.in_window else view
    assert answers(design, view, to_device(asked), to_device([group], torch.int32)) == expected


@every_design
def test_a_table_whose_counters_are_all_full_is_read_to_its_end(design):
    case = RandomTable(2)
    view = case.table.view
    view.words[:, 7] = -1
    keys, groups, expected = case.lookup(33, one_group=False)
    assert answers(design, view, keys, groups) == expected


@every_design
def test_no_keys_launch_nothing(design):
    case = RandomTable(3)
    keys, groups, _ = case.lookup(1, one_group=True)
    assert answers(design, case.table.view, keys[:0], groups) == []
