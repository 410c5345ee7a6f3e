"""Arithmetic modulo 2**127 - 1 in Triton, on pairs of uint64 limbs: see `kvgpu.hashing.kvgpu128.field`."""

import triton
import triton.language as tl

LOW_63 = tl.constexpr((1 << 63) - 1)


@triton.jit
def carry(total, part):
    """Return 1 where total = something + part has wrapped around, otherwise 0."""
    return (total < part).to(tl.uint64)


@triton.jit
def add_product(high, low, a, b):
    """Return (high, low) + a * b, which must be below 2**128."""
    product = a * b
    low = low + product
    high = high + tl.umulhi(a, b) + carry(low, product)
    return high, low


@triton.jit
def folded(high, low):
    """Reduce a number below 2**128 - 1 to an element, which may be the prime itself."""
    top = high >> 63
    low = low + top
    return (high & LOW_63) + carry(low, top), low


@triton.jit
def canonical(high, low):
    """Return 0 for the prime, and every other element unchanged."""
    prime = (high == LOW_63) & (low + 1 == low ^ low)
    return tl.where(prime, high ^ high, high), tl.where(prime, low ^ low, low)


@triton.jit
def plus(a_high, a_low, b_high, b_low):
    """Return the sum of two elements, which may be the prime itself."""
    low = a_low + b_low
    return folded(a_high + b_high + carry(low, a_low), low)


@triton.jit
def times(a_high, a_low, b_high, b_low):
    """Return the product of two elements, which may be the prime itself."""
    word0 = a_low * b_low
    middle_high, middle_low = tl.umulhi(a_low, b_high), a_low * b_high
    middle_high, middle_low = add_product(middle_high, middle_low, a_high, b_low)
    word1 = tl.umulhi(a_low, b_low) + middle_low
    carried = middle_high + carry(word1, middle_low)
    word2 = a_high * b_high + carried
    word3 = tl.umulhi(a_high, b_high) + carry(word2, carried)
    return plus(word1 & LOW_63, word0, ((word3 << 1) | (word2 >> 63)) & LOW_63, (word2 << 1) | (word1 >> 63))


@triton.jit
def reduced(low_high, low_low, high_high, high_low):
    """Return the element for low + high * 2**64, for two numbers below 2**127."""
    return plus(low_high, low_low, high_low & LOW_63, (high_high << 1) | (high_low >> 63))
