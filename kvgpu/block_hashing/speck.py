"""Speck128/256: a keyed permutation of 128 bits in two words of 64, for the last step of kvgpu128.

34 rounds of add, rotate and xor: it needs no tables and no special instructions, so that the same few lines
run in vector lanes of a CPU and on a GPU, and it can be undone.

Source: Beaulieu et al., "The SIMON and SPECK families of lightweight block ciphers", IACR ePrint 2013/404.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from kvgpu._jit import leaf

ROUNDS = 34
KEY_BYTES = 32
_MASK = (1 << 64) - 1


def _rotated(value: int, count: int) -> int:
    """Left, in 64 bits."""
    return ((value << count) | (value >> (64 - count))) & _MASK


def round_keys(key: bytes) -> npt.NDArray[np.uint64]:
    """uint64 [ROUNDS], of a key of KEY_BYTES bytes (four words, lowest first)."""
    word, *others = (int.from_bytes(key[i : i + 8], "little") for i in range(0, KEY_BYTES, 8))
    keys = []
    for place in range(ROUNDS):
        keys.append(word)
        mixed = ((_rotated(others[0], 56) + word) & _MASK) ^ place
        word = _rotated(word, 3) ^ mixed
        others = [*others[1:], mixed]
    return np.array(keys, np.uint64)


@leaf
def encrypt_round(high: Any, low: Any, key: Any) -> Any:
    """One round; ROUNDS of them, with the round keys in order, permute a block."""
    high = (((high >> np.uint64(8)) | (high << np.uint64(56))) + low) ^ key
    return high, ((low << np.uint64(3)) | (low >> np.uint64(61))) ^ high


@leaf
def decrypt(high: Any, low: Any, keys: Any) -> Any:
    """The block that ROUNDS rounds permuted."""
    for place in range(ROUNDS - 1, -1, -1):
        low ^= high
        low = (low >> np.uint64(3)) | (low << np.uint64(61))
        high = (high ^ keys[place]) - low
        high = (high << np.uint64(8)) | (high >> np.uint64(56))
    return high, low
