"""The slot hash, which says where a key is stored in the table, in Triton: the same as on the host and in CUDA.

Words are passed and returned as signed 64-bit integers; docs/design.md says what the hash guarantees.
"""

import triton
import triton.language as tl

from kvgpu import layout
from kvgpu.kernels.primitives.field import add_product

WORD = tl.constexpr(2**64 - 1)
STEP = tl.constexpr(layout.SEED_STEP % 2**64)
MIX_1 = tl.constexpr(layout.SEED_MIX_1 % 2**64)
MIX_2 = tl.constexpr(layout.SEED_MIX_2 % 2**64)
FACTOR_LOW = tl.constexpr(layout.FACTOR_LOW)
FACTOR_HIGH = tl.constexpr(layout.FACTOR_HIGH)
LOW = tl.constexpr(layout.LOW_32)
TAG_BITS = tl.constexpr(layout.TAG_SHIFT)
COUNTERS = tl.constexpr(layout.OVERFLOW_COUNTERS)
COUNTER_BITS = tl.constexpr(layout.OVERFLOW_BITS)
COUNTER_SHIFT = tl.constexpr(layout.OVERFLOW_SHIFT)
COUNTER_FULL = tl.constexpr(layout.OVERFLOW_FULL)


@triton.jit
def upper_half(word):
    """Return the upper 32 bits of a word, as a non-negative int64."""
    return (word >> 32) & LOW


@triton.jit
def secret_word(seed, PLACE: tl.constexpr):
    """Return one of the secret words that follow from a seed, uint64: word `PLACE` of SplitMix64."""
    word = seed + ((PLACE * STEP) & WORD)
    word = (word ^ (word >> 30)) * MIX_1
    word = (word ^ (word >> 27)) * MIX_2
    return word ^ (word >> 31)


@triton.jit
def slot_hash(k0, k1, k2, k3, group, seed):
    """Return the slot hash of a key: the upper half chooses the bucket, the lower half is the tag, which is odd.

    `seed` is int64, as are the key words.
    """
    bits = seed.to(tl.uint64)
    low = k0.to(tl.uint64) * 0 + group.to(tl.int64).to(tl.uint64)
    high = low ^ low
    a, b = k0.to(tl.uint64) + secret_word(bits, 1), k1.to(tl.uint64) + secret_word(bits, 2)
    high, low = add_product(high, low, a, b)
    a, b = k2.to(tl.uint64) + secret_word(bits, 3), k3.to(tl.uint64) + secret_word(bits, 4)
    high, low = add_product(high, low, a, b)
    high ^= low >> 32
    factor = secret_word(bits, FACTOR_LOW) | 1
    product = tl.umulhi(low, factor) + low * secret_word(bits, FACTOR_HIGH) + high * factor
    return (product | 1).to(tl.int64)


@triton.jit
def bucket_of(h, num_buckets):
    """Return the primary bucket: the upper half, scaled to the number of buckets."""
    return (upper_half(h) * num_buckets) >> 32


@triton.jit
def word_of(h, block_id):
    """Return the word of an entry: tag and block id."""
    return ((h & LOW) << TAG_BITS) | (block_id.to(tl.int64) + 1)


@triton.jit
def counter_of(h):
    """Return which counter of a header counts entries of this slot hash."""
    return (h >> COUNTER_SHIFT) & (COUNTERS - 1)


@triton.jit
def counter_unit(h):
    """Return a header in which the counter of this slot hash is 1, and the others are 0."""
    return tl.full(h.shape, 1, tl.int64) << (counter_of(h) * COUNTER_BITS)
