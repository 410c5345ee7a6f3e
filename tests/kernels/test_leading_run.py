"""The longest prefix of one request, as a function that kernels of other projects call."""

import runpy
from pathlib import Path

import numpy as np
import pytest
import triton.language as tl
from support.device.tables import COMPILED, every_engine, make_table, poisoned, to_device, torch

from kvgpu.kernels import cuda_engine
from kvgpu.kernels.cuda_engine import defines, pointer
from kvgpu.kernels.leading_run import find_leading_run, suits
from kvgpu.kernels.longest_prefix import launch_decide
from kvgpu.kernels.primitives.kernel import kernel
from kvgpu.rules.plan import HitQuery, HitRule, PrefixPlan
from kvgpu.rules.plan_words import FULL, MAMBA

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "gpu_scheduler.py"
TABLES = 1000 if COMPILED else 20
"""The interpreter takes a hundred times as long."""
REQUESTS = 5


class RandomTable:
    """A table in which requests are cached up to some block, in all groups or not, and beyond it here and there."""

    def __init__(self, engine, seed):
        self.rng = rng = np.random.default_rng(seed)
        self.stride, self.groups = int(rng.integers(1, 4)), tuple(rng.permutation(5)[: rng.integers(1, 4)].tolist())
        key_bytes = int(rng.choice([16, 32]))
        self.lengths = rng.choice([0, 1, 3, 8, 40], REQUESTS)
        self.offsets = np.concatenate([[0], np.cumsum(self.lengths)])
        self.keys = rng.integers(-(2**63), 2**63 - 1, (max(1, int(self.offsets[-1])), key_bytes // 8))
        entries = [entry for request in range(REQUESTS) for entry in self.entries_of(request)]
        blocks = rng.permutation(len(entries) + 3)[: len(entries)]
        self.ids = {entry: int(block) for entry, block in zip(entries, blocks, strict=True)}
        load = float(rng.choice([0.3, 0.5, 0.9]))
        self.table = make_table(len(entries) + 3, key_bytes, load_factor=load, engine=engine)
        if entries:
            places, groups = np.array(entries).T
            self.table.update(self.keys[places], blocks.astype(np.int32), groups.astype(np.int32))

    def place(self, request, block):
        return int(self.offsets[request]) + (block + 1) * self.stride - 1

    def blocks_of(self, request):
        return int(self.lengths[request]) // self.stride

    def entries_of(self, request):
        """(place of the key, group) of what is cached: all groups up to some block, from none to all."""
        blocks = self.blocks_of(request)
        whole = int(self.rng.choice([0, blocks, self.rng.integers(0, blocks + 1)]))
        for block in range(blocks):
            for group in self.groups:
                if block < whole or self.rng.random() < 0.4:
                    yield self.place(request, block), group

    def is_cached(self, request, block):
        return all((self.place(request, block), group) in self.ids for group in self.groups)

    def run(self, request, limit):
        """The definition."""
        missing = (b for b in range(limit) if not self.is_cached(request, b))
        return next(missing, limit)

    def plan(self):
        return PrefixPlan((HitQuery(HitRule(FULL, self.stride, self.stride), self.groups, self.stride),))


@kernel("words", "records", "keys")
def serve(
    words, records, keys, offsets, limits, groups, out, ids, num_groups: tl.int32, stride: tl.int32,
    num_requests: tl.int32, num_keys: tl.int64, num_buckets: tl.int64, seed: tl.int64,
    KEY_WORDS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A scheduler on the GPU: each program takes one request after the other."""
    for request in range(tl.program_id(0), num_requests, tl.num_programs(0)):
        begin = tl.load(offsets + request)
        length = find_leading_run(
            words, records, keys + begin * KEY_WORDS, stride, tl.load(limits + request), groups, num_groups,
            ids + begin, tl.cast(num_keys, tl.int64), 1, num_buckets, tl.cast(seed, tl.int64), KEY_WORDS, BLOCK,
        )  # fmt: skip
        tl.store(out + request, length)


CUDA = """
#include "table.cuh"
using kvgpu::word;

template <int KEY_WORDS>
__device__ void serve(const kvgpu::TableView& table, const word* keys, const word* offsets, const int* limits,
                      const word* groups, word num_groups, word stride, word num_requests, int* out, int* ids,
                      word num_keys) {
#ifdef __CUDACC__
    const kvgpu::OneWarp team;
#else
    const kvgpu::OneThread team;
#endif
    for (word request = blockIdx.x; request < num_requests; request += 2) {
        const word begin = offsets[request];
        const word length = kvgpu::find_leading_run<KEY_WORDS>(table, team, keys + begin * KEY_WORDS, stride,
            limits[request], groups, num_groups, ids + begin, num_keys);
        if (team.rank() == 0) out[request] = static_cast<int>(length);
    }
}
#define SERVE(NAME, KEY_WORDS) extern "C" __global__ void NAME(kvgpu::TableView table, const word* keys, \\
    const word* offsets, const int* limits, const word* groups, word num_groups, word stride, word num_requests, \\
    int* out, int* ids, word num_keys) { serve<KEY_WORDS>(table, keys, offsets, limits, groups, num_groups, stride, \\
    num_requests, out, ids, num_keys); }
SERVE(serve_2, 2)
SERVE(serve_4, 4)
"""


@pytest.fixture(scope="module")
def cuda_module():
    import cupy

    return cupy.RawModule(code=CUDA, options=("-std=c++17", f"-I{cuda_engine.SOURCES}", *defines()))


def served(case, engine, limits, request):
    """What a kernel of somebody else writes: a length for each request, and ids."""
    table, view = case.table, case.table.view
    num_keys = len(case.keys)
    out, ids = poisoned(REQUESTS), poisoned(len(case.groups), num_keys)
    keys, offsets, groups = to_device(case.keys), to_device(case.offsets), to_device(case.groups, torch.int64)
    limits = to_device(limits, torch.int32)
    if engine == "triton":
        serve[(2,)](
            view.words, view.records, keys, offsets, limits, groups, out, ids, len(case.groups), case.stride,
            REQUESTS, num_keys, view.num_buckets, view.seed, KEY_WORDS=view.key_words, BLOCK=32, num_warps=1,
        )  # fmt: skip
    else:
        arguments = (
            view.as_struct(), pointer(keys), pointer(offsets), pointer(limits), pointer(groups),
            np.int64(len(case.groups)), np.int64(case.stride), np.int64(REQUESTS), pointer(out), pointer(ids),
            np.int64(num_keys),
        )  # fmt: skip
        module = request.getfixturevalue("cuda_module")
        with cuda_engine.TorchStream().in_cupy():
            module.get_function(f"serve_{view.key_words}")((2,), (32,), arguments)
    assert table.size() == len(case.ids)
    return out.tolist(), ids.tolist()


@every_engine
@pytest.mark.parametrize("part", range(10))
def test_a_kernel_of_somebody_else_finds_what_the_table_finds(engine, part, request):
    for seed in range(part * TABLES // 10, (part + 1) * TABLES // 10):
        case = RandomTable(engine, seed)
        limits = [int(case.rng.integers(0, case.blocks_of(r) + 1)) for r in range(REQUESTS)]
        lengths, ids = served(case, engine, limits, request)
        assert lengths == [case.run(r, limits[r]) for r in range(REQUESTS)]
        found = case.table.longest_prefix(
            case.keys, case.offsets, case.plan(), max_lengths=np.array(limits, np.int64) * case.stride
        )
        assert found.lengths[:, 0].tolist() == lengths
        for r, length in enumerate(lengths):
            for line, group in enumerate(case.groups):
                expected = [case.ids[case.place(r, block), group] for block in range(length)]
                begin = int(case.offsets[r])
                assert ids[line][begin : begin + length] == expected
                assert found.ids[line, begin : begin + length].tolist() == expected


@every_engine
def test_one_launch_and_two_give_the_same(engine):
    for seed in range(TABLES // 10):
        case = RandomTable(engine, 10_000 + seed)
        rng, size = case.rng, 6
        rule = HitRule(FULL, size * case.stride, int(rng.integers(1, 40)), bool(rng.integers(2)))
        plan = PrefixPlan((HitQuery(rule, case.groups, case.stride),))
        limits = to_device(rng.integers(-5, 45 * size, REQUESTS))
        keys, offsets = to_device(case.keys), to_device(case.offsets)
        out = case.table.longest_prefix(keys, offsets, plan, max_lengths=limits, null_id=7)
        two = case.table.prefix_buffers(REQUESTS, len(keys), plan)
        words, view = to_device(plan.words), case.table.view
        case.table.memory.engine.launch_probe(view, words, keys, offsets[:-1], offsets[1:], two.hits, 40, 1)
        launch_decide(view, words, offsets[:-1], offsets[1:], limits, two, 40, 7)
        used = int(case.offsets[-1])
        for name in ("num_tokens", "firsts", "lengths"):
            assert torch.equal(getattr(out, name), getattr(two, name)), (seed, name)
        assert torch.equal(out.ids[:, :used], two.ids[:, :used]), seed


@pytest.mark.parametrize(
    ("queries", "expected"),
    [
        ((HitQuery(HitRule(FULL, 1, 1), (0, 1)),), True),
        ((HitQuery(HitRule(MAMBA, 1, 1), (0,)),), False),
        ((HitQuery(HitRule(FULL, 1, 1), (0,)), HitQuery(HitRule(FULL, 2, 2), (1,), 2)), False),
    ],
    ids=["full", "mamba", "two"],
)
def test_one_launch_suits_one_query_of_full_attention(queries, expected):
    assert suits(PrefixPlan(queries)) is expected


def test_the_example_prints_what_is_cached(capsys):
    runpy.run_path(str(EXAMPLE))["main"]()
    assert capsys.readouterr().out == f"{list(range(12))}\n"
