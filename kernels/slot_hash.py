"""Where a key lives in the table: the slot hash in Triton, the same as the host's and CUDA's.

All words are signed 64-bit integers that wrap; shifts to the right are masked to be logical.
"""

import triton
import triton.language as tl

from kvgpu.kernels import layout

MULTIPLIER = tl.constexpr(layout.HASH_MULTIPLIER)
LOW = tl.constexpr(layout.LOW_32)
TAG_BITS = tl.constexpr(layout.TAG_SHIFT)


@triton.jit
def upper_half(word):
    """The upper 32 bits of a word, as a non-negative int64."""
    return (word >> 32) & LOW


@triton.jit
def mix(h, word):
    """One round: multiply, and fold the upper half onto the lower one."""
    h = (h ^ word) * MULTIPLIER
    return h ^ upper_half(h)


@triton.jit
def slot_hash(k0, k1, k2, k3, group, seed):
    """The upper half chooses the bucket, the lower half is the tag. `seed` is int64."""
    h = mix(mix(seed, k0), k1)
    return mix(mix(mix(h, k2), k3), group.to(tl.int64))


@triton.jit
def bucket_of(h, num_buckets):
    """Primary bucket: the upper half scaled to the number of buckets."""
    return (upper_half(h) * num_buckets) >> 32


@triton.jit
def word_of(h, block_id):
    """The word of an entry: tag and block id."""
    return ((h & LOW) << TAG_BITS) | (block_id.to(tl.int64) + 1)
