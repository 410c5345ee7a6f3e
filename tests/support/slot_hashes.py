"""Keys made to order: with a wanted slot hash, so with a wanted bucket and tag. Possible for who knows the seed."""

import random
from collections.abc import Sequence
from functools import cache
from math import gcd

import numpy as np
import numpy.typing as npt

from kvgpu.layout import FACTOR_HIGH, FACTOR_LOW, SEED_MIX_1, SEED_MIX_2, SEED_STEP

WORD = 2**64
WIDE = 2**128


def signed(word: int) -> int:
    return (word + 2**63) % WORD - 2**63


def secret_word(seed: int, place: int) -> int:
    """SplitMix64."""
    word = (seed + place * SEED_STEP) % WORD
    word = (word ^ (word >> 30)) * SEED_MIX_1 % WORD
    word = (word ^ (word >> 27)) * SEED_MIX_2 % WORD
    return word ^ (word >> 31)


def factor_of(seed: int) -> int:
    """The odd number of 128 bits that the sum of products is multiplied by."""
    return secret_word(seed, FACTOR_HIGH) << 64 | secret_word(seed, FACTOR_LOW) | 1


def mixed(seed: int, key: Sequence[int], group: int) -> int:
    """The slot hash as docs/design.md defines it."""
    a, b, c, d = ((int(key[i]) + secret_word(seed, i + 1)) % WORD for i in range(4))
    total = (a * b + c * d + int(group)) % WIDE
    total ^= (total % WORD >> 32) << 64
    return (total * factor_of(seed) % WIDE >> 64) | 1


def key_of_hash(seed: int, slot_hash: int, key: Sequence[int], group: int = 0) -> npt.NDArray[np.int64]:
    """The key with words 1 and 3 changed so that it has this slot hash, which is odd.

    With a and c given, ``a * b + c * d`` is to be a certain number: an equation of two unknowns.
    """
    assert slot_hash % 2, "every slot hash is odd"
    a, c = ((int(key[i]) + secret_word(seed, i + 1)) % WORD for i in (0, 2))
    common = gcd(a, c)
    dice = random.Random(slot_hash)
    while True:
        product = (slot_hash % WORD << 64) + dice.getrandbits(64)
        total = product * pow(factor_of(seed), -1, WIDE) % WIDE
        total ^= (total % WORD >> 32) << 64
        wanted = (total - int(group)) % WIDE
        b = wanted // common * pow(a // common, -1, c // common) % (c // common)
        d, rest = divmod(wanted - a * b, c)
        if rest == 0 and 0 <= d < WORD:
            words = [signed(b - secret_word(seed, 2)), signed(d - secret_word(seed, 4))]
            return np.array([key[0], words[0], key[2], words[1]], np.int64)


def twin_keys(seed: int, word: int, group: int = 0) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Two keys that differ in one word, with one tag, and hashes that differ by at most 1/64 of the table."""
    dice = random.Random(word)
    key = [signed(dice.getrandbits(64)) for _ in range(4)]
    # The word is multiplied by 2**63, so that so much more adds a multiple of 2**96.
    key[word ^ 1] = signed(2**63 - secret_word(seed, (word ^ 1) + 1))
    place = mixed(seed, key, group)
    while True:
        twin = key.copy()
        twin[word] = signed(key[word] + (1 + dice.getrandbits(29) << 33))
        other = mixed(seed, twin, group)
        if (place - other) % 2**32 == 0 and abs(place - other) < 2**58:
            return np.array(key, np.int64), np.array(twin, np.int64)


def twin_groups(key: Sequence[int]) -> tuple[int, int, int]:
    """A seed, and two groups in which the key has one tag and hashes that differ by at most 1/64 of the table."""
    dice = random.Random(1)
    while True:
        seed = dice.getrandbits(63)
        # Distances at which products nearly repeat: those of the continued fraction of the factor.
        upper, lower = factor_of(seed) % 2**96, 2**96
        before, distance = 0, 1
        while upper and distance < 2**31:
            step = mixed(seed, key, distance) - mixed(seed, key, 0)
            if step % 2**32 == 0 and abs(step) < 2**58:
                return seed, 0, distance
            steps = lower // upper
            lower, upper = upper, lower % upper
            before, distance = distance, before + steps * distance


@cache
def crowd(seed: int, slot_hash: int, count: int) -> npt.NDArray[np.int64]:
    """So many keys with one slot hash."""
    return np.array([key_of_hash(seed, slot_hash, [i, 0, 0, 0]) for i in range(count)])
