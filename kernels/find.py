"""Looking up keys: the probe that all lookup kernels share, and the plain batch lookup."""

from typing import Any

import triton
import triton.language as tl

from kvgpu.kernels.primitives.kernel import kernel
from kvgpu.kernels.primitives.records import LANES, NO_HINT, load_bucket, load_key, record_equals
from kvgpu.kernels.primitives.slot_hash import COUNTER_FULL, bucket_of, counter_unit, slot_hash, upper_half
from kvgpu.kernels.view import TableView
from kvgpu.layout import LOW_32

LOW = tl.constexpr(LOW_32)


@triton.jit
def tag_bit(word, tag, bit: tl.constexpr):
    """Return `bit` where the word is an entry with this tag, otherwise 0. Tags are odd: no empty word has one."""
    return tl.where(upper_half(word) == tag, bit, 0)


@triton.jit
def find_in_bucket(
    words,
    records,
    bucket,
    tag,
    k0,
    k1,
    k2,
    k3,
    group,
    looking,
    found,
    KEY_WORDS: tl.constexpr,
    EVICTION: tl.constexpr = NO_HINT,
):
    """Look for each lane's key in one bucket; return what is found, int32 [BLOCK], and the header, int64 [BLOCK].

    A tag is only a hint: a block is a hit if all bytes of its key and its group are equal. Reads the bucket, and one
    record for each slot with the tag until one is a hit.

    Args:
        words, records, k0, k1, k2, k3, group: As of `find_blocks`.
        bucket: int64 [BLOCK], index of a bucket.
        tag: int64 [BLOCK], lower half of the slot hash.
        looking: bool [BLOCK]; other lanes keep what is in `found`.
        found: int32 [BLOCK], what is returned where there is no hit.
        EVICTION: Eviction policy of the loads of a bucket.
    """
    w0, w1, w2, w3, w4, w5, w6, header = load_bucket(words, bucket, looking, False, EVICTION)
    candidates = tag_bit(w0, tag, 1) | tag_bit(w1, tag, 2) | tag_bit(w2, tag, 4)
    candidates |= tag_bit(w3, tag, 8) | tag_bit(w4, tag, 16) | tag_bit(w5, tag, 32)
    candidates |= tag_bit(w6, tag, 64)
    candidates = tl.where(looking, candidates, 0)
    while tl.max(candidates) > 0:
        lowest = candidates & -candidates
        word = tl.where(lowest == 1, w0, tl.where(lowest == 2, w1, w2))
        word = tl.where(lowest == 8, w3, tl.where(lowest == 16, w4, word))
        word = tl.where(lowest == 32, w5, tl.where(lowest == 64, w6, word))
        row = ((word & LOW) - 1).to(tl.int32)
        equal = record_equals(records, row, k0, k1, k2, k3, group, candidates > 0, KEY_WORDS)
        found = tl.where(equal, row, found)
        candidates = tl.where(equal, 0, candidates ^ lowest)
    return found, header


@triton.jit
def find_blocks(
    words,
    records,
    k0,
    k1,
    k2,
    k3,
    group,
    active,
    num_buckets,
    seed,
    KEY_WORDS: tl.constexpr,
    EVICTION: tl.constexpr = NO_HINT,
):
    """Return the id of the first block under each lane's key, or -1; int32 [BLOCK].

    Reads one bucket and one record for a hit and one bucket for a miss, more if buckets have overflowed with keys
    whose tags are counted together with that of this key.

    Args:
        words: int64 [num_buckets, 8], the table.
        records: int64 [num_blocks, 2 * KEY_WORDS], keys and groups of blocks.
        k0, k1, k2, k3: int64 [BLOCK], key words.
        group: int32 or int64 [BLOCK].
        active: bool [BLOCK]; other lanes get -1.
        EVICTION: Eviction policy of the loads of buckets.
    """
    h = slot_hash(k0, k1, k2, k3, group, seed)
    tag = h & LOW
    counter = counter_unit(h) * COUNTER_FULL
    bucket = bucket_of(h, num_buckets)
    found = tl.full(k0.shape, -1, tl.int32)
    looking = active
    steps = 0
    while tl.max(looking.to(tl.int32)) > 0:
        found, header = find_in_bucket(
            words, records, bucket, tag, k0, k1, k2, k3, group, looking, found, KEY_WORDS, EVICTION
        )
        steps += 1
        looking = looking & (found < 0) & (header & counter != 0) & (steps < num_buckets)
        bucket = tl.where(bucket + 1 == num_buckets, 0, bucket + 1)
    return found


@kernel("words", "records", "keys")
def find_kernel(
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
    """Set `ids[i]` to the first block under `keys[i]` in `groups[i]`, or to -1.

    keys int64 [count, KEY_WORDS]; groups int32 [count], or [1] for all keys if one_group is not 0; ids int32
    [count].
    """
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    active = i < count
    k0, k1, k2, k3 = load_key(keys + i * KEY_WORDS, active, KEY_WORDS)
    if one_group != 0:  # noqa: SIM108 - an expression would load both
        group = tl.load(groups + tl.zeros_like(i))
    else:
        group = tl.load(groups + i, mask=active, other=0)
    seed = tl.cast(seed, tl.int64)
    found = find_blocks(words, records, k0, k1, k2, k3, group, active, num_buckets, seed, KEY_WORDS)
    tl.store(ids + i, found, mask=active)


def launch_find(table: TableView, keys: Any, groups: Any, ids: Any) -> None:
    """Start `find_kernel` on the current stream; if there are no keys, launch nothing.

    Args:
        table: The table.
        keys: int64 [n, key_words], at an address that is a multiple of 16 bytes.
        groups: int32 [n], or [1] for all keys.
        ids: int32 [n], written.
    """
    count = len(keys)
    if count:
        find_kernel[(triton.cdiv(count, LANES),)](
            table.words,
            table.records,
            keys,
            groups,
            ids,
            count,
            int(len(groups) == 1),
            table.num_buckets,
            table.seed,
            KEY_WORDS=table.key_words,
            BLOCK=LANES,
            num_warps=1,
        )
