"""The slot hash separates keys that somebody chose who does not know the seed. Seeds are fixed: nothing is left to
luck.

What the bounds are is said in docs/design.md. Costs are buckets, not time.
"""

import numpy as np
import pytest
from support.slot_hashes import mixed

from kvgpu.blocks.state import BlockState
from kvgpu.index.host.index import HostIndex
from kvgpu.index.host.table import counters, hash_of
from kvgpu.layout import LOW_32, OVERFLOW_WORD

COUNT = 4096
SEEDS = [int(seed) for seed in np.random.default_rng(0).integers(2**63, size=1000)]
TOP = np.int64(-(2**63))

rng = np.random.default_rng(1)
BASE = rng.integers(-(2**62), 2**62, 4)
numbers = np.arange(COUNT)
high, low = numbers >> 6, numbers & 63


def changed(**words):
    """COUNT keys that differ from one in the words w0 to w3."""
    keys = np.tile(BASE, (COUNT, 1))
    for name, change in words.items():
        keys[:, int(name[1])] ^= change
    return keys


def two_bits():
    keys = np.tile(BASE, (COUNT, 1))
    pairs = [(a, b) for a in range(256) for b in range(a)]
    for key, (a, b) in zip(keys, rng.permutation(pairs)[:COUNT].tolist(), strict=True):
        key[a // 64] ^= np.int64(np.uint64(1) << np.uint64(a % 64))
        key[b // 64] ^= np.int64(np.uint64(1) << np.uint64(b % 64))
    return keys


FAMILIES = {
    # These had 64 hashes between them under every seed, when the seed was what the first round began with.
    "top bits that cancelled": changed(w0=high << 58, w1=(low << 58) | (low << 26)),
    "top bits of two words": changed(w0=high << 58, w1=low << 58),
    "top bits of two pairs": changed(w0=high << 58, w2=low << 58),
    "top bits of one word": changed(w3=numbers << 52),
    "numbers in the first word": changed(w0=numbers),
    "numbers in the last word": changed(w3=numbers),
    "even numbers": changed(w1=numbers << 1),
    "numbers in the middle": changed(w2=numbers << 31),
    "numbers and nothing else": changed(w0=numbers) ^ BASE,
    "sums that stay the same": BASE + np.outer(numbers, [1, 0, -1, 0]),
    "products that might stay the same": BASE + np.outer(numbers, [1, -1, 0, 0]),
    "a grid": BASE + np.stack([high, low, high, low], 1),
    "16 bytes": np.stack([numbers, numbers * 2**40, 0 * numbers, 0 * numbers], 1),
    "two bits changed": two_bits(),
    "random": rng.integers(-(2**63), 2**63 - 1, (COUNT, 4)),
}
every_family = pytest.mark.parametrize("keys", FAMILIES.values(), ids=FAMILIES)


def hashes(keys, seed, group=0):
    return np.array([hash_of(key, group, seed) for key in keys]).view(np.uint64)


def buckets_read(keys, seed):
    """Buckets that are looked at to enter the keys, each once, into an empty table."""
    state = BlockState(len(keys))
    state.adopt_width(32)
    index = HostIndex(state)
    index.seed = seed
    index.insert(np.arange(len(keys), dtype=np.int32), keys, 1, 0, 0)
    return len(keys) + int(counters(index.table[:, OVERFLOW_WORD]).sum())


def test_it_is_that_of_the_definition():
    for seed, key in zip(SEEDS, FAMILIES["random"], strict=False):
        group = seed % 2**31
        assert hash_of(key, group, seed) % 2**64 == mixed(seed, key, group)


@every_family
def test_different_keys_have_different_hashes(keys):
    assert len(np.unique(keys, axis=0)) == COUNT
    for seed in SEEDS[:3]:
        assert len(np.unique(hashes(keys, seed))) == COUNT


@every_family
def test_chosen_keys_cost_no_more_than_random_ones(keys):
    for seed in SEEDS[:20]:
        assert buckets_read(keys, seed) < 1.1 * buckets_read(FAMILIES["random"], seed)


@every_family
def test_buckets_and_tags_are_spread_evenly(keys):
    """Chi-squared of the highest and lowest bits of what chooses the bucket, and of the highest of the tag.

    256 classes: 360 once in 10,000. The lowest bits of tags are more regular than random ones; all of a tag counts.
    """
    for seed in SEEDS[:5]:
        found = hashes(keys, seed)
        assert len(np.unique(found & np.uint64(LOW_32))) > COUNT - 10
        for shift in (56, 32, 24):
            counts = np.bincount((found >> np.uint64(shift)) & np.uint64(255), minlength=256)
            assert ((counts - COUNT / 256) ** 2).sum() * 256 / COUNT < 400


def pair(*changes):
    other = BASE.copy()
    for word, change in changes:
        other[word] ^= np.int64(change)
    return other


PAIRS = {
    "top bits that cancelled": pair((0, TOP), (1, TOP | 1 << 31)),
    "the top bit": pair((0, TOP)),
    "the top bits of both factors": pair((2, TOP), (3, TOP)),
    "the top bits of all words": pair(*((word, TOP) for word in range(4))),
    "the lowest bit": pair((3, 1)),
    "the middle of a word": pair((1, 1 << 32)),
    "factors that change places": BASE[[1, 0, 2, 3]],
    "products that change places": BASE[[2, 3, 0, 1]],
}


@pytest.mark.parametrize("other", PAIRS.values(), ids=PAIRS)
def test_two_keys_share_a_bucket_or_part_of_a_tag_under_few_seeds(other):
    """At most twice as often as random keys; 64 buckets, and the 6 bits of a tag behind the one that is set."""
    found = np.array([(hash_of(BASE, 0, seed), hash_of(other, 0, seed)) for seed in SEEDS])
    one, two = found.view(np.uint64).T
    assert (one != two).all()
    assert (one >> np.uint64(58) == two >> np.uint64(58)).sum() < 2 * len(SEEDS) / 64 + 15
    tags = (one & np.uint64(LOW_32)) >> np.uint64(1), (two & np.uint64(LOW_32)) >> np.uint64(1)
    assert (tags[0] & np.uint64(63) == tags[1] & np.uint64(63)).sum() < 2 * len(SEEDS) / 64 + 15
    assert (tags[0] != tags[1]).all()


def test_groups_of_one_key_are_spread_like_keys():
    for seed in SEEDS[:5]:
        found = np.array([hash_of(BASE, group, seed) for group in range(256)]).view(np.uint64)
        assert len(np.unique(found >> np.uint64(52))) > 200
        assert len(np.unique(found & np.uint64(LOW_32))) == 256


def test_neither_a_hash_nor_a_tag_is_ever_0():
    """Compiled loops take 0 for a hash that is not known, and an empty slot has the tag 0."""
    found = np.concatenate([hashes(keys, SEEDS[0]) for keys in FAMILIES.values()])
    assert (found & np.uint64(1)).all()
