"""kvgpu128: against plain integers, in parallel and one by one; no collisions, no patterns, its errors."""

import hashlib
import os
import subprocess
import sys
from functools import cache
from itertools import pairwise

import cbor2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from managers import admit, full, make_manager, make_request

from kvgpu import hashing
from kvgpu.block_hashing.chains import Blocks
from kvgpu.block_hashing.kvgpu128 import Kvgpu128, process_hash
from kvgpu.config import hash_key
from kvgpu.errors import ArgumentError, ArgumentTypeError, ConfigError

KEY = bytes(range(32))
PARENT = b"\x05" * 32
SIZES = [1, 2, 3, 16, 17, 31, 33, 64, 100]
EXTRAS = [
    None,
    (),
    ("",),
    ("salt",),
    ("lora", ("image", -5), b"embeds"),
    ("salt",),
    None,
    ("salt",),
]

PRIME = 2**127 - 1
LOW = 2**64 - 1

SUM = 10_000


@pytest.fixture(scope="module")
def fn():
    return Kvgpu128(KEY)


# The definition, in plain integers


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

    def __call__(self, parent, tokens, extra):
        words, known = [len(tokens), 0, 0], 0
        if extra is not None:
            known = self.digest(b"extra", cbor2.dumps(extra, canonical=True))
            words = [len(tokens) + 2**63, known & LOW, known >> 64]
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
    rows = fn.rows(Blocks(list(chains), counts, sum(counts), size, parents, extras))
    hashes = iter([row.tobytes()[:16] for row in rows])
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


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("extras", [None, EXTRAS], ids=["no extras", "extras"])
def test_hashes_are_those_of_the_definition(fn, size, extras):
    tokens = drawn_tokens(8 * size)
    assert chained(called(fn), tokens, size, extras=extras) == chained(
        definition(), tokens, size, extras=extras
    )


@settings(max_examples=80, deadline=None)
@given(
    parent=st.binary(max_size=40) | st.binary(min_size=16, max_size=16),
    tokens=st.lists(
        st.sampled_from([0, 1, -1, 2**31 - 1, -(2**31)]) | st.integers(-(2**31), 2**31 - 1),
        max_size=70,
    ).map(tuple),
    extra=st.none() | st.lists(st.text(max_size=3) | st.integers(-9, 9), max_size=2).map(tuple),
)
def test_any_block_has_the_hash_of_the_definition(parent, tokens, extra):
    assert Kvgpu128(KEY)((parent, tokens, extra)) == definition()(parent, tokens, extra)


@pytest.mark.parametrize("tokens", [0, -1, 2**31 - 1, -(2**31)])
@pytest.mark.parametrize("size", [16, 24, 25, 26, 27, 28, 29, 56, 57, 58, 59, 60, 61, 92])
def test_sums_of_the_largest_words_do_not_overflow(fn, tokens, size):
    block = (tokens,) * size
    assert fn((PARENT, block, ("salt",))) == definition()(PARENT, block, ("salt",))
    assert fn((PARENT, block, None)) == definition()(PARENT, block, None)


class Largest(Kvgpu128):
    """Every key is the largest that there is."""

    def keys(self, num_tokens):
        return np.full((3 + (num_tokens + 1) // 2, 2), 2**59 - 1, np.uint64)


@pytest.mark.parametrize("extra", [None, ("salt",)])
@pytest.mark.parametrize("start", [0, 26])
def test_sums_of_the_largest_words_and_keys_do_not_overflow(start, extra):
    expected = Definition(KEY)
    expected.keys = [(2**59 - 1) * (2**64 + 1)] * len(expected.keys)
    for size in range(start, start + 100):
        block = (-1,) * size
        assert Largest(KEY)((PARENT, block, extra)) == expected(PARENT, block, extra)


def test_a_prefix_whose_element_is_0_is_like_any_other(fn):
    # The element in front is chosen so that it and the block cancel each other.
    tokens, keys, point = tuple(range(16)), definition().mix_keys, definition().point
    last = definition()(speck(0, keys).to_bytes(16, "little"), tokens, None)
    value = unspeck(int.from_bytes(last, "little"), keys)
    before = -value * pow(point, -1, PRIME) % PRIME
    parent = speck(before, keys).to_bytes(16, "little")
    assert fn((parent, tokens, None)) == speck(0, keys).to_bytes(16, "little")


@pytest.mark.parametrize("element", [0, 1, PRIME - 1, PRIME, PRIME + 1, 2**127 + 5, 2**128 - 1])
def test_a_parent_at_the_edge_of_the_field_is_like_any_other(fn, element):
    parent = speck(element, definition().mix_keys).to_bytes(16, "little")
    assert fn((parent, (0,) * 16, None)) == definition()(parent, (0,) * 16, None)


# Many blocks at once


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", [np.int32, np.int64])
@pytest.mark.parametrize("extras", [None, EXTRAS], ids=["no extras", "extras"])
def test_a_chain_at_once_is_the_chain_one_by_one(fn, size, dtype, extras):
    tokens = drawn_tokens(8 * size, dtype=dtype)
    found = hashes_of(fn, tokens, size=size, extras=extras)
    assert found == [chained(called(fn), tokens, size, extras=extras)]


@pytest.mark.parametrize("count", [1, 255, 256, 257, 700])
@pytest.mark.parametrize("size", [3, 16])
def test_a_long_chain_at_once_is_the_chain_one_by_one(fn, count, size):
    tokens = drawn_tokens(count * size)
    assert hashes_of(fn, tokens, size=size) == [chained(called(fn), tokens, size)]


@pytest.mark.parametrize(
    "parent", [drawn_tokens(4, 9).tobytes(), drawn_tokens(8, 9).tobytes(), b"", b"p" * 300]
)
def test_a_chain_may_follow_any_bytes(fn, parent):
    tokens = drawn_tokens(160)
    assert hashes_of(fn, tokens, parents=[parent]) == [chained(called(fn), tokens, 16, parent)]


def test_a_chain_goes_on_from_its_own_hashes(fn):
    tokens = drawn_tokens(320)
    (whole,) = hashes_of(fn, tokens)
    assert hashes_of(fn, tokens[112:], parents=[whole[6]]) == [whole[7:]]


def test_many_chains_at_once_are_each_hashed_alone(fn):
    chains = [drawn_tokens(16 * n + n % 16, n) for n in (3, 0, 300, 1, 0, 17)]
    parents = [b"", PARENT, b"p" * 16, PARENT, PARENT, b"q" * 16]
    alone = [chained(called(fn), t, 16, p) for t, p in zip(chains, parents, strict=True)]
    assert hashes_of(fn, *chains, parents=parents) == alone


def test_many_chains_at_once_keep_their_extra_keys_apart(fn):
    chains = [drawn_tokens(16 * n, n) for n in (3, 0, 4, 1)]
    expected = [
        chained(called(fn), chains[0], 16, extras=EXTRAS[:3]),
        [],
        chained(called(fn), chains[2], 16, extras=EXTRAS[3:7]),
        chained(called(fn), chains[3], 16, extras=EXTRAS[7:]),
    ]
    assert hashes_of(fn, *chains, extras=EXTRAS) == expected


@pytest.mark.parametrize(
    "extra", [(), ("",), (0,), (False,), ("a", "a"), (("a", 1),)], ids=lambda extra: repr(extra)
)
def test_equal_extra_keys_may_follow_each_other(fn, extra):
    tokens = drawn_tokens(64)
    extras = [extra, tuple(extra), extra, None]
    found = hashes_of(fn, tokens, extras=extras)
    assert found == [chained(called(fn), tokens, 16, extras=extras)]


def test_extra_keys_that_only_compare_equal_are_told_apart(fn):
    tokens = drawn_tokens(48)
    extras = [(1,), (True,), (1.0,)]
    found = hashes_of(fn, tokens, extras=extras)
    assert found == [chained(called(fn), tokens, 16, extras=extras)]
    assert len({fn((PARENT, (1,), extra)) for extra in extras}) == 3


def test_chains_of_32_and_of_64_bits_may_be_mixed(fn):
    chains = [drawn_tokens(64, 1), drawn_tokens(64, 2, np.int64), drawn_tokens(64, 3)]
    alone = [chained(called(fn), tokens, 16) for tokens in chains]
    assert hashes_of(fn, *chains) == alone


def test_rows_of_hashes_are_padded_with_zeros(fn):
    rows = fn.rows(Blocks([drawn_tokens(160)], [10], 10, 16, [PARENT], None))
    assert (rows.dtype, rows.shape, rows[:, 2:].any()) == (np.int64, (10, 4), False)


# Keys


def test_equal_keys_give_equal_hashes():
    assert Kvgpu128(KEY)((PARENT, (1, 2), None)) == Kvgpu128(KEY)((PARENT, (1, 2), None))


def test_every_bit_of_the_key_counts():
    values = [Kvgpu128(KEY)((PARENT, (1, 2), ("salt",)))]
    for bit in range(256):
        key = (int.from_bytes(KEY, "little") ^ (1 << bit)).to_bytes(32, "little")
        values.append(Kvgpu128(key)((PARENT, (1, 2), ("salt",))))
    assert len(set(values)) == 257


def test_blocks_of_other_sizes_hashed_before_do_not_matter():
    used = Kvgpu128(KEY)
    for size in (100, 1, 16, 300, 2):
        block = tuple(range(size))
        assert used((PARENT, block, None)) == Kvgpu128(KEY)((PARENT, block, None))


# Different blocks


def assert_all_differ(values):
    assert len(set(values)) == len(values)


@pytest.mark.parametrize(
    "blocks",
    [
        pytest.param([(1, 2, 3, 4), (2, 1, 3, 4), (1, 2, 4, 3), (3, 4, 1, 2)], id="order"),
        pytest.param([(0, 1, 2, 3), (1, 2, 3, 0), (3, 0, 1, 2), (1, 2, 3, 4)], id="shifted"),
        pytest.param([(1,), (1, 0), (1, 0, 0), (1, 0, 0, 0), (0, 1)], id="zeros behind"),
        pytest.param([(), (0,), (0, 0), (0, 0, 0)], id="only zeros"),
        pytest.param([(1, 2, 3), (1, 2), (1, 2, 3, 4), (2, 3)], id="one more, one less"),
        pytest.param([(5, 5, 0), (10, 0, 0), (4, 6, 0), (0, 0, 10)], id="equal sums"),
        pytest.param([(1, 0), (0, 1), (-1, 0), (0, -1), (1, -1)], id="signs"),
        pytest.param([(-1, 0), (2**31 - 1, 0), (-(2**31), 0), (0, 0)], id="ends"),
    ],
)
@pytest.mark.parametrize("extra", [None, ("salt",)])
def test_blocks_that_look_alike_have_different_hashes(fn, blocks, extra):
    assert_all_differ([fn((PARENT, block, extra)) for block in blocks])


def test_extra_keys_that_look_alike_have_different_hashes(fn):
    extras = [None, (), ("",), ("", ""), (None,), (0,), (b"",), ((),), ("0",), (("",),)]
    assert_all_differ([fn((PARENT, (1, 2), extra)) for extra in extras])


def test_parents_that_look_alike_have_different_hashes(fn):
    parents = [bytes(n) for n in range(40)] + [
        b"\xff" * 16,
        bytes(15) + b"\x80",
        b"\x01" + bytes(15),
    ]
    assert_all_differ([fn((parent, (1, 2), None)) for parent in parents])


def test_extra_keys_are_told_from_tokens(fn):
    # Two words of tokens are where the digest of extra keys would be.
    digest = definition().digest(b"extra", cbor2.dumps(("salt",), canonical=True))
    words = [(digest >> shift & 0xFFFFFFFF) for shift in (0, 32, 64, 96)]
    tokens = tuple(word - 2**32 * (word >> 31) for word in words)
    assert_all_differ([fn((PARENT, (), ("salt",))), fn((PARENT, tokens, None))])


@pytest.mark.parametrize("block", [[0] * 16, [1] * 16, [-1] * 16, list(range(16))])
def test_a_repeated_block_has_a_new_hash_each_time(fn, block):
    (hashes,) = hashes_of(fn, np.array(block * 1000, np.int32))
    assert_all_differ(hashes)


def test_swapped_blocks_have_different_hashes(fn):
    tokens = drawn_tokens(32)
    (there,), (back,) = (
        hashes_of(fn, np.concatenate(order))
        for order in ((tokens[:16], tokens[16:]), (tokens[16:], tokens[:16]))
    )
    assert_all_differ([*there, *back])


def test_equal_blocks_after_different_ones_have_different_hashes(fn):
    tail = drawn_tokens(160)
    first, second = hashes_of(fn, *(np.concatenate([drawn_tokens(16, n), tail]) for n in (1, 2)))
    assert_all_differ([*first, *second])


def rows_of_blocks(fn, blocks):
    """Hashes uint64 [n, 2] of blocks int32 [n, size], each with the same parent."""
    blocks = np.ascontiguousarray(blocks)
    count = len(blocks)
    rows = fn.rows(Blocks([*blocks], [1] * count, count, blocks.shape[1], [PARENT] * count, None))
    return rows.view(np.uint64)[:, :2]


def like_one(seed, count):
    """Copies int32 [count, 16] of one random block of small tokens; its like of another seed differs in most."""
    block = np.random.default_rng(seed).integers(0, 50_000, 16, np.int32)
    return np.repeat(block[None], count, axis=0)


def counters_at(place, shift, count=70_000):
    blocks = like_one(place, count)
    blocks[:, place] = np.arange(count) << shift
    return blocks


def equal_sums(count=70_000):
    """The first word goes up where the second goes down."""
    blocks = like_one(100, count)
    blocks[:, 0], blocks[:, 2] = np.arange(count), SUM - np.arange(count)
    return blocks


def equal_sums_of_all(count=70_000):
    blocks = like_one(101, count)
    steps = np.arange(count)
    blocks[:, 4], blocks[:, 5], blocks[:, 6], blocks[:, 7] = steps, -steps, -steps, steps
    return blocks


def swapped_pairs():
    """Of 500 blocks, each with two of its tokens swapped."""
    rng = np.random.default_rng(102)
    pairs = [(i, j) for i in range(16) for j in range(i)]
    blocks = []
    for _ in range(500):
        swapped = np.repeat(rng.choice(2**20, (1, 16), replace=False).astype(np.int32), 120, axis=0)
        for row, (i, j) in zip(swapped, pairs, strict=True):
            row[i], row[j] = row[j], row[i]
        blocks.append(swapped)
    return np.concatenate(blocks)


def few_bits():
    """Every block of zeros with at most two bits in each of two tokens set."""
    values = [
        0,
        *(1 << i for i in range(31)),
        *(1 << i | 1 << j for i in range(31) for j in range(i)),
    ]
    values = np.array(values[1:250], np.int32)
    blocks = np.zeros((4, len(values), len(values), 16), np.int32)
    for part, (first, second) in zip(blocks, ((0, 1), (2, 4), (3, 15), (13, 14)), strict=True):
        part[..., first], part[..., second] = values[:, None], values[None]
    return blocks.reshape(-1, 16)


def two_counters(size=400):
    blocks = like_one(103, size * size)
    first, second = np.divmod(np.arange(size * size), size)
    blocks[:, 0], blocks[:, 15] = first, second
    return blocks


def test_a_million_structured_blocks_have_different_hashes(fn):
    families = [
        *(counters_at(place, 0) for place in (0, 1, 7, 15)),
        *(counters_at(place, 14) for place in (2, 12)),
        equal_sums(),
        equal_sums_of_all(),
        swapped_pairs(),
        few_bits(),
        two_counters(),
    ]
    blocks = np.concatenate(families)
    assert len(blocks) >= 1_000_000
    hashes = rows_of_blocks(fn, blocks)
    # Half of a hash suffices to tell so many apart; so much the more both.
    assert [len(np.unique(half)) for half in hashes.T] == [len(blocks)] * 2


def test_chains_of_counters_have_different_hashes(fn):
    counters = np.arange(1_600_000, dtype=np.int32)
    same = np.full(1_600_000, 7, np.int32)
    hashes = hashes_of(fn, counters, counters[16:], counters // 16, same)
    assert_all_differ([value for chain in hashes for value in chain])


# What would collide under keys that are known or alike


def forged(change):
    """A random block, and one whose words (two tokens each) are changed."""
    words = drawn_tokens(16, 7).view(np.uint64)
    other = words.copy()
    change(other)
    return words.view(np.int32), other.view(np.int32)


def move(words):
    words[0] += np.uint64(5)
    words[1] -= np.uint64(5)


def move_far(words):
    words[0] += np.uint64(5)
    words[7] -= np.uint64(5)


def swap(words):
    words[[2, 3]] = words[[3, 2]]


def rotate(words):
    words[:] = np.roll(words, 1)


def carry(words):
    """One 2**32 more here is one high token more; the same weight elsewhere is taken away."""
    words[4] += np.uint64(1 << 32)
    words[5] -= np.uint64(1 << 32)


@pytest.mark.parametrize("change", [move, move_far, swap, rotate, carry])
def test_words_of_equal_sums_do_not_collide(fn, change):
    for key in (KEY, bytes(32), b"\xff" * 32):
        blocks = [tuple(block.tolist()) for block in forged(change)]
        assert_all_differ([Kvgpu128(key)((PARENT, block, None)) for block in blocks])


def last_hashes(fn, *chains):
    return [hashes[-1] for hashes in hashes_of(fn, *map(np.concatenate, chains))]


def test_blocks_of_a_chain_are_not_just_added(fn):
    # s + v for s * r + v: a point of 1.
    one, two = drawn_tokens(16, 1), drawn_tokens(16, 2)
    plus, minus = one.copy(), two.copy()
    plus[0] += 9
    minus[0] -= 9
    assert_all_differ(last_hashes(fn, (one, two), (two, one), (plus, minus)))


def test_what_is_in_front_of_the_last_block_is_not_dropped(fn):
    # v for s * r + v: a point of 0.
    one, two, last = (drawn_tokens(16, n) for n in (1, 2, 3))
    assert_all_differ(last_hashes(fn, (one, last), (two, last), (one, two, last), (last,)))


def test_a_block_of_zeros_is_not_dropped(fn):
    zeros, one = np.zeros(16, np.int32), drawn_tokens(16, 1)
    assert_all_differ(last_hashes(fn, (zeros, one), (one,), (one, zeros), (zeros, zeros, one)))


# Like random bits


def bits_of(hashes):
    return np.unpackbits(np.ascontiguousarray(hashes).view(np.uint8), axis=1)


@pytest.fixture(scope="module")
def flips():
    """Which bits of the hash flip: [block, bit of the block, bit of the hash]."""
    fn, blocks = Kvgpu128(KEY), drawn_tokens(300 * 16).reshape(300, 16)
    masks = np.zeros((512, 16), np.uint32)
    masks[np.arange(512), np.arange(512) // 32] = np.uint32(1) << (
        np.arange(512, dtype=np.uint32) % 32
    )
    changed = blocks[:, None] ^ masks.view(np.int32)[None]
    before = bits_of(rows_of_blocks(fn, blocks))
    after = bits_of(rows_of_blocks(fn, changed.reshape(-1, 16)))
    return after.reshape(300, 512, 128) ^ before[:, None]


def furthest(frequencies):
    return float(np.abs(frequencies - 0.5).max())


def test_every_bit_of_the_hash_flips_half_of_the_time(flips):
    assert furthest(flips.mean(axis=(0, 1))) < 0.02


def test_every_bit_of_the_block_flips_half_of_the_hash(flips):
    assert furthest(flips.mean(axis=(0, 2))) < 0.02


def test_every_bit_of_the_block_flips_every_bit_of_the_hash_half_of_the_time(flips):
    # Seven standard deviations of 300 flips.
    assert furthest(flips.mean(axis=0)) < 0.2


def test_no_flip_leaves_most_of_a_hash_as_it_was(flips):
    # Of 153600 flips: fewer than 24 of 128 bits have a probability of some 10**-13 each.
    counts = flips.sum(axis=2)
    assert (counts.min() > 24, counts.max() < 104) == (True, True)


@pytest.mark.parametrize("byte", [0, 7, 8, 15])
@pytest.mark.parametrize("place", [0, 1, 15])
def test_hashes_of_counters_fill_buckets_evenly(fn, byte, place):
    blocks = np.zeros((50_000, 16), np.int32)
    blocks[:, place] = np.arange(50_000)
    hashes = rows_of_blocks(fn, blocks)
    buckets = np.bincount(np.ascontiguousarray(hashes).view(np.uint8)[:, byte], minlength=256)
    expected = 50_000 / 256
    chi_square = float(((buckets - expected) ** 2 / expected).sum())
    # 255 degrees of freedom: that is the mean, and the variance is twice as much.
    assert abs(chi_square - 255) < 5 * (2 * 255) ** 0.5


def test_neighbours_in_a_chain_differ_in_half_of_their_bits(fn):
    (hashes,) = hashes_of(fn, np.zeros(16_000, np.int32))
    values = [int.from_bytes(value, "little") for value in hashes]
    counts = [(a ^ b).bit_count() for a, b in pairwise(values)]
    assert 62 < sum(counts) / len(counts) < 66


# Errors


@pytest.mark.parametrize("token", [2**31, -(2**31) - 1, 2**32, 2**63 - 1, -(2**63), 2**63, 2**70])
@pytest.mark.parametrize("place", [0, 1, 15])
def test_a_token_beyond_32_bits_is_refused(fn, token, place):
    tokens = [0] * 16
    tokens[place] = token
    with pytest.raises(ArgumentError):
        fn((PARENT, tuple(tokens), None))


@pytest.mark.parametrize("token", [2**31, -(2**31) - 1, 2**63 - 1, -(2**63)])
def test_an_array_with_a_token_beyond_32_bits_is_refused(fn, token):
    tokens = drawn_tokens(160, dtype=np.int64)
    tokens[77] = token
    with pytest.raises(ArgumentError):
        hashes_of(fn, drawn_tokens(160), tokens)


@pytest.mark.parametrize("token", [True, 1.5, "a", None, b"a", (1,)])
@pytest.mark.parametrize("builtin", [ArgumentTypeError, TypeError])
def test_a_token_that_is_no_integer_is_refused(fn, token, builtin):
    with pytest.raises(builtin):
        fn((PARENT, (1, token), None))


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_a_key_of_another_length_is_refused(length):
    with pytest.raises(ArgumentError):
        Kvgpu128(b"k" * length)


@pytest.mark.parametrize("key", ["k" * 32, "6b" * 32, None, 7, bytearray(32), [0] * 32])
def test_a_key_that_is_not_bytes_is_refused(key):
    with pytest.raises(ArgumentTypeError):
        Kvgpu128(key)


def test_a_key_that_is_refused_is_not_shown():
    with pytest.raises(ArgumentError) as error:
        Kvgpu128(b"mostofasecret")
    assert "mostofasecret" not in str(error.value)


# The key of a process


@pytest.mark.parametrize(
    "value",
    ["5e" * 31, "5e" * 33, "5e" * 31 + "5g", " " + "5e" * 32, "5e" * 32 + "\n", "\uff15e" * 32],
)
def test_a_bad_key_of_the_process_is_refused_and_not_shown(monkeypatch, value):
    monkeypatch.setenv("KVGPU_HASH_KEY", value)
    with pytest.raises(ConfigError) as error:
        hash_key()
    assert "KVGPU_HASH_KEY" in str(error.value)
    assert value.strip()[:20] not in str(error.value)


@pytest.mark.parametrize("value", ["0123456789abcdef" * 4, "0123456789ABCDEF" * 4])
def test_the_key_of_the_process_is_written_in_hexadecimal_digits(monkeypatch, value):
    monkeypatch.setenv("KVGPU_HASH_KEY", value)
    assert hash_key() == bytes.fromhex("0123456789abcdef" * 4)


def test_without_a_key_of_the_process_there_is_a_random_one(monkeypatch):
    monkeypatch.delenv("KVGPU_HASH_KEY", raising=False)
    first, second = hash_key(), hash_key()
    assert (len(first), first != second) == (32, True)


def test_the_function_by_name_hashes_under_the_key_of_the_process():
    value = (PARENT, (1, 2, 3), ("salt",))
    assert hashing.get_hash_fn_by_name("kvgpu128")(value) == process_hash()(value)


@cache
def hashes_of_a_process(key, attempt=0):
    """A hash by name, and the last of a chain at once, after the `NONE_HASH` of a seed."""
    code = (
        "from kvgpu import Request, get_request_block_hasher, hashing as h; "
        "h.init_none_hash(h.kvgpu128); "
        "hasher = get_request_block_hasher(4, h.kvgpu128); "
        "request = Request('r', list(range(80)), cache_salt='s', block_hasher=hasher); "
        "print(h.hash_block_tokens(h.kvgpu128, None, [1, 2]).hex(), request.block_hashes[-1].hex())"
    )
    environment = {**os.environ, "KVGPU_HASH_KEY": key, "PYTHONHASHSEED": "0"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_processes_of_one_key_and_seed_share_hashes():
    assert hashes_of_a_process("5e" * 32) == hashes_of_a_process("5e" * 32, attempt=1)


def test_processes_of_different_keys_share_none():
    assert_all_differ([*hashes_of_a_process("5e" * 32), *hashes_of_a_process("5f" * 32)])


# As a hash function like the others


@pytest.mark.parametrize("value", ["0", "", 7, None, ("a",), (b"p", [1, 2], None), {"a": 1}])
def test_anything_that_cbor_writes_has_a_hash(fn, value):
    assert (len(fn(value)), fn(value)) == (16, Kvgpu128(KEY)(value))


@pytest.mark.parametrize("name", ["sha256", "kvgpu128"])
def test_requests_of_a_manager_hit_what_they_share(name):
    manager = make_manager(full(4))
    function = hashing.get_hash_fn_by_name(name)
    admit(manager, make_request("first", [*range(38)], 4, function))
    hits = {}
    for request_id, tokens, salt in [
        ("same", [*range(38)], None),
        ("shared", [*range(21), *range(50, 70)], None),
        ("salted", [*range(38)], "salt"),
        ("other", [9, *range(1, 38)], None),
    ]:
        request = make_request(request_id, tokens, 4, function, cache_salt=salt)
        hits[request_id] = manager.get_computed_blocks(request)[1]
    assert hits == {"same": 36, "shared": 20, "salted": 0, "other": 0}
