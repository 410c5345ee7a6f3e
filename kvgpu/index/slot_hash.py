"""The slot hash: where a key is stored in the table."""

from typing import Any

import numpy as np

from kvgpu.compiled.jit import leaf
from kvgpu.hashing.kvgpu128.field import ONE, ZERO, add_product, high_product
from kvgpu.index.key import Key
from kvgpu.layout import FACTOR_HIGH, FACTOR_LOW, SEED_MIX_1, SEED_MIX_2, SEED_STEP

STEP, MIX_1, MIX_2 = (np.uint64(word % 2**64) for word in (SEED_STEP, SEED_MIX_1, SEED_MIX_2))
HALF = np.uint64(32)


@leaf
def secret_word(seed: int, place: int) -> Any:
    """Return one of the secret words that follow from a seed, uint64: word `place` of SplitMix64."""
    word = np.uint64(seed) + np.uint64(place) * STEP
    word = (word ^ (word >> np.uint64(30))) * MIX_1
    word = (word ^ (word >> np.uint64(27))) * MIX_2
    return word ^ (word >> np.uint64(31))


@leaf
def slot_hash(key: Key, seed: int) -> Any:
    """Return the slot hash of a key: the high half chooses the bucket, the low half is the tag, which is never 0.

    The tag is odd. The hash is universal in the seed: without knowing the seed, an attacker cannot choose keys that
    collide (docs/design.md has the bounds). The secret words do not depend on the key, so a loop computes them once.
    """
    high, low = ZERO, np.uint64(key.group)
    high, low = add_product(
        high, low, np.uint64(key.k0) + secret_word(seed, 1), np.uint64(key.k1) + secret_word(seed, 2)
    )
    high, low = add_product(
        high, low, np.uint64(key.k2) + secret_word(seed, 3), np.uint64(key.k3) + secret_word(seed, 4)
    )
    # Without this, keys in arithmetic progression would have hashes in arithmetic progression.
    high ^= low >> HALF
    factor = secret_word(seed, FACTOR_LOW) | ONE
    product = high_product(low, factor) + low * secret_word(seed, FACTOR_HIGH) + high * factor
    return np.int64(product | ONE)
