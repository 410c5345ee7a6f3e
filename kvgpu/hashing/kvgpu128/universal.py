"""The compiled part of kvgpu128: universal hashes of blocks, their combination, and the keyed mix.

The value of a block is ``v = sum(k[j] * w[j])`` over its words `w`. The state of a prefix is ``s = s' * r + v``, `s'`
being the state before its last block. The hash is ``mix(s)``. All of it is arithmetic in the field of
`kvgpu.hashing.kvgpu128.field`; docs/hashing.md has the bounds.

Arrays hold the low word of an element first; functions take the high word first.
"""

from typing import Any, NamedTuple

import numpy as np

from kvgpu.compiled.jit import jit, leaf, nogil
from kvgpu.hashing.bulk.chains import ChainTokens, tokens_of
from kvgpu.hashing.bulk.threads import Part
from kvgpu.hashing.kvgpu128.field import LOW_63_BITS, ONE, TOP_BIT, ZERO, add_product, canonical, plus, reduced, times
from kvgpu.hashing.kvgpu128.speck import LANES, decrypt, encrypt_lanes
from kvgpu.layout import SUM_WORDS, TOKEN_WORDS

LIMB_BITS = 59
"""Short enough for a sum of SUM_WORDS products to stay below 2**127."""

EXTRA_FLAG = np.uint64(1 << 63)
COUNT_WORD, EXTRA_WORDS = 0, 1
"""Words of a block: its number of tokens, with EXTRA_FLAG if it has extra keys, and 2**32 times the number of tokens
for look-ahead; from EXTRA_WORDS on, the digest of the extra keys; from TOKEN_WORDS on, two tokens a word, those for
look-ahead behind those of the block."""

HAS_EXTRA = 2
"""Column of `extras` that says whether a block has extra keys; the columns before it hold their digest."""

LOW_32_BITS = np.uint64(0xFFFFFFFF)
HALF = np.uint64(32)
COMMON_SIZE = 16
"""Tokens of a block in most engines."""
PASS_BLOCKS = 16 * LANES
"""Blocks that are combined before they are mixed, of as many chains as it takes to fill all lanes."""


class Secrets(NamedTuple):
    """What is derived from the key.

    word_keys: uint64 [words, 2], for each word of a block two limbs of LIMB_BITS bits.
    point: uint64 [2], the element r.
    mix_keys: uint64 [ROUNDS], the `round_keys` of Speck.
    """

    word_keys: Any
    point: Any
    mix_keys: Any


class Sums(NamedTuple):
    """Sums of the products of words with the low and with the high limbs of their keys, 128 bits each."""

    low_high: Any
    low_low: Any
    high_high: Any
    high_low: Any


class ExtraDigest(NamedTuple):
    """Digest of the extra keys of a block. known: whether the block has any."""

    high: Any
    low: Any
    known: bool


@leaf
def plus_word(sums: Sums, word: Any, word_keys: Any, place: Any) -> Sums:
    """Add the products of one word of a block."""
    low_high, low_low = add_product(sums.low_high, sums.low_low, word, word_keys[place, 0])
    high_high, high_low = add_product(sums.high_high, sums.high_low, word, word_keys[place, 1])
    return Sums(low_high, low_low, high_high, high_low)


@leaf
def plus_pairs(sums: Sums, tokens: Any, start: int, num_pairs: int, word_keys: Any, word: int) -> Sums:
    """Add the products of `num_pairs` pairs of tokens, which are the words of a block from `word` on."""
    for pair in range(num_pairs):
        # Unsigned indices, so that compiled code need not check for negative ones.
        place, key = np.uint64(start + 2 * pair), np.uint64(word + pair)
        both = np.uint64(tokens[place]) & LOW_32_BITS
        both |= np.uint64(tokens[place + ONE]) << HALF
        sums = plus_word(sums, both, word_keys, key)
    return sums


@leaf
def count_sums(size: int, lookahead: int, has_extra: bool, word_keys: Any) -> Sums:
    """Products of the word that counts the tokens of a block."""
    count = np.uint64(size) | (np.uint64(lookahead) << HALF)
    if has_extra:
        count |= EXTRA_FLAG
    return plus_word(Sums(ZERO, ZERO, ZERO, ZERO), count, word_keys, COUNT_WORD)


@leaf
def block_value(tokens: Any, start: int, size: int, extra: ExtraDigest, word_keys: Any, sums: Sums) -> Any:
    """v of a block, whose `size` tokens, with those for look-ahead, begin at `start`; `sums` come from `count_sums`."""
    if extra.known:
        sums = plus_word(sums, extra.low, word_keys, EXTRA_WORDS)
        sums = plus_word(sums, extra.high, word_keys, EXTRA_WORDS + 1)
    num_pairs = size // 2
    # The first SUM_WORDS words, one of which is left for the last token of an odd number.
    done = min(num_pairs, SUM_WORDS - TOKEN_WORDS - 1)
    sums = plus_pairs(sums, tokens, start, done, word_keys, TOKEN_WORDS)
    if size % 2:
        last = np.uint64(tokens[start + size - 1]) & LOW_32_BITS
        sums = plus_word(sums, last, word_keys, TOKEN_WORDS + num_pairs)
    v_high, v_low = reduced(sums.low_high, sums.low_low, sums.high_high, sums.high_low)
    # The other words, SUM_WORDS at a time.
    while done < num_pairs:
        more = min(num_pairs - done, SUM_WORDS)
        part = Sums(ZERO, ZERO, ZERO, ZERO)
        part = plus_pairs(part, tokens, start + 2 * done, more, word_keys, TOKEN_WORDS + done)
        part_high, part_low = reduced(part.low_high, part.low_low, part.high_high, part.high_low)
        v_high, v_low = plus(v_high, v_low, part_high, part_low)
        done += more
    return v_high, v_low


@leaf
def combined(state: Any, value: Any, point: Any) -> Any:
    """State after a block with this value, from the state before it."""
    high, low = times(state[0], state[1], point[1], point[0])
    return plus(high, low, value[0], value[1])


@leaf
def combine_blocks(
    tokens: Any, size: int, lookahead: int, extras: Any, secrets: Secrets, state: Any, highs: Any, lows: Any
) -> Any:
    """Compute the states of prefixes that end with consecutive blocks, into (highs, lows); returns the last.

    While the processor waits for the product of one block, it takes the sums of the next.

    Args:
        tokens: Those of the blocks, and those for look-ahead.
        size: Tokens of a block.
        lookahead: Tokens after a block that belong to it, too.
        extras: uint64 [>= blocks, 3] as in `hash_chains`; or empty.
        state: (high, low) before the first block.
    """
    keys = secrets.word_keys
    if size == COMMON_SIZE and lookahead == 0 and len(extras) == 0:
        # The same with a constant size, which the compiler unrolls: takes half of the time.
        count, no_extra = count_sums(COMMON_SIZE, 0, False, keys), ExtraDigest(ZERO, ZERO, False)
        for block in range(len(highs)):
            value = block_value(tokens, block * COMMON_SIZE, COMMON_SIZE, no_extra, keys, count)
            state = combined(state, value, secrets.point)
            highs[block], lows[block] = state
        return state
    for block in range(len(highs)):
        extra = ExtraDigest(ZERO, ZERO, False)
        if len(extras) > 0 and extras[block, HAS_EXTRA] != ZERO:
            extra = ExtraDigest(extras[block, 1], extras[block, 0], True)
        count = count_sums(size, lookahead, extra.known, keys)
        value = block_value(tokens, block * size, size + lookahead, extra, keys, count)
        state = combined(state, value, secrets.point)
        highs[block], lows[block] = state
    return state


@leaf
def write_mixed(mix_keys: Any, highs: Any, lows: Any, out: Any) -> None:
    """Mix the states of len(out) prefixes in place, and write them to `out` as hashes."""
    count = len(out)
    for block in range(count):
        highs[block], lows[block] = canonical(highs[block], lows[block])
    for place in range(0, count, LANES):
        encrypt_lanes(highs, lows, place, mix_keys)
    for block in range(count):
        out[block, 0], out[block, 1] = lows[block], highs[block]
        for word in range(2, out.shape[1]):
            out[block, word] = ZERO


@nogil
def hash_chains(chains: Any, part: Any, states: Any, extras: Any, secrets: Any, out: Any) -> None:
    """Hash all blocks of some chains.

    Args:
        chains, part, secrets: Plain tuples with the fields of `ChainTokens`, `Part` and `Secrets`; all tokens are
            within 32 bits.
        states: uint64 [chains, 2], the state before each chain.
        extras: uint64 [blocks, 3], chain by chain: the digest of the extra keys, and 1 if there are any, else 0.
            [0, 3] if no block has any.
        out: uint64 [blocks, >= 2], the hashes, chain by chain, low word first, padded with zeros.
    """
    chains, part, secrets = ChainTokens(*chains), Part(*part), Secrets(*secrets)
    size, base = chains.size, part.base
    highs, lows = np.zeros(PASS_BLOCKS, np.uint64), np.zeros(PASS_BLOCKS, np.uint64)
    filled = 0
    # Blocks [base, base + filled) are combined and not mixed yet.
    for chain in range(part.first, part.last):
        state = states[chain, 1], states[chain, 0]
        tokens = tokens_of(chains, chain)
        begin = 0
        while begin < chains.counts[chain]:
            end = filled + min(PASS_BLOCKS - filled, chains.counts[chain] - begin)
            state = combine_blocks(
                tokens[begin * size :],
                size,
                chains.lookahead,
                extras[base + filled :],
                secrets,
                state,
                highs[filled:end],
                lows[filled:end],
            )
            begin += end - filled
            filled = end
            if filled == PASS_BLOCKS:
                write_mixed(secrets.mix_keys, highs, lows, out[base : base + filled])
                base += filled
                filled = 0
    write_mixed(secrets.mix_keys, highs, lows, out[base : base + filled])


@jit
def unmix(words: Any, mix_keys: Any) -> Any:
    """States of the prefixes with these hashes, both uint64 [n, 2]; bytes that are no hash give some element, too."""
    states = np.empty((len(words), 2), np.uint64)
    for place in range(len(words)):
        high, low = decrypt(words[place, 1], words[place, 0], mix_keys)
        # Bytes that are no hash may set the top bit, which stands for 1 in the field.
        states[place, 1], states[place, 0] = plus(high & LOW_63_BITS, low, ZERO, high >> TOP_BIT)
    return states


@jit
def all_fit(tokens: Any) -> bool:
    """Whether all tokens are from -2**31 to 2**31 - 1, so that two make a word. O(tokens)."""
    outside = 0
    for place in range(len(tokens)):
        outside |= (tokens[place] + (1 << 31)) >> 32
    return bool(outside == 0)
