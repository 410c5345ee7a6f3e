"""Other people's kernels over a table's view, and that all targets compute one slot hash."""

import numpy as np
import triton
import triton.language as tl
from support.device.tables import DEVICE, ids, make_table, poisoned, random_keys, torch
from support.slot_hashes import mixed

from kvgpu.index.host.table import hash_of
from kvgpu.kernels.find import find_blocks
from kvgpu.kernels.primitives.slot_hash import bucket_of, slot_hash, word_of
from kvgpu.kernels.view import VIEW_STRUCT


@triton.jit
def count_cached(words, records, num_buckets, seed, keys, count, total, BLOCK: tl.constexpr):
    """A kernel of somebody else: how many of the keys are cached in group 0?"""
    i = tl.arange(0, BLOCK)
    active = i < count
    k0 = tl.load(keys + i * 2, mask=active, other=0)
    k1 = tl.load(keys + i * 2 + 1, mask=active, other=0)
    none = tl.zeros_like(k0)
    found = find_blocks(words, records, k0, k1, none, none, none, active, num_buckets, tl.cast(seed, tl.int64), 2)
    tl.store(total, tl.sum((found >= 0).to(tl.int32)))


@triton.jit
def hash_keys(keys, groups, seed, num_buckets, out, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    k0, k1 = tl.load(keys + i * 4), tl.load(keys + i * 4 + 1)
    k2, k3 = tl.load(keys + i * 4 + 2), tl.load(keys + i * 4 + 3)
    h = slot_hash(k0, k1, k2, k3, tl.load(groups + i), tl.cast(seed, tl.int64))
    tl.store(out + i * 3, h)
    tl.store(out + i * 3 + 1, bucket_of(h, num_buckets))
    tl.store(out + i * 3 + 2, word_of(h, i))


def test_another_kernel_looks_up_through_the_view():
    table, keys = make_table(20, 16), random_keys(30, 16)
    table.update(keys[:20], ids(*range(20)))
    view, total = table.view, poisoned(1)
    count_cached[(1,)](view.words, view.records, view.num_buckets, view.seed, keys, 25, total, BLOCK=32)
    assert total.tolist() == [20]


def test_the_struct_of_a_view_holds_its_pointers_and_sizes():
    table = make_table(20)
    (struct,) = table.view.as_struct()
    assert struct.dtype == VIEW_STRUCT
    assert [int(struct[name]) for name in ("words", "records", "meta")] == [
        tensor.data_ptr() for tensor in (table.view.words, table.view.records, table.view.meta)
    ]
    assert (struct["num_buckets"], struct["num_blocks"]) == (table.view.num_buckets, 20)
    assert struct["seed"] == table.view.seed


def test_triton_host_and_plain_python_agree_on_the_slot_hash():
    keys, groups = random_keys(32), torch.arange(32, dtype=torch.int32, device=DEVICE) * 2**26
    out, seed, num_buckets = poisoned(32, 3, dtype=torch.int64), 2**62 + 12345, 1_000_003
    hash_keys[(1,)](keys, groups, seed, num_buckets, out, BLOCK=32)
    for i, (h, bucket, word) in enumerate(out.tolist()):
        key, group = keys[i].tolist(), int(groups[i])
        expected = mixed(seed, key, group)
        assert h % 2**64 == expected
        assert h == hash_of(np.array(key), group, seed)
        assert bucket == (expected >> 32) * num_buckets >> 32
        assert word % 2**64 == (expected % 2**32 << 32) | (i + 1)
