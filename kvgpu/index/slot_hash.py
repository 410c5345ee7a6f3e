"""The slot hash: where a key lives in the table."""

from typing import Any

import numpy as np

from kvgpu.compiled.jit import leaf
from kvgpu.hashing.kvgpu128.field import ONE, ZERO, add_product, high_product
from kvgpu.layout import FACTOR_HIGH, FACTOR_LOW, SEED_MIX_1, SEED_MIX_2, SEED_STEP

STEP, MIX_1, MIX_2 = (np.uint64(word % 2**64) for word in (SEED_STEP, SEED_MIX_1, SEED_MIX_2))


HALF = np.uint64(32)


@leaf
def secret_word(seed: int, place: int) -> Any:
    """One of the words that a seed stands for, uint64: SplitMix64 at this place."""
    word = np.uint64(seed) + np.uint64(place) * STEP
    word = (word ^ (word >> np.uint64(30))) * MIX_1
    word = (word ^ (word >> np.uint64(27))) * MIX_2
    return word ^ (word >> np.uint64(31))


@leaf
def slot_hash(k0: int, k1: int, k2: int, k3: int, group: int, seed: int) -> Any:
    """Where a key lives: the high half chooses the bucket, the low half is the tag, which is odd and so never 0.

    Universal in the seed: whoever does not know it cannot choose keys that meet (docs/design.md has the bounds). The
    secret words do not depend on the key, so a loop makes them once.
    """
    high, low = ZERO, np.uint64(group)
    high, low = add_product(high, low, np.uint64(k0) + secret_word(seed, 1), np.uint64(k1) + secret_word(seed, 2))
    high, low = add_product(high, low, np.uint64(k2) + secret_word(seed, 3), np.uint64(k3) + secret_word(seed, 4))
    # Or else keys in arithmetic progression would have hashes in one.
    high ^= low >> HALF
    factor = secret_word(seed, FACTOR_LOW) | ONE
    product = high_product(low, factor) + low * secret_word(seed, FACTOR_HIGH) + high * factor
    return np.int64(product | ONE)
