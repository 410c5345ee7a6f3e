"""Lanes that take their next key when they are done: no lane waits until all of its warp have found theirs.

In `kvgpu.kernels.find` a warp takes 32 keys and reads on until the last of them is answered, so that at high loads most
lanes idle in most rounds. Here the grid is persistent. A lane that is done stores its result and goes on with a key
that was loaded while it looked up the one before.
"""

from typing import Any

import triton
import triton.language as tl
from on_gpu.designs.grid import launch, processors

from kvgpu.kernels.find import LOW, find_in_bucket
from kvgpu.kernels.primitives.kernel import kernel
from kvgpu.kernels.primitives.records import LANES, load_key
from kvgpu.kernels.primitives.slot_hash import COUNTER_FULL, bucket_of, counter_unit, slot_hash
from kvgpu.kernels.view import TableView

PROGRAMS = 32
"""Of one warp each, on a processor: as many as its registers hold."""


@triton.jit
def reload_pair(base, active, a, b):
    """Load words 0 and 1 at each pointer of `base` [BLOCK]; other lanes keep `a` and `b`."""
    pointers = base[:, None] + tl.arange(0, 2)[None, :]
    mask = active[:, None] & (tl.arange(0, 2)[None, :] >= 0)
    return tl.split(tl.load(pointers, mask=mask, other=tl.join(a, b)))


@kernel("words", "records", "keys")
def find_in_turn_kernel(
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
    """Do what `kvgpu.kernels.find.find_kernel` does, with a grid of any size.

    Each lane looks up one key of every `BLOCK * programs`.
    """
    stride = tl.num_programs(0).to(tl.int64) * BLOCK
    seed = tl.cast(seed, tl.int64)
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    k0, k1, k2, k3 = load_key(keys + i * KEY_WORDS, i < count, KEY_WORDS)
    group = tl.load(groups + tl.where(one_group != 0, 0, i), mask=i < count, other=0)
    n0, n1, n2, n3, next_group = k0, k1, k2, k3, group
    h = slot_hash(k0, k1, k2, k3, group, seed)
    bucket = bucket_of(h, num_buckets)
    found = tl.full(i.shape, -1, tl.int32)
    steps = tl.zeros_like(i)
    begun = i < count
    while tl.max((i < count).to(tl.int32)) > 0:
        # The next key is loaded first, so that it arrives while the bucket is read.
        ahead = i + stride
        fetching = begun & (ahead < count)
        n0, n1 = reload_pair(keys + ahead * KEY_WORDS, fetching, n0, n1)
        if KEY_WORDS == 4:
            n2, n3 = reload_pair(keys + ahead * KEY_WORDS + 2, fetching, n2, n3)
        next_group = tl.load(groups + tl.where(one_group != 0, 0, ahead), mask=fetching, other=next_group)
        looking = i < count
        found, header = find_in_bucket(
            words, records, bucket, h & LOW, k0, k1, k2, k3, group, looking, found, KEY_WORDS
        )
        steps += 1
        passed = header & (counter_unit(h) * COUNTER_FULL) != 0
        done = looking & ((found >= 0) | ~passed | (steps >= num_buckets))
        tl.store(ids + i, found, mask=done)
        i = tl.where(done, ahead, i)
        begun = done
        k0, k1, group = tl.where(done, n0, k0), tl.where(done, n1, k1), tl.where(done, next_group, group)
        if KEY_WORDS == 4:
            k2, k3 = tl.where(done, n2, k2), tl.where(done, n3, k3)
        h = slot_hash(k0, k1, k2, k3, group, seed)
        bucket = tl.where(bucket + 1 == num_buckets, 0, bucket + 1)
        bucket = tl.where(done, bucket_of(h, num_buckets), bucket)
        found = tl.where(done, -1, found)
        steps = tl.where(done, 0, steps)


def launch_find_in_turn(table: TableView, keys: Any, groups: Any, ids: Any) -> None:
    """Do what `kvgpu.kernels.find.launch_find` does."""
    programs = min(PROGRAMS * processors(), triton.cdiv(len(keys), LANES))
    launch(find_in_turn_kernel, programs, LANES, table, keys, groups, ids)
