"""kvgpu128 of whole prompts: the values of all blocks at once, the prefixes by a scan, and the keyed mix.

Within a tile of TILE blocks, s of prefix i is r**i times the sum of v[j] * r**-j, so the scan only adds. The
same method, applied to the last prefixes of the tiles of a prompt (`carries_kernel`), gives what precedes each
tile. docs/hashing.md says what is computed and why; `kvgpu.hashing.kvgpu128.universal` computes the same on the CPU.

`powers` are uint64 bits in int64 [2, lanes + 1, 2]: powers of a point from 0 on, and of its inverse, low word first.
"""

from typing import Any

import triton
import triton.language as tl

from kvgpu.kernels.primitives.field import add_product, canonical, plus, reduced, times
from kvgpu.kernels.primitives.kernel import kernel
from kvgpu.layout import SUM_WORDS, TOKEN_WORDS

TILE = 256
WARPS = 4
CARRIED, CARRIED_WARPS = 1024, 16
"""Tiles of a prompt that `carries_kernel` handles at a time: few rounds, because each waits for the one before."""


@triton.jit
def load_word(pointer, mask):
    """Load 64 bits, unsigned."""
    return tl.load(pointer, mask=mask, other=0).to(tl.uint64, bitcast=True)


@triton.jit
def load_element(pointer, mask):
    """Load (high, low) from two words, low word first."""
    return load_word(pointer + 1, mask), load_word(pointer, mask)


@triton.jit
def store_element(pointer, high, low, mask):
    """Store an element as `load_element` loads it."""
    tl.store(pointer, low.to(tl.int64, bitcast=True), mask=mask)
    tl.store(pointer + 1, high.to(tl.int64, bitcast=True), mask=mask)


@triton.jit
def load_words(place, left, aligned, active):
    """Load two words of two tokens each, the first one low; tokens from number `left` on are 0.

    If `aligned` is not 0, every place is a multiple of 16 bytes, and `left` is at least 4: one load for all four.
    """
    each = tl.arange(0, 4)[None, :]
    if aligned != 0:
        four = tl.load(tl.multiple_of(place[:, None] + each, [16, 16]), mask=active[:, None] & (each >= 0), other=0)
    else:
        four = tl.load(place[:, None] + each, mask=active[:, None] & (each < left), other=0)
    halves = tl.reshape(four.to(tl.uint32, bitcast=True).to(tl.uint64), [four.shape[0], 2, 2])
    low, high = tl.split(halves)
    return tl.split(low | (high << 32))


@triton.jit
def block_values(
    tokens,
    first,
    extras,
    has_extras,
    aligned,
    active,
    keys,
    SIZE: tl.constexpr,
    SUM: tl.constexpr,
    TOKENS_FROM: tl.constexpr,
):
    """Compute v of each lane's block, which begins at `first`; `extras` points to its digest and flag, if any."""
    zero = (first ^ first).to(tl.uint64, bitcast=True)
    count = zero + SIZE
    if has_extras != 0:
        flag = load_word(extras + 2, active)
        count = count | (flag << 63)
    low_high, low_low = add_product(zero, zero, count, load_word(keys, True))
    high_high, high_low = add_product(zero, zero, count, load_word(keys + 1, True))
    if has_extras != 0:
        for word in tl.static_range(2):
            digest = load_word(extras + word, active)
            limb = keys + 2 * (1 + word)
            low_high, low_low = add_product(low_high, low_low, digest, load_word(limb, True))
            high_high, high_low = add_product(high_high, high_low, digest, load_word(limb + 1, True))
    v_high, v_low = zero, zero
    used = TOKENS_FROM
    for four in range(0, SIZE, 4):
        even, odd = load_words(tokens + first + four, SIZE - four, aligned, active)
        for pair in tl.static_range(2):
            both = odd if pair else even
            if used == SUM:
                part_high, part_low = reduced(low_high, low_low, high_high, high_low)
                v_high, v_low = plus(v_high, v_low, part_high, part_low)
                low_high, low_low, high_high, high_low = zero, zero, zero, zero
                used = 0
            limb = keys + 2 * (TOKENS_FROM + four // 2 + pair)
            inside = four + 2 * pair < SIZE
            low_high, low_low = add_product(low_high, low_low, both, load_word(limb, inside))
            high_high, high_low = add_product(high_high, high_low, both, load_word(limb + 1, inside))
            used += 1
    part_high, part_low = reduced(low_high, low_low, high_high, high_low)
    return plus(v_high, v_low, part_high, part_low)


@triton.jit
def prefixes_of(v_high, v_low, powers, lane, LANES: tl.constexpr):
    """Compute s of the prefixes that end with each lane, as if nothing preceded the first."""
    inverse_high, inverse_low = load_element(powers + 2 * (LANES + 1 + lane), lane >= 0)
    u_high, u_low = times(v_high, v_low, inverse_high, inverse_low)
    sum_high, sum_low = tl.associative_scan((u_high, u_low), 0, plus)
    power_high, power_low = load_element(powers + 2 * lane, lane >= 0)
    return times(sum_high, sum_low, power_high, power_low)


@kernel()
def values_kernel(
    tokens,
    tile_tokens,
    tile_blocks,
    tile_counts,
    extras,
    keys,
    powers,
    out,
    sums,
    out_stride: tl.int64,
    has_extras: tl.int32,
    aligned: tl.int32,
    SIZE: tl.constexpr,
    SUM: tl.constexpr,
    TOKENS_FROM: tl.constexpr,
    LANES: tl.constexpr,
):
    """For each tile, write s of its prefixes, as if nothing preceded them, to `out`, and the last one to `sums`.

    tokens int32; tile_tokens int64 [tiles]: first token; tile_blocks int64: first block in out and extras;
    tile_counts int32: number of blocks, at most LANES; out int64 [blocks, out_stride]; sums int64 [tiles, 2].
    """
    tile = tl.program_id(0)
    lane = tl.arange(0, LANES)
    count = tl.load(tile_counts + tile)
    block = tl.load(tile_blocks + tile) + lane
    active = lane < count
    first = tl.load(tile_tokens + tile) + lane.to(tl.int64) * SIZE
    v_high, v_low = block_values(
        tokens, first, extras + 3 * block, has_extras, aligned, active, keys, SIZE, SUM, TOKENS_FROM
    )
    high, low = prefixes_of(v_high, v_low, powers, lane, LANES)
    store_element(out + block * out_stride, high, low, active)
    store_element(sums + 2 * tile + lane * 0, high, low, lane == count - 1)


@kernel()
def carries_kernel(sums, states, begins, ends, powers, LANES: tl.constexpr):
    """For each prompt, replace `sums` by s of what precedes each of its tiles.

    states int64 [prompts, 2]: s before the prompt; begins, ends int64 [prompts]: span of its tiles; powers: powers of
    the point to the power of TILE.
    """
    prompt = tl.program_id(0)
    begin, end = tl.load(begins + prompt), tl.load(ends + prompt)
    lane = tl.arange(0, LANES)
    front_high, front_low = load_element(states + 2 * prompt, True)
    while begin < end:
        active = begin + lane < end
        v_high, v_low = load_element(sums + 2 * (begin + lane), active)
        high, low = prefixes_of(v_high, v_low, powers, lane, LANES)
        power_high, power_low = load_element(powers + 2 * (lane + 1), lane >= 0)
        more_high, more_low = times(
            front_high + (power_high ^ power_high), front_low + (power_low ^ power_low), power_high, power_low
        )
        high, low = plus(high, low, more_high, more_low)
        # Each tile gets the value with which the previous tile ends.
        store_element(sums + 2 * (begin + lane + 1), high, low, active & (lane < LANES - 1) & (begin + lane + 1 < end))
        store_element(sums + 2 * begin + lane * 0, front_high + (high ^ high), front_low + (low ^ low), lane == 0)
        last = lane == LANES - 1
        front_high = tl.sum(tl.where(last, high, high ^ high), 0)
        front_low = tl.sum(tl.where(last, low, low ^ low), 0)
        begin += LANES


@kernel()
def mix_kernel(
    tile_blocks,
    tile_counts,
    sums,
    powers,
    mix_keys,
    out,
    out_stride: tl.int64,
    NUM_ROUNDS: tl.constexpr,
    LANES: tl.constexpr,
):
    """For each tile, replace what `values_kernel` wrote to `out` by hashes."""
    tile = tl.program_id(0)
    lane = tl.arange(0, LANES)
    active = lane < tl.load(tile_counts + tile)
    row = out + (tl.load(tile_blocks + tile) + lane) * out_stride
    high, low = load_element(row, active)
    front_high, front_low = load_element(sums + 2 * tile, True)
    power_high, power_low = load_element(powers + 2 * (lane + 1), lane >= 0)
    more_high, more_low = times(front_high + (high ^ high), front_low + (low ^ low), power_high, power_low)
    high, low = plus(high, low, more_high, more_low)
    high, low = canonical(high, low)
    for place in range(NUM_ROUNDS):
        key = load_word(mix_keys + place, True)
        high = (((high >> 8) | (high << 56)) + low) ^ key
        low = ((low << 3) | (low >> 61)) ^ high
    store_element(row, high, low, active)


def launch_prefix_hash(
    tokens: Any,
    tiles: tuple[Any, Any, Any],
    spans: tuple[Any, Any],
    extras: Any,
    keys: Any,
    powers: Any,
    tile_powers: Any,
    mix_keys: Any,
    states: Any,
    sums: Any,
    out: Any,
    size: int,
    aligned: bool,
) -> None:
    """Start the three kernels on the current stream; if there are no tiles, launch nothing.

    Args:
        tokens: int32 [n].
        tiles: int64 [tiles] first tokens, int64 first blocks, int32 counts.
        spans: Two arrays int64 [prompts]: first tile of each prompt, and the tile after its last.
        extras: int64 [blocks, 3], digest and flag of each block, or None if there are no extra keys.
        keys: int64 [words, 2].
        powers, tile_powers: Powers of the point, and of the point to the power of TILE.
        mix_keys: int64 [rounds].
        states: int64 [prompts, 2].
        sums: int64 [tiles, 2], scratch memory.
        out: int64 [blocks, >= 2], written.
        size: Tokens of a block; the kernels are compiled for each size.
        aligned: Whether every block begins at a multiple of 16 bytes and has a multiple of 4 tokens.
    """
    first_tokens, first_blocks, counts = tiles
    if not len(counts):
        return
    grid = (len(counts),)
    values_kernel[grid](
        tokens,
        first_tokens,
        first_blocks,
        counts,
        sums if extras is None else extras,
        keys,
        powers,
        out,
        sums,
        out.stride(0),
        int(extras is not None),
        int(aligned),
        SIZE=size,
        SUM=SUM_WORDS,
        TOKENS_FROM=TOKEN_WORDS,
        LANES=TILE,
        num_warps=WARPS,
    )
    carries_kernel[(len(states),)](
        sums, states, spans[0], spans[1], tile_powers, LANES=CARRIED, num_warps=CARRIED_WARPS
    )
    mix_kernel[grid](
        first_blocks,
        counts,
        sums,
        powers,
        mix_keys,
        out,
        out.stride(0),
        NUM_ROUNDS=len(mix_keys),
        LANES=TILE,
        num_warps=WARPS,
    )
