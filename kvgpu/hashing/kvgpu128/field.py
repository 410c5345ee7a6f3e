"""The field of kvgpu128: arithmetic modulo the prime 2**127 - 1, on pairs of 64-bit limbs.

An element is ``(high, low)``, two uint64 that make a number below 2**127. All functions are for compiled code; Python
code computes with integers.
"""

from typing import Any, cast

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from kvgpu.compiled.jit import leaf

PRIME = (1 << 127) - 1

TOP_BIT = np.uint64(63)
LOW_63_BITS = np.uint64((1 << 63) - 1)
ALL_BITS = np.uint64((1 << 64) - 1)
ONE = np.uint64(1)
ZERO = np.uint64(0)


@intrinsic
def _high_product(typing_context: Any, a: Any, b: Any) -> Any:
    """Compute the high 64 bits of the product of two uint64."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        wide = ir.IntType(128)
        a, b = (builder.zext(argument, wide) for argument in arguments)
        return builder.trunc(builder.lshr(builder.mul(a, b), wide(64)), ir.IntType(64))

    return types.uint64(types.uint64, types.uint64), generate


high_product = cast(Any, _high_product)


@leaf
def add_product(high: Any, low: Any, a: Any, b: Any) -> Any:
    """Compute (high, low) + a * b, which must be below 2**128."""
    product = a * b
    low += product
    high += high_product(a, b) + np.uint64(low < product)
    return high, low


@leaf
def folded(high: Any, low: Any) -> Any:
    """Reduce a number below 2**128 - 1 to an element that may be the prime itself."""
    top = high >> TOP_BIT
    low += top
    return (high & LOW_63_BITS) + np.uint64(low < top), low


@leaf
def canonical(high: Any, low: Any) -> Any:
    """Replace the prime by 0, and leave every other element as it is."""
    if high == LOW_63_BITS and low == ALL_BITS:
        return ZERO, ZERO
    return high, low


@leaf
def plus(a_high: Any, a_low: Any, b_high: Any, b_low: Any) -> Any:
    """Add two elements; they and the sum may be the prime itself."""
    low = a_low + b_low
    return folded(a_high + b_high + np.uint64(low < a_low), low)


@leaf
def times(a_high: Any, a_low: Any, b_high: Any, b_low: Any) -> Any:
    """Multiply two elements; they and the product may be the prime itself."""
    word0 = a_low * b_low
    # Each of the two middle products is below 2**127.
    middle_high, middle_low = high_product(a_low, b_high), a_low * b_high
    middle_high, middle_low = add_product(middle_high, middle_low, a_high, b_low)
    word1 = high_product(a_low, b_low) + middle_low
    word2 = a_high * b_high
    word3 = high_product(a_high, b_high)
    carried = middle_high + np.uint64(word1 < middle_low)
    word2 += carried
    word3 += np.uint64(word2 < carried)
    # 2**127 equals 1 here, so the bits from 127 on are added to those below.
    return plus(
        word1 & LOW_63_BITS,
        word0,
        ((word3 << ONE) | (word2 >> TOP_BIT)) & LOW_63_BITS,
        (word2 << ONE) | (word1 >> TOP_BIT),
    )


@leaf
def reduced(low_high: Any, low_low: Any, high_high: Any, high_low: Any) -> Any:
    """Reduce low + high * 2**64 to an element, for two numbers below 2**127."""
    # Multiplying by 2**64 rotates the 127 bits.
    return plus(low_high, low_low, high_low & LOW_63_BITS, (high_high << ONE) | (high_low >> TOP_BIT))
