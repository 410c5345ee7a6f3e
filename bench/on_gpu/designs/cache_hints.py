"""Lookups with cache hints: what is read once makes room for the words of the table, which are read again."""

from typing import Any

import triton
import triton.language as tl
from on_gpu.designs.grid import launch

from kvgpu.kernels.find import find_blocks
from kvgpu.kernels.primitives.kernel import kernel
from kvgpu.kernels.primitives.records import LANES, load_key
from kvgpu.kernels.view import TableView


@kernel("words", "records", "keys")
def find_with_hints_kernel(
    words,
    records,
    keys,
    groups,
    ids,
    count: tl.int64,
    one_group: tl.int32,
    num_buckets: tl.int64,
    seed: tl.int64,
    KEY_WORDS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Do what `kvgpu.kernels.find.find_kernel` does: keys are evicted first, words last, and ids are streamed."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    active = i < count
    k0, k1, k2, k3 = load_key(keys + i * KEY_WORDS, active, KEY_WORDS, "evict_first")
    group = tl.load(groups + tl.where(one_group != 0, 0, i), mask=active, other=0)
    seed = tl.cast(seed, tl.int64)
    found = find_blocks(words, records, k0, k1, k2, k3, group, active, num_buckets, seed, KEY_WORDS, "evict_last")
    tl.store(ids + i, found, mask=active, cache_modifier=".cs")


def launch_find_with_hints(table: TableView, keys: Any, groups: Any, ids: Any) -> None:
    """Do what `kvgpu.kernels.find.launch_find` does."""
    launch(find_with_hints_kernel, triton.cdiv(len(keys), LANES), LANES, table, keys, groups, ids)
