"""kvgpu128 as docs/hashing.md defines it, in plain integers, and how tests ask for hashes."""

import hashlib
from functools import cache

import cbor2
import numpy as np

from kvgpu.hashing.bulk.chains import Blocks

KEY = bytes(range(32))
PARENT = b"\x05" * 32
SIZES = [1, 2, 3, 16, 17, 31, 33, 64, 100]
EXTRAS = [None, (), ("",), ("salt",), ("lora", ("image", -5), b"embeds"), ("salt",), None, ("salt",)]

PRIME = 2**127 - 1
LOW = 2**64 - 1

SUM = 10_000


def left(value, count):
    return ((value << count) | (value >> (64 - count))) & LOW


def speck(value, keys):
    """Speck128/256 of 128 bits."""
    high, low = value >> 64, value & LOW
    for key in keys:
        high = ((left(high, 56) + low) & LOW) ^ key
        low = left(low, 3) ^ high
    return (high << 64) | low


def unspeck(value, keys):
    high, low = value >> 64, value & LOW
    for key in reversed(keys):
        low = left(low ^ high, 61)
        high = left(((high ^ key) - low) & LOW, 8)
    return (high << 64) | low


class Definition:
    """kvgpu128 as its documentation defines it, O(n) in Python; only key bytes are laid out as they are."""

    def __init__(self, key):
        stream = hashlib.shake_256(b"kvgpu128" + key).digest(10_000)
        word, *others = (int.from_bytes(stream[i : i + 8], "little") for i in range(0, 32, 8))
        self.mix_keys = []
        for place in range(34):
            self.mix_keys.append(word)
            others.append(((left(others[0], 56) + word) & LOW) ^ place)
            word = left(word, 3) ^ others[-1]
            del others[0]
        self.point = int.from_bytes(stream[32:48], "little") >> 2
        self.digest_key = stream[48:80]
        limbs = [int.from_bytes(stream[i : i + 8], "little") >> 5 for i in range(80, 9_984, 8)]
        self.keys = [low + (high << 64) for low, high in zip(limbs[::2], limbs[1::2], strict=True)]

    def digest(self, purpose, data):
        keyed = hashlib.blake2b(data, digest_size=16, key=self.digest_key, person=purpose)
        return int.from_bytes(keyed.digest(), "little")

    def __call__(self, parent, tokens, extra, following=()):
        count = len(tokens) + 2**32 * len(following)
        words, known = [count, 0, 0], 0
        if extra is not None:
            known = self.digest(b"extra", cbor2.dumps(extra, canonical=True))
            words = [count + 2**63, known & LOW, known >> 64]
        tokens = (*tokens, *following)
        padded = [token % 2**32 for token in tokens] + [0] * (len(tokens) % 2)
        words += [a + (b << 32) for a, b in zip(padded[::2], padded[1::2], strict=True)]
        value = sum(key * word for key, word in zip(self.keys, words, strict=False))
        if len(parent) == 16:
            before = unspeck(int.from_bytes(parent, "little"), self.mix_keys)
        else:
            before = self.digest(b"parent", parent)
        element = (before * self.point + value) % PRIME
        return speck(element, self.mix_keys).to_bytes(16, "little")


@cache
def definition():
    return Definition(KEY)


def drawn_tokens(count, seed=1, dtype=np.int32):
    return np.random.default_rng(seed).integers(-(2**31), 2**31, count).astype(dtype)


def hashes_of(fn, *chains, size=16, parents=None, extras=None):
    """Hashes of chains of tokens, all in one call, as lists of bytes."""
    counts = [len(tokens) // size for tokens in chains]
    parents = [PARENT] * len(chains) if parents is None else parents
    keys = fn.hashes(Blocks(list(chains), counts, sum(counts), size, parents, extras))
    hashes = iter([row.tobytes()[:16] for row in keys])
    return [[next(hashes) for _ in range(count)] for count in counts]


def chained(function, tokens, size, parent=PARENT, extras=None):
    """Hashes by `function(parent, tokens, extra)`, block after block."""
    hashes = []
    for place in range(len(tokens) // size):
        ids = tuple(tokens[place * size : (place + 1) * size].tolist())
        parent = function(parent, ids, None if extras is None else extras[place])
        hashes.append(parent)
    return hashes


def called(fn):
    return lambda *value: fn(value)


def assert_all_differ(values):
    assert len(set(values)) == len(values)
