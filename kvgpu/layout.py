"""The byte layout of the block-hash table: one statement for every target that reads or writes it.

A bucket is one 64-byte line of eight 64-bit words: seven slots and a header. A slot holds
``tag << 32 | block_id + 1``; the word 0 is an empty slot. The header is eight overflow counters.
They count the entries whose probe went past this bucket because it was full when they entered;
three bits of an entry's tag say which counter counts it. So a probe may stop at the first bucket
whose counter for its own tag is 0, and an entry leaves no tombstone. A counter that is full stays
so until the table is cleared or rebuilt, since it no longer says how many entries there are.

All constants fit a signed 64-bit integer, because Triton and Numba mix signed and unsigned
64-bit arithmetic badly; every target computes with wrapping signed words and logical shifts.
"""

BUCKET_WORDS = 8
SLOTS_PER_BUCKET = 7
OVERFLOW_WORD = 7
OVERFLOW_COUNTERS = 8
OVERFLOW_BITS = 8
OVERFLOW_FULL = 2**OVERFLOW_BITS - 1
OVERFLOW_SHIFT = 29
"""Counter ``slot_hash >> OVERFLOW_SHIFT & OVERFLOW_COUNTERS - 1`` counts an entry; counter 0 is the lowest bits of the
header. These are the highest bits of the tag: the lowest ones are less random, and the last is always 1."""
EMPTY_WORD = 0

LOW_32 = 0xFFFFFFFF
TAG_SHIFT = 32

KEY_WORDS = 4
"""A key is four 64-bit words (32 bytes); 16-byte hashes leave the last two 0."""

MAX_BLOCK_ID = 2**31 - 3
MAX_GROUP_ID = 2**31 - 1

HASH_MULTIPLIER = -7046029254386353131
"""0x9E3779B97F4A7C15 as a signed word: odd, so that multiplying permutes the 64-bit words."""

SEED_STEP = HASH_MULTIPLIER
SEED_MIX_1 = -4658895280553007687
SEED_MIX_2 = -7723592293110705685
"""SplitMix64, which makes the secret words of the slot hash of a seed: 0xBF58476D1CE4E5B9 and 0x94D049BB133111EB."""
FACTOR_LOW, FACTOR_HIGH = 5, 6
"""Places of these words: 1 to KEY_WORDS are added to the words of a key, the last two are a factor of 128 bits."""

DEFAULT_LOAD_FACTOR = 0.5
"""At 0.5 one bucket in thirty overflows and 18 bytes serve a block; at 0.7 one in three does, and 13 bytes. Entering a
block took half as long again at 0.7 while a bucket had one counter, and takes up to a tenth longer with eight
(bench/table.py)."""


def num_buckets_for(capacity: int, load_factor: float = DEFAULT_LOAD_FACTOR) -> int:
    """Number of buckets so that `capacity` entries fill at most `load_factor` of the slots."""
    return max(2, -int(-capacity // (SLOTS_PER_BUCKET * load_factor)))


# Device memory beside the table.

NEVER = -1
"""A value that is in no set of a batch (kernels/validate.py): idle lanes compare with it. A header can be -1."""

META_SIZE = 0
META_STATUS = 1
META_GATE = 2
META_WORDS = 8
"""Words of the meta array: number of keys; status bits since the last look; whether the batch that
is being applied was found bad."""

STATUS_BAD_BLOCK_ID = 1
STATUS_BAD_GROUP = 2
STATUS_BAD_OFFSETS = 4
STATUS_TABLE_FULL = 8
STATUS_WORD_NOT_FOUND = 16
STATUS_KEY_TWICE = 32
STATUS_BLOCK_TWICE = 64
STATUS_WRONG_OLD = 128


def record_words(key_words: int) -> int:
    """Words of a block's record on a device: the key, the group, and padding to 32 or 64 bytes."""
    return 2 * key_words


MAX_TOKENS = 2**30
"""Longest request; kernels count tokens in 32 bits and add a block to them."""

SUM_WORDS = 16
"""kvgpu128: products of a word and a limb of a key that fit into 127 bits together."""
TOKEN_WORDS = 3
"""kvgpu128: words of a block in front of its tokens: their number, and the digest of the extra keys."""
