"""kvgpu128 has no collisions, not even forged ones, and no patterns."""

from itertools import pairwise

import cbor2
import numpy as np
import pytest
from support.definitions.kvgpu128 import KEY, PARENT, SUM, assert_all_differ, definition, drawn_tokens, hashes_of

from kvgpu.hashing.bulk.chains import Blocks
from kvgpu.hashing.kvgpu128.function import Kvgpu128


@pytest.fixture(scope="module")
def fn():
    return Kvgpu128(KEY)


# Different blocks


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
    parents = [bytes(n) for n in range(40)] + [b"\xff" * 16, bytes(15) + b"\x80", b"\x01" + bytes(15)]
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
        hashes_of(fn, np.concatenate(order)) for order in ((tokens[:16], tokens[16:]), (tokens[16:], tokens[:16]))
    )
    assert_all_differ([*there, *back])


def test_equal_blocks_after_different_ones_have_different_hashes(fn):
    tail = drawn_tokens(160)
    first, second = hashes_of(fn, *(np.concatenate([drawn_tokens(16, n), tail]) for n in (1, 2)))
    assert_all_differ([*first, *second])


def rows_of_blocks(fn, blocks):
    """Hash blocks int32 [n, size] with the same parent to uint64 [n, 2]."""
    blocks = np.ascontiguousarray(blocks)
    count = len(blocks)
    keys = fn.hashes(Blocks([*blocks], [1] * count, count, blocks.shape[1], [PARENT] * count, None))
    return keys.view(np.uint64)[:, :2]


def like_one(seed, count):
    """Copies int32 [count, 16] of one random block of small tokens; blocks of different seeds differ in most tokens."""
    block = np.random.default_rng(seed).integers(0, 50_000, 16, np.int32)
    return np.repeat(block[None], count, axis=0)


def counters_at(place, shift, count=70_000):
    blocks = like_one(place, count)
    blocks[:, place] = np.arange(count) << shift
    return blocks


def equal_sums(count=70_000):
    """Blocks whose first word increases as the second decreases."""
    blocks = like_one(100, count)
    blocks[:, 0], blocks[:, 2] = np.arange(count), SUM - np.arange(count)
    return blocks


def equal_sums_of_all(count=70_000):
    blocks = like_one(101, count)
    steps = np.arange(count)
    blocks[:, 4], blocks[:, 5], blocks[:, 6], blocks[:, 7] = steps, -steps, -steps, steps
    return blocks


def swapped_pairs():
    """500 random blocks with every pair of their tokens swapped."""
    rng = np.random.default_rng(102)
    pairs = [(i, j) for i in range(16) for j in range(i)]
    blocks = []
    for _ in range(500):
        swapped = np.repeat(rng.choice(2**20, (1, 16), replace=False).astype(np.int32), 120, axis=0)
        for block, (i, j) in zip(swapped, pairs, strict=True):
            block[i], block[j] = block[j], block[i]
        blocks.append(swapped)
    return np.concatenate(blocks)


def few_bits():
    """Every block of zeros with at most two bits in each of two tokens set."""
    values = [0, *(1 << i for i in range(31)), *(1 << i | 1 << j for i in range(31) for j in range(i))]
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
    # Half of a hash suffices to tell this many apart, so both halves do as well.
    assert [len(np.unique(half)) for half in hashes.T] == [len(blocks)] * 2


def test_chains_of_counters_have_different_hashes(fn):
    counters = np.arange(1_600_000, dtype=np.int32)
    same = np.full(1_600_000, 7, np.int32)
    hashes = hashes_of(fn, counters, counters[16:], counters // 16, same)
    assert_all_differ([value for chain in hashes for value in chain])


# Blocks that would collide if keys were known or equal


def forged(change):
    """A random block, and the same block with some of its words (two tokens each) changed."""
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
    """Adding 2**32 to a word increments its high token; the same weight is taken from another word."""
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
    # A point of 1 would make s + v of s * r + v.
    one, two = drawn_tokens(16, 1), drawn_tokens(16, 2)
    plus, minus = one.copy(), two.copy()
    plus[0] += 9
    minus[0] -= 9
    assert_all_differ(last_hashes(fn, (one, two), (two, one), (plus, minus)))


def test_what_is_in_front_of_the_last_block_is_not_dropped(fn):
    # A point of 0 would make v of s * r + v.
    one, two, last = (drawn_tokens(16, n) for n in (1, 2, 3))
    assert_all_differ(last_hashes(fn, (one, last), (two, last), (one, two, last), (last,)))


def test_a_block_of_zeros_is_not_dropped(fn):
    zeros, one = np.zeros(16, np.int32), drawn_tokens(16, 1)
    assert_all_differ(last_hashes(fn, (zeros, one), (one,), (one, zeros), (zeros, zeros, one)))


# Randomness of the bits


def bits_of(hashes):
    return np.unpackbits(np.ascontiguousarray(hashes).view(np.uint8), axis=1)


@pytest.fixture(scope="module")
def flips():
    """Whether a bit of the hash flips with a bit of the block: [block, bit of the block, bit of the hash]."""
    fn, blocks = Kvgpu128(KEY), drawn_tokens(300 * 16).reshape(300, 16)
    masks = np.zeros((512, 16), np.uint32)
    masks[np.arange(512), np.arange(512) // 32] = np.uint32(1) << (np.arange(512, dtype=np.uint32) % 32)
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
    # 153600 hashes: fewer than 24 of 128 bits flip with a probability of about 10**-13 each.
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
    # 255 degrees of freedom: the mean is 255, and the variance twice as much.
    assert abs(chi_square - 255) < 5 * (2 * 255) ** 0.5


def test_neighbours_in_a_chain_differ_in_half_of_their_bits(fn):
    (hashes,) = hashes_of(fn, np.zeros(16_000, np.int32))
    values = [int.from_bytes(value, "little") for value in hashes]
    counts = [(a ^ b).bit_count() for a, b in pairwise(values)]
    assert 62 < sum(counts) / len(counts) < 66
