"""Keys made to order: with a wanted slot hash, so with a wanted bucket and tag."""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from kvgpu.kernels.layout import HASH_MULTIPLIER

WORD = 2**64
MULTIPLIER = HASH_MULTIPLIER % WORD


def signed(word: int) -> int:
    return (word + 2**63) % WORD - 2**63


def mixed(h: int, words: Iterable[int]) -> int:
    """The slot hash after some more words."""
    for word in words:
        h = (h ^ int(word) % WORD) * MULTIPLIER % WORD
        h ^= h >> 32
    return h


def unmixed(h: int, words: Iterable[int]) -> int:
    """The slot hash before the last of these words: each round can be undone."""
    for word in reversed(list(words)):
        h = (h ^ (h >> 32)) * pow(MULTIPLIER, -1, WORD) % WORD ^ int(word) % WORD
    return h


def key_of_hash(
    seed: int, slot_hash: int, key: Iterable[int], word: int, group: int = 0
) -> npt.NDArray[np.int64]:
    """The key with one of its four words changed so that it has this slot hash."""
    key = [int(k) for k in key]
    before = mixed(seed, key[:word])
    solution = unmixed(slot_hash, [before, *key[word + 1 :], group])
    return np.array([*key[:word], signed(solution), *key[word + 1 :]], np.int64)
