"""The compiled part of kvgpu128: universal hashes of blocks, their combination, and the keyed mix.

A block becomes ``v = sum(k[j] * w[j])`` over its words `w`; a prefix becomes ``s = s' * r + v``, `s'` being that
of the prefix in front; what leaves is ``mix(s)``. All in the field of `kvgpu.hashing.kvgpu128.field`; docs/hashing.md
has the bounds.

`keys` are uint64 [n, 2], two limbs of LIMB_BITS bits for each word of a block; `point` uint64 [2] is r; low
words come first in arrays, and last in the arguments of functions; `mix_keys` are `speck.round_keys`.
"""

from typing import Any

import numpy as np

from kvgpu.compiled.jit import carray, jit, leaf, nogil, pointer
from kvgpu.hashing.kvgpu128.field import LOW_63_BITS, ONE, TOP_BIT, ZERO, add_product, canonical, plus, reduced, times
from kvgpu.hashing.kvgpu128.speck import LANES, decrypt, encrypt_lanes
from kvgpu.layout import SUM_WORDS, TOKEN_WORDS

LIMB_BITS = 59
"""So short that SUM_WORDS products are below 2**127."""

EXTRA_FLAG = np.uint64(1 << 63)
COUNT_WORD, EXTRA_WORDS = 0, 1
"""Words of a block: its number of tokens, and whether there are extra keys; their digest; from TOKEN_WORDS on two
tokens a word."""

FLAG = 2
"""Place behind a digest of whether there are extra keys."""

LOW_32_BITS = np.uint64(0xFFFFFFFF)
HALF = np.uint64(32)
COMMON_SIZE = 16
"""Tokens of a block in most engines."""
PASS_BLOCKS = 16 * LANES
"""Blocks that are combined before they are mixed: of as many chains as it takes, so that all lanes are full."""


@leaf
def summed(
    tokens: Any,
    start: int,
    num_pairs: int,
    keys: Any,
    word: int,
    low_high: Any,
    low_low: Any,
    high_high: Any,
    high_low: Any,
) -> Any:
    """Sums of the products with both limbs, and so many pairs of tokens more."""
    for pair in range(num_pairs):
        # Unsigned, so that compiled code does not ask whether an index counts from the end.
        place, key = np.uint64(start + 2 * pair), np.uint64(word + pair)
        both = np.uint64(tokens[place]) & LOW_32_BITS
        both |= np.uint64(tokens[place + ONE]) << HALF
        low_high, low_low = add_product(low_high, low_low, both, keys[key, 0])
        high_high, high_low = add_product(high_high, high_low, both, keys[key, 1])
    return low_high, low_low, high_high, high_low


@leaf
def counted(size: int, has_extra: bool, keys: Any) -> Any:
    """Products with both limbs of the word that counts the tokens of a block."""
    count = np.uint64(size)
    if has_extra:
        count |= EXTRA_FLAG
    low_high, low_low = add_product(ZERO, ZERO, count, keys[COUNT_WORD, 0])
    high_high, high_low = add_product(ZERO, ZERO, count, keys[COUNT_WORD, 1])
    return low_high, low_low, high_high, high_low


@leaf
def block_value(
    tokens: Any, start: int, size: int, extra_high: Any, extra_low: Any, has_extra: bool, keys: Any, count: Any
) -> Any:
    """v of the block tokens[start : start + size]; `count` is what is `counted`."""
    low_high, low_low, high_high, high_low = count
    if has_extra:
        low_high, low_low = add_product(low_high, low_low, extra_low, keys[EXTRA_WORDS, 0])
        high_high, high_low = add_product(high_high, high_low, extra_low, keys[EXTRA_WORDS, 1])
        low_high, low_low = add_product(low_high, low_low, extra_high, keys[EXTRA_WORDS + 1, 0])
        high_high, high_low = add_product(high_high, high_low, extra_high, keys[EXTRA_WORDS + 1, 1])
    num_pairs = size // 2
    done = min(num_pairs, SUM_WORDS - TOKEN_WORDS - 1)
    low_high, low_low, high_high, high_low = summed(
        tokens, start, done, keys, TOKEN_WORDS, low_high, low_low, high_high, high_low
    )
    if size % 2:
        last = np.uint64(tokens[start + size - 1]) & LOW_32_BITS
        word = TOKEN_WORDS + num_pairs
        low_high, low_low = add_product(low_high, low_low, last, keys[word, 0])
        high_high, high_low = add_product(high_high, high_low, last, keys[word, 1])
    v_high, v_low = reduced(low_high, low_low, high_high, high_low)
    while done < num_pairs:
        more = min(num_pairs - done, SUM_WORDS)
        low_high, low_low, high_high, high_low = summed(
            tokens, start + 2 * done, more, keys, TOKEN_WORDS + done, ZERO, ZERO, ZERO, ZERO
        )
        part_high, part_low = reduced(low_high, low_low, high_high, high_low)
        v_high, v_low = plus(v_high, v_low, part_high, part_low)
        done += more
    return v_high, v_low


@leaf
def combined(high: Any, low: Any, v_high: Any, v_low: Any, point: Any) -> Any:
    """s of a prefix, from that of the prefix in front and v of its last block."""
    high, low = times(high, low, point[1], point[0])
    return plus(high, low, v_high, v_low)


@leaf
def prefixes(
    tokens: Any,
    start: int,
    size: int,
    base: int,
    extras: Any,
    keys: Any,
    point: Any,
    high: Any,
    low: Any,
    highs: Any,
    lows: Any,
) -> Any:
    """s of prefixes whose last blocks follow each other; the first has place `base` in extras.

    (high, low) is s of what is in front; the last s is returned. While the product of one block is waited
    for, the processor takes the sums of the next.
    """
    if size == COMMON_SIZE and len(extras) == 0:
        # The same with a constant, which the compiler unrolls: half of the time.
        count = counted(COMMON_SIZE, False, keys)
        for block in range(len(highs)):
            first = start + block * COMMON_SIZE
            v_high, v_low = block_value(tokens, first, COMMON_SIZE, ZERO, ZERO, False, keys, count)
            high, low = combined(high, low, v_high, v_low, point)
            highs[block], lows[block] = high, low
        return high, low
    for block in range(len(highs)):
        first, place = start + block * size, base + block
        has_extra = len(extras) > 0 and extras[place, FLAG] != ZERO
        extra_high, extra_low = ZERO, ZERO
        if has_extra:
            extra_high, extra_low = extras[place, 1], extras[place, 0]
        v_high, v_low = block_value(
            tokens, first, size, extra_high, extra_low, has_extra, keys, counted(size, has_extra, keys)
        )
        high, low = combined(high, low, v_high, v_low, point)
        highs[block], lows[block] = high, low
    return high, low


@leaf
def write_mixed(mix_keys: Any, highs: Any, lows: Any, count: int, out: Any, base: int) -> None:
    """Hashes for the first `count` s of prefixes, which are overwritten, to out[base : base + count]."""
    for block in range(count):
        highs[block], lows[block] = canonical(highs[block], lows[block])
    for place in range(0, count, LANES):
        encrypt_lanes(highs, lows, place, mix_keys)
    for block in range(count):
        out[base + block, 0], out[base + block, 1] = lows[block], highs[block]
        for word in range(2, out.shape[1]):
            out[base + block, word] = ZERO


@nogil
def hash_chains(
    like: Any,
    arrays: Any,
    counts: Any,
    first: int,
    last: int,
    base: int,
    size: int,
    states: Any,
    extras: Any,
    keys: Any,
    point: Any,
    mix_keys: Any,
    out: Any,
) -> None:
    """Hashes of all blocks of the chains [first, last) of several; those in front have `base` blocks.

    Args:
        like: Empty, int32 or int64: what the tokens are, all of them within 32 bits.
        arrays: int64 [n]: address of the first token of each chain; counts: int64 [n]: its blocks; size:
            tokens of a block.
        states: uint64 [n, 2], s of what is in front of each chain.
        extras: uint64 [blocks, 3], digest of the extra keys and 1 or 0 for whether there are any, chain by
            chain; [0, 3]: no block has any.
        out: uint64 [blocks, >= 2], the hashes, chain by chain, low word first; 0 in all words behind.
    """
    highs, lows = np.zeros(PASS_BLOCKS, np.uint64), np.zeros(PASS_BLOCKS, np.uint64)
    filled = 0
    for chain in range(first, last):
        high, low = states[chain, 1], states[chain, 0]
        tokens = carray(pointer(arrays[chain], like), (counts[chain] * size,))
        begin = 0
        while begin < counts[chain]:
            end = filled + min(PASS_BLOCKS - filled, counts[chain] - begin)
            high, low = prefixes(
                tokens,
                begin * size,
                size,
                base + filled,
                extras,
                keys,
                point,
                high,
                low,
                highs[filled:end],
                lows[filled:end],
            )
            begin += end - filled
            filled = end
            if filled == PASS_BLOCKS:
                write_mixed(mix_keys, highs, lows, filled, out, base)
                base += filled
                filled = 0
    write_mixed(mix_keys, highs, lows, filled, out, base)


@jit
def unmix(words: Any, mix_keys: Any) -> Any:
    """s of the prefixes with these hashes, uint64 [n, 2] as they are, low word first; some element for other bytes."""
    states = np.empty((len(words), 2), np.uint64)
    for place in range(len(words)):
        high, low = decrypt(words[place, 1], words[place, 0], mix_keys)
        # Foreign bytes may give the top bit, which is 1 in the field.
        states[place, 1], states[place, 0] = plus(high & LOW_63_BITS, low, ZERO, high >> TOP_BIT)
    return states


@jit
def all_fit(tokens: Any) -> bool:
    """Whether all tokens are within -2**31 and 2**31 - 1, so that two make a word. O(tokens)."""
    outside = 0
    for place in range(len(tokens)):
        outside |= (tokens[place] + (1 << 31)) >> 32
    return bool(outside == 0)
